"""Runs with a collision policy: the stage, the record, the table's label, and that no policy changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.store.records import RunRecord, SidsRecord
from sidbench.benchmark.store.serialization import load_resolved, save_resolved
from sidbench.leaderboards.board.store import read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.render.formats import render
from sidbench.tokenizers.base import PAD, SemanticIds
from sidbench.tokenizers.collisions.base import CollisionReport, Resolved

SMALL = [
    "run",
    "--dataset",
    "synthetic",
    "--budget",
    "smoke",
    "--threads",
    "1",
    "--tokenizer",
    "random",
    "--json",
    "tokenizer.code_length=2",
    "tokenizer.codebook_size=9",
    "features.vision=none",
    "features.behaviour=none",
    "dataset.n_users=120",
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> RunRecord:
    capsys.readouterr()
    given = {a.partition("=")[0] for a in arguments}
    code = invoke([*(a for a in SMALL if "=" not in a or a.partition("=")[0] not in given), *arguments])
    result = json.loads(capsys.readouterr().out)
    assert code == 0 and result["failed"] == [], result["failed"]
    return RunRecord.model_validate(result["records"][0])


def test_policies_make_rows_of_their_own_in_one_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(capsys)
    assert plain.sids is not None and plain.sids.collision_policy == "none" and plain.sids.collision_report == {}
    assert "collisions" not in {s.name for s in plain.stages} and "collision_rate_before" not in plain.sids.metrics
    sparse = run(capsys, "--collisions", "append-sparse")  # PAD for items that are alone: mtp and ppnet meet it
    assert sparse.sids is not None and sparse.sids.collision_policy == "append_sparse"
    assert sparse.sids.metrics["collision_rate_before"] == plain.sids.metrics["collision_rate"]
    assert sparse.sids.metrics["collision_rate"].value == 0 == sparse.sids.collision_report["collision_rate_after"]
    assert sparse.sids.code_length == 3 and 2 < sparse.sids.mean_active <= 3
    assert sparse.metric("auc", "ranking") is not None
    assert sparse.comparability_key == plain.comparability_key and sparse.run_id != plain.run_id
    cached = {s.name for s in sparse.stages if s.cached}
    assert {"tokenizer", "sids"} <= cached and not {"collisions", "retrieval.fit"} & cached
    codes = np.array(pl.read_parquet(home / "runs" / sparse.run_id / "sids.parquet")["codes"].to_list())
    assert (
        codes.shape[1] == 3
        and len(np.unique(codes, axis=0)) == len(codes)
        and (codes[:, 2] == PAD).any() == (sparse.sids.mean_active < 3)
    )
    for buckets in (16, 32):  # the same policy with other settings is another row
        sids = sparse.sids.model_copy(update={"collision_policy": "hash_slot", "collision_config": {"buckets": buckets}})
        copied = sparse.model_copy(update={"sids": sids, "run_id": f"copy-{buckets}"})
        shutil.copytree(home / "runs" / sparse.run_id, home / "runs" / copied.run_id)
        (home / "runs" / copied.run_id / "record.json").write_text(copied.model_dump_json())
    board = build_tables(read_runs(home / "runs"))
    assert len(board.tables) == 1 and not board.superseded
    names = {(row.name, row.settings) for row in board.tables[0].measured.rows}
    assert names == {
        ("random", ""),
        ("random +append_sparse", ""),
        ("random +hash_slot", "buckets=16"),
        ("random +hash_slot", "buckets=32"),
    }
    assert "| random +append_sparse" in render(board, "md")


def test_moving_policies_say_where_costs_come_from_and_failures_name_the_policy(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(
        capsys, "--collisions", "reassign", "--recommender", "mtp", "tokenizer.codebook_size=60", "tokenizer.code_length=1"
    )
    sids = record.sids
    assert sids is not None and sids.collision_costs == "estimated"
    assert any("still share a SID" in note for note in sids.collision_notes)
    board = build_tables(read_runs(home / "runs"))
    assert any("reassign" in note and "still share" in note for note in board.tables[0].notes)
    capsys.readouterr()
    arguments = [*SMALL, "--recommender", "mtp", "--seed", "0,1", "--collisions", "hash_slot", "collisions.buckets=1"]
    assert invoke(arguments) == 1
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert [f["run"] for f in failed] == [f"synthetic · smoke · random +hash_slot · mtp · seed {n}" for n in (0, 1)]
    assert "set collisions.buckets=" in failed[0]["error"] and "--collisions hash_slot" in failed[0]["command"]


def test_a_missing_modality_fails_its_row_only(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [a for a in SMALL if not a.startswith("tokenizer.")]
    arguments[arguments.index("random")] = "adasid,random"
    assert invoke([*arguments, "--recommender", "mtp"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert [r["tokenizer"]["name"] for r in result["records"]] == ["random"]
    failed = result["failed"][0]
    assert failed["run"] == "synthetic · smoke · adasid · mtp · seed 0" and "behaviour" in failed["error"]


def test_collision_settings_are_checked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([*SMALL, "--collisions", "hash_slot", "collisions.bukets=3"]) == 2
    assert "did you mean 'buckets'" in capsys.readouterr().err
    assert invoke([*SMALL, "run.collisions=append"]) == 2
    assert "use --collisions" in capsys.readouterr().err


def test_records_without_collision_fields_still_load() -> None:
    old = {
        "code_length": 2,
        "sizes": [4, 4],
        "ordered": True,
        "mean_active": 2.0,
        "content_hash": "x",
        "file": "f",
        "metrics": {},
    }
    assert SidsRecord.model_validate(old).collision_policy == "none"


def test_resolved_round_trip(tmp_path: Path) -> None:
    sids = SemanticIds(np.array([[0, PAD]], np.int32), np.array([2, 3], np.int32), True)
    made = Resolved(sids, CollisionReport(0.5, 0.25, 3, None, 0.1, -4, 0, "tokenizer", ("a", "b")))
    save_resolved(made, tmp_path)
    back = load_resolved(tmp_path)
    assert back.report == made.report and np.array_equal(back.sids.codes, sids.codes)
