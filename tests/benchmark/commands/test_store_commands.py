"""`bench cache` and `bench runs` on a home with two runs that share a stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.store.cache_entries import partial_folder
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    TaskRecord,
)
from sidbench.benchmark.store.stage_cache import Stage, StageCache, traces
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file

CODES = np.asarray([[0, 1], [2, -1], [3, 3]], np.int32)
SIZES = np.asarray([4, 4], np.int32)


def stage(name: str, seed: int) -> Stage[int]:
    return Stage(
        name,
        {"seed": seed},
        lambda _: seed,
        lambda v, f: (f / "v.json").write_text(json.dumps(v)) and None,
        lambda f: int(json.loads((f / "v.json").read_text())),
    )


def finished_run(home: Path, run_id: str, seed: int) -> RunRecord:
    """A run as the pipeline leaves it: two cached stages, of which all runs share the first, and a folder with files."""
    cache = StageCache(home / "cache", Reporter())
    _, stages = traces(cache.trace(stage(name, depends)) for name, depends in (("dataset", 0), ("tokenizer", seed)))
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.table({"item": ["a", "b", "c"], "codes": pyarrow.array(CODES.tolist(), pyarrow.list_(pyarrow.int32()))}),
        folder / "sids.parquet",
    )
    (folder / "users_retrieval.parquet").write_bytes(b"users")
    metric = Metric(value=0.25, n=40, low=0.2, high=0.3)
    record = RunRecord(
        run_id=run_id,
        created=f"2026-01-01T00:00:0{seed}+00:00",
        budget="smoke",
        seed=seed,
        dataset=DatasetRecord(name="synthetic", config={}, content_hash="h" * 64, counts={"users": 40}),
        features=None,
        tokenizer=PluginRecord(name="rqvae", config={"codebook_size": 4}),
        sids=SidsRecord(
            code_length=2,
            sizes=(4, 4),
            ordered=True,
            mean_active=1.7,
            file="sids.parquet",
            content_hash=hash_arrays({"codes": CODES, "sizes": SIZES}),
            metrics={},
        ),
        tasks=(
            TaskRecord(
                task="retrieval",
                recommender=PluginRecord(name="mtp", config={}),
                protocol={},
                metrics={"item_recall_at_10": metric},
                undefined={"item_recall_at_99": "too deep"},
                users_file="users_retrieval.parquet",
                users_hash=hash_file(folder / "users_retrieval.parquet"),
                comparability_key="k",
                protocol_key="p",
            ),
        ),
        comparability_key="k",
        protocol_key="p",
        stages=stages,
        warnings=("beware",),
        environment=EnvironmentRecord(
            device="cpu",
            precision="fp32",
            threads=1,
            allocator="a",
            python="3.11",
            versions={},
            git_commit="",
            git_dirty=False,
            code="c",
            command_line=("bench", "run"),
            platform="p",
        ),
    )
    (folder / "record.json").write_text(record.model_dump_json())
    return record


@pytest.fixture
def store(home: Path) -> Path:
    """A home with runs of seeds 1 and 2 and a stage that no record needs."""
    for seed in (1, 2):
        finished_run(home, f"synthetic-rqvae-s{seed}-{seed * 'a'}", seed)
    StageCache(home / "cache", Reporter()).run(stage("tokenizer", 9))
    return home


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    got = cli.invoke(list(arguments))
    captured = capsys.readouterr()
    assert got == code, captured.err
    return captured.out if code == 0 else captured.out + captured.err


def values(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(said(capsys, *arguments, "--json", code=code))


# -- cache -------------------------------------------------------------------------------------------------------------
def test_ls_names_the_runs_that_need_an_entry(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {(e["stage"], len(e["runs"])): e for e in values(capsys, "cache", "ls")["entries"]}
    assert set(rows) == {("dataset", 2), ("tokenizer", 1), ("tokenizer", 0)}
    assert rows["dataset", 2]["runs"] == ["synthetic-rqvae-s1-a", "synthetic-rqvae-s2-aa"]
    assert rows["dataset", 2]["key"] == stage("dataset", 0).key
    assert 0 <= rows["tokenizer", 0]["seconds_since_use"] < 60
    text = said(capsys, "cache", "ls", "--stage", "tokenizer")
    assert stage("tokenizer", 9).key[:12] in text and stage("dataset", 0).key[:12] not in text
    assert "did you mean 'tokenizer'" in said(capsys, "cache", "ls", "--stage", "tokeniser", code=2)


def test_du_adds_up_to_what_lies_on_the_disk(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = stage("tokenizer", 5)
    partial = partial_folder(StageCache(store / "cache", Reporter()).folder(key))
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(bytes(1000))
    found = values(capsys, "cache", "du")
    assert found["bytes"] == sum(p.stat().st_size for p in (store / "cache").rglob("*") if p.is_file())
    assert {r["stage"]: (r["entries"], r["needed_entries"]) for r in found["stages"]} == {
        "dataset": (1, 1),
        "tokenizer": (3, 2),
    }
    assert {o["kind"]: (o["count"], o["bytes"]) for o in found["others"]} == {"partial": (1, 1000), "lock": (4, 0)}
    assert "1.0 kB" in said(capsys, "cache", "du")


def test_gc_keeps_what_records_need(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert values(capsys, "cache", "gc", "--unused")["removed"] == []  # used just now
    options = ("cache", "gc", "--unused", "--older-than", "0s", "--max-size", "1B")
    planned = values(capsys, *options, "--dry-run")
    assert [Path(r["path"]).name for r in planned["removed"]] == [stage("tokenizer", 9).key]
    assert (store / "cache" / "tokenizer" / stage("tokenizer", 9).key).exists()
    done = values(capsys, *options)
    assert done["removed"] == planned["removed"]
    assert not (store / "cache" / "tokenizer" / stage("tokenizer", 9).key).exists()
    assert "above --max-size: records need the rest" in said(capsys, *options)
    assert values(capsys, *options, "--force")["over_bytes"] == 0
    assert values(capsys, "cache", "ls")["entries"] == []
    assert "--older-than 7d" in said(capsys, "cache", "gc", "--older-than", "soon", code=2)


def test_verify_finds_and_repairs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "4 entries read, 0 damaged" in said(capsys, "cache", "verify")
    cache = StageCache(store / "cache", Reporter())
    (cache.folder(stage("tokenizer", 1)) / "v.json").write_text("7")
    os.rename(cache.folder(stage("tokenizer", 9)), cache.root / "tokenizer" / ("f" * 64))  # whole, but under a wrong key
    found = values(capsys, "cache", "verify", code=1)
    assert {d["key"]: d["reason"] for d in found["damaged"]} == {
        stage("tokenizer", 1).key: "v.json does not match its checksum",
        "f" * 64: "its manifest belongs to another key",
    }
    assert "2 damaged" in said(capsys, "cache", "verify", "--repair")
    assert values(capsys, "cache", "verify")["damaged"] == []
    assert cache.run(stage("tokenizer", 1)) == 1
    removed = values(capsys, "cache", "gc")["removed"]
    assert {r["why"] for r in removed} == {"damaged"} and len(removed) == 2


def test_an_empty_home(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert values(capsys, "cache", "ls")["entries"] == []
    assert values(capsys, "cache", "du")["bytes"] == 0
    assert values(capsys, "cache", "gc")["removed"] == []
    assert values(capsys, "cache", "verify")["damaged"] == []
    assert values(capsys, "runs", "ls")["runs"] == []
    assert "unknown run" in said(capsys, "runs", "show", "x", code=2)


# -- runs --------------------------------------------------------------------------------------------------------------
def test_runs_ls(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "runs" / "later").mkdir()
    (store / "runs" / "later" / "record.json").write_text(json.dumps({"schema_version": 2}))
    found = values(capsys, "runs", "ls")
    assert [r["run_id"] for r in found["runs"]] == ["synthetic-rqvae-s1-a", "synthetic-rqvae-s2-aa"]
    first = found["runs"][0]
    assert (first["tokenizer"], first["recommenders"], first["seed"]) == ("rqvae", ["mtp"], 1)
    assert first["headline"] == {"metric": "item_recall_at_10", "value": 0.25, "n": 40, "low": 0.2, "high": 0.3}
    assert first["bytes"] == sum(p.stat().st_size for p in (store / "runs" / "synthetic-rqvae-s1-a").iterdir())
    assert found["unreadable"] == [{"run_id": "later", "reason": "schema version 2, this release reads 1"}]
    assert "0.25 [0.2, 0.3] n=40" in said(capsys, "runs", "ls")
    assert "unknown dataset" in said(capsys, "runs", "ls", "--dataset", "beauty", code=2)


def test_runs_show_compares_files_with_their_hashes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store / "runs" / "synthetic-rqvae-s1-a"

    def states() -> dict[str, str]:
        return {f["name"]: f["state"] for f in values(capsys, "runs", "show", "synthetic-rqvae-s1")["files"]}

    assert states() == {"record.json": "matches", "users_retrieval.parquet": "matches", "sids.parquet": "matches"}
    text = said(capsys, "runs", "show", "synthetic-rqvae-s1")
    for part in (
        "codebook_size=4",
        "0.25 [0.2, 0.3] n=40",
        "item_recall_at_99",
        "too deep",
        "beware",
        "users 40",
        stage("tokenizer", 1).key[:12],
    ):
        assert part in text
    table = pyarrow.parquet.read_table(folder / "sids.parquet")
    swapped = table.set_column(1, "codes", table["codes"].take([1, 0, 2]))
    pyarrow.parquet.write_table(swapped, folder / "sids.parquet")
    (folder / "users_retrieval.parquet").unlink()
    (folder / "mine.txt").write_text("")
    assert states() == {
        "record.json": "matches",
        "users_retrieval.parquet": "MISSING",
        "sids.parquet": "DIFFERS",
        "mine.txt": "not named by the record",
    }
    (folder / "sids.parquet").write_bytes(b"PAR1")
    assert states()["sids.parquet"] == "UNREADABLE"


def test_runs_are_found_by_their_beginning(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "2 runs: synthetic-rqvae-s1-a, synthetic-rqvae-s2-aa" in said(capsys, "runs", "show", "syn", code=2)
    assert "did you mean 'synthetic-rqvae-s1-a'" in said(capsys, "runs", "show", "synthetic-rqvae-s3-a", code=2)
    record = store / "runs" / "synthetic-rqvae-s1-a" / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"schema_version": 3}))
    assert "schema version 3" in said(capsys, "runs", "show", "synthetic-rqvae-s1", code=2)


def test_runs_rm_asks_and_takes_all_or_none(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("synthetic-rqvae-s1", "synthetic-rqvae-s2")
    assert "add --yes" in said(capsys, "runs", "rm", *both, code=2)
    said(capsys, "runs", "rm", "synthetic-rqvae-s1", "synthetic-nothing", "--yes", code=2)
    assert len(list((store / "runs").iterdir())) == 2
    gone = values(capsys, "runs", "rm", *both, "--yes")["removed"]
    assert [r["run_id"] for r in gone] == ["synthetic-rqvae-s1-a", "synthetic-rqvae-s2-aa"]
    assert list((store / "runs").iterdir()) == []
    removed = values(capsys, "cache", "gc", "--unused", "--older-than", "0s")["removed"]
    assert len(removed) == 4  # nothing needs the stages now


def test_listing_and_collecting_import_nothing_heavy(store: Path) -> None:
    program = (
        "import sys; from sidbench.benchmark.cli.app import invoke\n"
        "for a in (['runs', 'ls'], ['cache', 'ls'], ['cache', 'du'], ['cache', 'gc'], ['cache', 'verify']):\n"
        "    assert invoke(a) == 0\n"
        "heavy = {'torch', 'polars', 'pandas', 'hydra', 'scipy', 'matplotlib', 'optuna'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_used_entries_are_remembered(store: Path) -> None:
    cache = StageCache(store / "cache", Reporter())
    manifest = cache.folder(stage("dataset", 0)) / "stage.json"
    os.utime(manifest, (1.0, 1.0))
    cache.run(stage("dataset", 0))
    assert time.time() - manifest.stat().st_mtime < 60


def test_the_commands_of_the_guide_run(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "store.md"
    commands = [line.split()[1:] for line in guide.read_text().splitlines() if line.startswith("    bench ")]
    assert len(commands) == 9
    for command in commands:
        said(capsys, *command)
