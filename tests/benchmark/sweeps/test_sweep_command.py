"""`bench sweep` on a tiny planted catalogue: whole path, resume after a kill, refusals, presets, export."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.config.presets import Preset, find_preset, read_preset
from sidbench.benchmark.plugins.registry import find
from sidbench.benchmark.sweeps.request import SweepRequest
from sidbench.benchmark.sweeps.results import load_result
from sidbench.benchmark.sweeps.tuned import chosen_trial, write_tuned
from sidbench.datasets.foundation.errors import InputError

TINY = [
    "--dataset",
    "synthetic",
    "--budget",
    "smoke",
    "--threads",
    "1",
    "dataset.n_items=160",
    "dataset.n_users=60",
    "dataset.picture_size=0",
    "features.vision=none",
    "behaviour.epochs=1",
    "retriever.epochs=2",
]
OPQ = ["--tokenizer", "opq", *TINY, "tokenizer.codebook_size=choice(4,8,16)", "tokenizer.code_length=choice(2,3,4)"]


def sweep(*words: str) -> int:
    return invoke(["sweep", *words])


def test_options_and_commands_both_parse(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("status") == 0 and "no sweeps yet" in capsys.readouterr().out
    assert sweep("best", "nothing") == 2 and "unknown sweep" in capsys.readouterr().err
    for words, part in (
        (["--tokenizer", "adasd"], "did you mean 'adasid'"),
        (["--tokenizer", "none"], "no settings to search"),
        (["--objective", "ndgc"], "did you mean 'ndcg'"),
        (["--pruner", "best"], "unknown pruner"),
        (["--objective", "auc"], "wanted one for the ranking task"),
        (["--search", "dataset"], "--search"),
        (["--name", "../up"], "--name"),
        (["--storage", "nonsense"], "database URL"),
        (["tokenizer.alpha=interval(5,200)", *TINY], "values from 0 to 100"),
    ):
        assert sweep(*words) == 2, words
        assert part in capsys.readouterr().err, words


def test_a_request_survives_the_way_to_another_process() -> None:
    request = SweepRequest(("opq",), "synthetic", ("mtp",), 3, seeds=(0, 1), overrides=("tokenizer.k=choice(1,2)",))
    assert SweepRequest.of(json.loads(json.dumps(asdict(request)))) == request


@pytest.mark.slow
def test_a_sweep_from_options_to_the_row_of_its_preset(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*OPQ, "--trials", "4", "--json") == 0
    study = json.loads(capsys.readouterr().out)["studies"][0]
    assert study["finished"] == 4 and study["default"]["number"] == 0 and study["seconds"] > 0
    assert study["best"]["values"][0] >= study["default"]["values"][0] and study["improvement"] >= 0
    assert study["space"]["tokenizer.codebook_size"] == "choice(100,4,8,16)"
    assert not list((home / "cache").glob("*.evaluate"))  # no stage that reads test data has run

    name = study["study"]
    assert sweep("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["studies"][0]["trials"]["complete"] == study["trials"]["complete"]
    for form in ("json", "csv"):
        assert sweep("export", name, "--out", str(tmp_path / f"study.{form}")) == 0
    exported = json.loads((tmp_path / "study.json").read_text())
    rows = list(csv.DictReader((tmp_path / "study.csv").open()))
    assert [t["number"] for t in exported["trials"]] == [int(r["trial"]) for r in rows] == list(range(len(rows)))
    assert "worker" not in exported["trials"][0]["facts"] and os.uname().nodename not in (tmp_path / "study.csv").read_text()
    assert exported["trials"][0]["intermediate"]["1"] <= max(exported["trials"][0]["facts"]["curves"]["0"])
    capsys.readouterr()

    assert sweep("apply", name) == 0
    preset = find_preset(find("tokenizer", "opq"), "synthetic", "tuned")
    assert isinstance(preset, Preset) and name in preset.source and "4 trials" in preset.source
    assert study["data_hash"][:12] in preset.source and preset.effort == {
        "trials": 4.0,
        "seconds": pytest.approx(study["seconds"], abs=0.2),
    }
    best = {n.partition(".")[2]: v for n, v in study["best"]["parameters"].items()}
    assert dict(preset.settings) == best and "retriever.epochs=2" in preset.note
    capsys.readouterr()
    assert invoke(["run", "--tokenizer", "opq", "--preset", "tuned", "--recommender", "mtp", "--json", *TINY]) == 0
    record = json.loads(capsys.readouterr().out)["records"][0]
    assert {n: record["tokenizer"]["config"][n] for n in best} == best
    assert record["tokenizer"]["effort"]["trials"] == 4 and "sweep" in record["tokenizer"]["settings_source"]
    cached = {s["name"]: s["cached"] for s in record["stages"]}
    assert cached["tokenizer"] and cached["retrieval.fit"]  # the row trains nothing: the sweep did

    assert sweep(*OPQ, "--trials", "4", "tokenizer.code_length=choice(2,3,5)") == 2  # another space
    error = capsys.readouterr().err
    assert "made for something else" in error and "--name" in error and "choice(" in error
    without = [word for word in OPQ if not word.startswith("retriever.")]
    assert (
        sweep(
            *without,
            "--trials",
            "1",
            "--objective",
            "collision_rate,code_bits",
            "--recommender",
            "none",
            "--name",
            "front",
            "--json",
        )
        == 0
    )
    front = json.loads(capsys.readouterr().out)["studies"][0]
    assert front["best"] is None and len(front["front"]) == 1 and front["study"] == "front"
    with pytest.raises(InputError, match="--trial with one of 0"):
        chosen_trial(load_result("front"), None)
    assert write_tuned(load_result("front"), chosen_trial(load_result("front"), 0), tmp_path / "presets").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.nightly)])
def test_a_killed_sweep_goes_on(
    workers: str, home: Path, wait_until: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tokenizer", "opq", *TINY, "--trials", "3", "tokenizer.codebook_size=choice(4,8,16)", "--json"]
    start = [sys.executable, "-m", "sidbench.benchmark.cli.app", "sweep", *words, "--workers", workers, "--threads", workers]
    first = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: list((home / "cache" / "tokenizer").glob("*/stage.json")), 180, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the sweep waits for a trial that nobody runs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(200)
    try:
        assert sweep(*words) == 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    study = json.loads(capsys.readouterr().out)["studies"][0]
    assert study["finished"] == 3 == study["trials"]["complete"] + study["trials"]["pruned"]
    states = load_result(study["study"]).states
    assert not states.running and len(states.followed) >= 1  # what was running was tried again


@pytest.mark.slow
def test_several_tokenizers_get_the_same_number_of_trials_and_one_that_cannot_stops_no_other(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = [word for word in TINY if not word.startswith("retriever.")]
    assert (
        sweep(
            "--tokenizer",
            "opq,rqkmeans,random",
            *cheap,
            "--trials",
            "3",
            "--recommender",
            "none",
            "--objective",
            "collision_rate",
            "tokenizer.code_length=choice(2,3,4)",
            "--seconds",
            "500",
            "--json",
        )
        == 0
    )
    studies = json.loads(capsys.readouterr().out)["studies"]
    assert [s["tokenizer"] for s in studies] == ["opq", "rqkmeans", "random"]
    assert [s["finished"] for s in studies] == [3, 3, 3] and len({s["data_hash"] for s in studies}) == 1
    assert (
        sweep(
            "--tokenizer",
            "rvq,opq",
            *cheap,
            "--trials",
            "1",
            "--recommender",
            "none",
            "--objective",
            "code_bits",
            "--name",
            "mine",
            "tokenizer.optimiser=choice(count_sgd,adamw)",
            "--json",
        )
        == 1
    )
    out, err = capsys.readouterr()
    assert [s["study"] for s in json.loads(out)["studies"]] == ["mine-rvq"] and "failed: opq" in err


@pytest.mark.slow
def test_recommender_settings_are_searched_and_stand_in_the_preset(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--tokenizer", "opq", *TINY, "--trials", "2", "--search", "recommender", "--seeds", "0,1", "--json") == 0
    study = json.loads(capsys.readouterr().out)["studies"][0]
    assert all(n.startswith("retriever.") for n in study["space"]) and study["best"] is not None
    assert set(study["best"]["measured"]) == {"0", "1"}
    mean = sum(m["ndcg"] for m in study["best"]["measured"].values()) / 2
    assert study["best"]["values"][0] == pytest.approx(mean)
    result = load_result(study["study"])
    path = write_tuned(result, chosen_trial(result, None), None)
    content, preset = tomllib.loads(path.read_text()), read_preset(path)
    assert set(content) == {"source", "note", "recommender", "effort"} and set(content["recommender"]) == {"mtp"}
    found = {n.partition(".")[2]: v for n, v in study["best"]["parameters"].items()}
    assert preset.groups_for(("mtp",)) == {"retriever": found} and preset.groups_for(("tiger", "ppnet")) == {}


def test_a_preset_of_ones_own_is_not_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "presets" / "opq" / "synthetic" / "tuned.toml"
    path.parent.mkdir(parents=True)
    path.write_text('source = "by hand"\n[tokenizer]\ncode_length = 2\n')
    from optuna.trial import TrialState, create_trial

    from sidbench.benchmark.sweeps.results import StudyResult
    from sidbench.benchmark.sweeps.trial_states import read_trial_states

    trial = create_trial(state=TrialState.COMPLETE, value=0.5)
    attributes = {
        "tokenizer": "opq",
        "dataset": "synthetic",
        "fixed": ["tokenizer.code_length=3"],
        "recommenders": ["mtp"],
        "collisions": "append",
        "default": {},
        "objectives": ["ndcg"],
        "seeds": [0],
        "budget": "smoke",
        "data_hash": "0123456789abcdef",
    }
    result = StudyResult("s", attributes, read_trial_states([trial]), trial, trial, (), (True,))
    with pytest.raises(InputError, match="not from a sweep"):
        write_tuned(result, trial, None)
    path.write_text('source = "sweep before"\n[tokenizer]\ncode_length = 2\n')
    written = read_preset(write_tuned(result, trial, None))
    assert dict(written.settings) == {"code_length": 3} and "--collisions append" in written.note
