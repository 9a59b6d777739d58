"""A record and its repetition: what counts as equal, explained or different, and the command from end to end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.config.compose import compose_run
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.runs.replay import later_settings, replay
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    TaskRecord,
    read_record,
)
from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.publish.verification import key_problems, number_problems
from sidbench.leaderboards.reproduction.rerun import DIFFERS, EQUAL, EXPLAINED, compare_records, render_repetition

RUN = {
    "dataset": "synthetic",
    "tokenizer": "random",
    "recommenders": ["mtp"],
    "seed": 3,
    "budget": "smoke",
    "ties": "file",
    "cutoffs": [5, 10],
}
TINY = ["dataset.n_items=60", "dataset.n_users=80", "behaviour.epochs=1"]


def _record(value: float = 0.25, entropy: float = 3.0, sids: str = "s", **changed: Any) -> RunRecord:
    where = EnvironmentRecord(
        device="cpu x2",
        precision="fp32",
        threads=1,
        allocator="default",
        python="3.11",
        versions={"torch": "2.0"},
        git_commit="a",
        git_dirty=False,
        code="c",
        command_line=("bench",),
        platform="linux",
    )
    task = TaskRecord(
        task="retrieval",
        recommender=PluginRecord(name="mtp", config={"width": 64}, code="r"),
        protocol={"split": "leave_last_out", "ties": "file", "cutoffs": [5, 10]},
        metrics={"item_recall_at_10": Metric(value=value, n=9)},
        users_file="u.parquet",
        users_hash="",
        comparability_key="k",
        protocol_key="p",
    )
    table = SidsRecord(
        code_length=6,
        sizes=(100,),
        ordered=True,
        mean_active=6.0,
        content_hash=sids,
        file="sids.parquet",
        metrics={"entropy": Metric(value=entropy, n=9)},
    )
    record = RunRecord(
        run_id="run",
        created="2025-01-01T00:00:00",
        budget="smoke",
        seed=3,
        features=None,
        dataset=DatasetRecord(name="synthetic", config={"n_items": 60}, content_hash="d", counts={}),
        tokenizer=PluginRecord(name="random", config={"code_length": 5}, code="t"),
        sids=table,
        tasks=(task,),
        comparability_key="k",
        protocol_key="p",
        stages=(),
        environment=where,
    )
    return record.model_copy(update=changed)


def test_equal_numbers_are_equal_up_to_the_tolerance() -> None:
    assert compare_records(_record(), _record()).verdict == EQUAL
    assert compare_records(_record(), _record(0.25 + 5e-7)).verdict == EQUAL
    found = compare_records(_record(), _record(0.25 + 5e-6))
    assert found.verdict == DIFFERS and [n.metric for n in found.beyond] == ["item_recall_at_10"]
    assert compare_records(_record(), _record(0.25 + 5e-6), 1e-5).verdict == EQUAL


def test_other_codes_differ_although_every_number_agrees() -> None:
    assert compare_records(_record(), _record(sids="other")).verdict == DIFFERS


def test_differences_beside_changed_code_are_explained() -> None:
    changed = _record(0.3)
    other = changed.model_copy(update={"environment": changed.environment.model_copy(update={"code": "d"})})
    found = compare_records(_record(), other)
    assert found.verdict == EXPLAINED and found.causes == (("code of the suite", "c", "d"),)
    assert "no proof of a fault" in render_repetition(found, "md")


def test_a_number_that_one_run_lacks_is_no_agreement() -> None:
    task = _record().tasks[0]
    found = compare_records(_record(), _record(tasks=(task.model_copy(update={"metrics": {}}),)))
    assert found.verdict == DIFFERS and found.beyond[0].repeated is None


def test_every_format_names_every_number() -> None:
    found = compare_records(_record(), _record(0.3))
    lines = list(csv.DictReader(io.StringIO(render_repetition(found, "csv"))))
    numbers = json.loads(render_repetition(found, "json"))["numbers"]
    assert [(x["metric"], x["within_tolerance"]) for x in lines] == [("entropy", "1"), ("item_recall_at_10", "0")]
    assert [n["difference"] for n in numbers] == [0.0, pytest.approx(0.05)]
    assert "| retrieval | item_recall_at_10 | 0.250000 | 0.300000 | +5.00e-02 **≠** |" in render_repetition(found, "md")


def test_a_record_is_composed_from_its_own_settings() -> None:
    record = _record(run=RUN)
    found = replay(record)
    config = found.config
    assert (config.dataset, config.tokenizer, config.recommenders, config.seed) == ("synthetic", "random", ("mtp",), 3)
    assert (config.ties, config.cutoffs, config.budget, config.threads) == ("file", (5, 10), "smoke", 1)
    spec = found.spec(record, None, "always", ("bench",))
    assert spec.preset is not None
    composed = compose_run(spec.config, spec.overrides, preset=spec.preset.groups)
    assert composed.tokenizer.code_length == 5 and composed.dataset.n_items == 60 and composed.retriever.width == 64
    assert any("tokenizer.codebook_size came with a later release" in s for s in later_settings(composed, found.groups))


def test_a_record_without_run_settings_is_refused() -> None:
    with pytest.raises(InputError, match="no run settings"):
        replay(_record())


def test_settings_of_a_later_release_are_refused() -> None:
    with pytest.raises(InputError, match="colour"):
        replay(_record(run={"dataset": "synthetic", "colour": 1}))


def test_settings_of_foreign_types_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="run settings of record run"):
        replay(_record(run={"dataset": "synthetic", "cutoffs": ["a", 3]}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mmq-v3"], "mmq-v2"),
        (["./nowhere/record.json"], "no such file"),
        (["mmq-v2", "--table", "7"], "--table"),
        (["mmq-v2", "--cached"], "--cached"),
        (["grid", "--recommender", "mtp"], "--recommender"),
        (["mmq-v2", "--ties", "random"], "--ties"),
        (["mmq-v2", "--format", "xml"], "--format"),
        (["mmq-v2", "--records", "/nonexistent"], "--records"),
    ],
)
def test_bad_requests_say_what_is_wanted(
    arguments: list[str], words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke(["reproduce", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_reproduces_itself_and_a_tampered_record_does_not(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.invoke(
            [
                "run",
                "--tokenizer",
                "rqkmeans",
                "--dataset",
                "synthetic",
                "--budget",
                "smoke",
                "--threads",
                "1",
                "--recommender",
                "mtp",
                "tokenizer.codebook_size=8",
                *TINY,
            ]
        )
        == 0
    )
    path = next((home / "runs").glob("*/record.json"))
    before = path.read_text()
    record = read_record(before)
    assert record.run["ties"] == "shuffled" and record.run["recommenders"] == ["mtp"]
    # The rules that `--check` holds published records to are those by which the pipeline writes them.
    assert key_problems(record) == [] and number_problems(StoredRun(record, path.parent)) == []
    capsys.readouterr()
    assert cli.invoke(["reproduce", record.run_id[:20], "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == EQUAL and found["sids_equal"] and not found["causes"] and len(found["numbers"]) > 50
    assert path.read_text() == before, "a repetition must leave the record alone"
    raw = json.loads(before)
    raw["tasks"][0]["metrics"]["item_recall_at_10"]["value"] += 0.01
    (tmp_path / "record.json").write_text(json.dumps(raw))
    assert cli.invoke(["reproduce", str(tmp_path), "--cached", "--out", str(tmp_path / "out")]) == 1
    assert "**≠**" in next((tmp_path / "out").glob("*.md")).read_text()


@pytest.mark.slow
def test_a_paper_runs_what_is_missing_and_nothing_twice(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "reproduce",
        "mmq-v2",
        "--table",
        "4",
        "--dataset",
        "synthetic",
        "--budget",
        "smoke",
        "--threads",
        "1",
        "--recommender",
        "none",
        "tokenizer.codebook_size=8",
        *TINY,
    ]
    assert cli.invoke([*words, "--no-run"]) == 0
    text = capsys.readouterr().out
    assert "tokenizer.alpha=20.0" in text and not (home / "runs").exists()
    assert cli.invoke([*words, "--out", str(tmp_path / "out")]) == 0
    ids = {p.parent.name: p.stat().st_mtime_ns for p in (home / "runs").glob("*/record.json")}
    assert len(ids) == 4
    assert "ours on synthetic: other data" in (tmp_path / "out" / "mmq-v2.md").read_text()
    assert cli.invoke([*words, "--records", str(home / "runs")]) == 0
    assert "Rows without a run" not in capsys.readouterr().out
    assert cli.invoke(words) == 0
    assert {p.parent.name: p.stat().st_mtime_ns for p in (home / "runs").glob("*/record.json")} == ids
