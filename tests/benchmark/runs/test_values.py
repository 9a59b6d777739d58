"""A run as a function of values: plan, result, record and folder, each by itself."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.launchers.base import LaunchSettings
from sidbench.benchmark.launchers.inline import InlineLauncher
from sidbench.benchmark.plugins.code_hash import ROOT
from sidbench.benchmark.runs import plan as plans
from sidbench.benchmark.runs.environment import environment
from sidbench.benchmark.runs.folder import RunFolder
from sidbench.benchmark.runs.plan import look_up, plan_run
from sidbench.benchmark.runs.recording import build_record, result_files
from sidbench.benchmark.runs.run import complete, execute, run_spec
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.process_group import ProcessGroup
from sidbench.benchmark.runtime.reporter import Notes
from sidbench.benchmark.store.failures import read_note
from sidbench.datasets.foundation.errors import InputError, SidbenchError
from sidbench.tokenizers.random import RandomCodes

LIGHT = (
    "dataset.n_items=60",
    "dataset.n_users=60",
    "dataset.picture_size=0",
    "features.vision=none",
    "features.behaviour=none",
    "tokenizer.codebook_size=8",
    "tokenizer.code_length=2",
)


def spec(seed: int = 0, **more: Any) -> RunSpec:
    config = RunConfig(tokenizer="random", recommenders=("mtp",), seed=seed, budget="smoke", threads=1)
    given: dict[str, Any] = {"overrides": (*LIGHT, "retriever.epochs=1"), **more}
    return RunSpec(config, **given)


def codes(seed: int = 0, **more: Any) -> RunSpec:
    """A run that makes SIDs and no more."""
    return RunSpec(dataclasses.replace(spec(seed).config, recommenders=()), **{"overrides": LIGHT, **more})


def test_the_same_plan_gives_the_same_result_and_the_same_record(home: Path, runtime: LocalRuntime) -> None:
    plan = plan_run(spec(), runtime)
    where = environment(runtime, ("bench",))

    def record() -> Any:
        result = execute(plan)
        files = result_files(plan, result)
        first, second = (build_record(plan, result, files, where, "2026-01-01T00:00:00+00:00") for _ in range(2))
        assert first == second and set(files) == {"sids.parquet", "users_retrieval.parquet"}
        return first

    first, second = record(), record()
    assert [s.cached for s in first.stages] == [False] * len(first.stages)
    assert first.model_dump(exclude={"stages"}) == second.model_dump(exclude={"stages"})
    assert [s.key for s in first.stages] == [s.key for s in second.stages]
    assert not (home / "runs").exists()  # values only: nothing was written but the cache


def test_a_complete_run_is_found_again_and_leaves_nothing_beside_it(home: Path, runtime: LocalRuntime) -> None:
    record = complete(plan_run(spec(), runtime))
    assert [p.name for p in (home / "runs").iterdir()] == [record.run_id]
    known = look_up(plan_run(spec(), runtime))
    assert known.record == record and known.run_id == record.run_id
    assert look_up(plan_run(spec(rerun="always"), runtime)).record is None
    elsewhere = plan_run(spec(), runtime, runs=home / "reruns")
    assert elsewhere.run_id == record.run_id and look_up(elsewhere).record is None


def test_run_spec_follows_the_rules_of_rerun(home: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SidbenchError("no luck")

    run_id = plan_run(spec(), runtime).run_id
    with monkeypatch.context() as patch:
        patch.setattr(RandomCodes, "fit", fail)
        with pytest.raises(SidbenchError, match="no luck"):
            run_spec(spec(), runtime)
    assert read_note(run_id) == "no luck" and not list((home / "runs").iterdir())
    with pytest.raises(SidbenchError, match="no luck .failed before and not tried again"):
        run_spec(spec(rerun="never"), runtime)
    made = run_spec(spec(), runtime)
    assert not made.before and read_note(run_id) is None
    again = run_spec(spec(rerun="never"), runtime)
    assert again.before and again.record == made.record


def test_warnings_are_values_and_come_back_from_the_cache(
    home: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RandomCodes.fit

    def warning(self: RandomCodes, features: Any, rng: Any, runtime: Any) -> Any:
        runtime.warn("codes are random")
        return plain(self, features, rng, runtime)

    with monkeypatch.context() as patch:
        patch.setattr(RandomCodes, "fit", warning)
        computed = run_spec(spec(), runtime).record
    assert computed.warnings == ("codes are random",)
    shown = Notes()
    cached = run_spec(codes(), LocalRuntime("cpu", threads=1, reporter=shown)).record
    assert {s.name: s.cached for s in cached.stages}["tokenizer"]
    assert cached.warnings == shown.warnings == ("codes are random",)  # they belong to the codes, whoever reads them
    unwarned = run_spec(spec(seed=1), runtime).record
    assert unwarned.warnings == ()  # and to no other run of the process


def test_a_grid_prepares_data_and_features_once(home: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, work: Any) -> Any:
        def count(*arguments: Any) -> Any:
            calls.append(name)
            return work(*arguments)

        return count

    for name in ("dataset_stage", "prepare", "build_features"):
        monkeypatch.setattr(plans, name, counted(name, getattr(plans, name)))

    def run(*specs: RunSpec) -> list[Any]:
        calls.clear()
        outcomes = list(InlineLauncher(runtime).map(specs, LaunchSettings()))
        assert not any(o.failure for o in outcomes)
        return [o.record for o in outcomes]

    first, second, third = run(codes(0), codes(1), codes(2))
    assert sorted(calls) == ["build_features", "dataset_stage", "prepare"]
    shared = ("dataset", "content")
    assert {s.name: s.cached for s in first.stages if s.name in shared} == dict.fromkeys(shared, False)
    for record in (second, third):
        assert {s.name: s.cached for s in record.stages if s.name in shared} == dict.fromkeys(shared, True)
    assert [s.name for s in first.stages] == [s.name for s in third.stages]
    other = (*LIGHT, "features.text_dim=8")
    run(codes(3), codes(3, overrides=other), codes(4), codes(4, overrides=other))
    assert sorted(calls) == ["build_features", "build_features", "dataset_stage", "prepare"]
    larger = tuple(o.replace("n_users=60", "n_users=61") for o in LIGHT)
    run(codes(5), codes(5, overrides=larger), codes(6))
    assert calls.count("dataset_stage") == calls.count("build_features") == 3  # one data set stays in memory
    run(codes(0, rerun="always"), codes(1, rerun="always"))
    assert calls.count("dataset_stage") == calls.count("build_features") == 2  # anew means anew


def test_a_folder_is_whole_or_not_there(tmp_path: Path, home: Path, runtime: LocalRuntime) -> None:
    record = complete(plan_run(spec(), runtime))
    folder = RunFolder(tmp_path / "runs" / record.run_id, ProcessGroup())
    assert folder.read().value is None
    with pytest.raises(KeyError), folder.reserved():
        assert [p.name for p in (tmp_path / "runs").iterdir()] == [folder.temporary.name]
        raise KeyError
    assert list((tmp_path / "runs").iterdir()) == []
    folder.write(record, {"a.bin": b"1"})
    later = record.model_copy(update={"warnings": ("later",)})
    folder.write(later, {"b.bin": b"2"})
    assert folder.read().value == later
    assert sorted(p.name for p in folder.path.iterdir()) == ["b.bin", "record.json"]
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [record.run_id]
    (folder.path / "record.json").write_text("{")
    damaged = folder.read()
    assert damaged.value is None and "could not be read" in damaged.warnings[0]
    (folder.path / "record.json").write_text(record.model_dump_json().replace('"schema_version":1', '"schema_version":99'))
    with pytest.raises(InputError, match="update sidbench"):
        folder.read()


def test_a_process_that_does_not_lead_writes_nothing(tmp_path: Path, home: Path, runtime: LocalRuntime) -> None:
    record = complete(plan_run(spec(), runtime))
    follower = ProcessGroup()
    follower._all = (1, 2)
    folder = RunFolder(tmp_path / "runs" / record.run_id, follower)
    with folder.reserved():
        folder.write(record, {})
    assert not (tmp_path / "runs").exists()


def test_at_most_seven_files_lie_between_the_command_and_the_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []
    plain = RandomCodes.fit

    def looking(self: RandomCodes, *arguments: Any) -> Any:
        found.extend(Path(frame.filename).resolve() for frame in traceback.extract_stack())
        return plain(self, *arguments)

    monkeypatch.setattr(RandomCodes, "fit", looking)
    words = ["run", "--tokenizer", "random", "--recommender", "none", "--budget", "smoke", "--json", "--threads", "1"]
    assert cli.invoke([*words, *LIGHT]) == 0
    room = ROOT / "benchmark"
    passed = list(dict.fromkeys(str(path.relative_to(room)) for path in found if path.is_relative_to(room)))
    assert passed[0] == "cli/app.py" and passed[-1] == "store/stage_cache.py"
    assert len(passed) <= 7, passed


def test_a_baseline_has_neither_features_nor_sids(home: Path, runtime: LocalRuntime) -> None:
    config = RunConfig(tokenizer=None, recommenders=("most_popular",), budget="smoke", threads=1)
    plan = plan_run(RunSpec(config, tuple(o for o in LIGHT if not o.startswith("tokenizer."))), runtime)
    result = execute(plan)
    assert result.features is result.tokenized is result.quantisation is None
    assert [task.name for task in result.tasks] == ["most_popular"]
    assert np.isfinite(result.tasks[0].numbers.metrics["item_recall_at_10"].value)
    assert {s.name for s in result.stages} == {"dataset", "retrieval.fit", "retrieval.evaluate"}
