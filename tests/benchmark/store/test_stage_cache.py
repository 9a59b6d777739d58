"""The stage cache: whole entries or none, damage found, no double work, clear errors when it cannot write."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sidbench.benchmark.runtime.reporter import Notes, Reporter
from sidbench.benchmark.store.cache_entries import MANIFEST
from sidbench.benchmark.store.stage_cache import Stage, StageCache, Traced
from sidbench.datasets.foundation.errors import InputError, StageError


def number_stage(calls: list[str], value: int = 7, **depends: Any) -> Stage[int]:
    def compute(_: Path) -> int:
        calls.append("x")
        return value

    def save(number: int, folder: Path) -> None:
        (folder / "v.json").write_text(json.dumps(number))

    return Stage("number", {"value": value, **depends}, compute, save, lambda f: int(json.loads((f / "v.json").read_text())))


def test_computed_once_and_read_after(tmp_path: Path) -> None:
    calls: list[str] = []
    cache = StageCache(tmp_path, Reporter())
    made, read = cache.trace(number_stage(calls)), cache.trace(number_stage(calls))
    assert made.value == read.value == cache.run(number_stage(calls)) == 7
    assert calls == ["x"]
    (first,), (second,) = made.stages, read.stages
    assert (first.cached, second.cached) == (False, True)
    assert first.model_dump(exclude={"cached"}) == second.model_dump(exclude={"cached"})  # cost is that of the computation


def test_key_depends_on_name_and_inputs_not_on_order() -> None:
    calls: list[str] = []
    a, b = number_stage(calls, x=1, y=2), number_stage(calls, y=2, x=1)
    assert a.key == b.key != number_stage(calls, x=1, y=3).key
    assert Stage("other", a.depends, a.compute, a.save, a.load).key != a.key


@pytest.mark.parametrize("damage", ["flip", "remove", "manifest"])
def test_damaged_entry_is_set_aside_and_recomputed(tmp_path: Path, damage: str) -> None:
    calls: list[str] = []
    reporter = Notes()
    cache = StageCache(tmp_path, reporter)
    stage = number_stage(calls)
    cache.run(stage)
    target = cache.folder(stage) / (MANIFEST if damage == "manifest" else "v.json")
    if damage == "remove":
        target.unlink()
    else:
        target.write_text("8" if damage == "flip" else "{")
    again = cache.trace(stage)
    assert again.value == 7 and again.warnings == reporter.warnings
    assert len(calls) == 2
    assert (tmp_path / "number" / f"{stage.key}.damaged-1").is_dir()
    assert "was damaged" in reporter.warnings[0]


def test_failed_stage_leaves_no_entry(tmp_path: Path) -> None:
    def explode(_: Path) -> int:
        raise StageError("boom")

    cache = StageCache(tmp_path, Reporter())
    stage = number_stage([])
    with pytest.raises(StageError, match="boom"):
        cache.run(Stage(stage.name, stage.depends, explode, stage.save, stage.load))
    assert not cache.folder(stage).exists()
    assert cache.run(stage) == 7


def test_full_disk_is_named(tmp_path: Path) -> None:
    def full(_: int, folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = StageCache(tmp_path, Reporter())
    stage = number_stage([])
    with pytest.raises(StageError, match="is full .* finished stages are kept"):
        cache.run(Stage(stage.name, stage.depends, stage.compute, full, stage.load))
    assert sorted(p.suffix for p in (tmp_path / "number").iterdir()) in ([], [".lock"])


def test_unwritable_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, StageError), match="SIDBENCH_HOME"):
        StageCache(tmp_path / "file" / "below", Reporter()).run(number_stage([]))


def test_warnings_of_a_cached_stage_come_back(tmp_path: Path) -> None:
    stage = number_stage([])

    def compute(_: Path) -> Traced[int]:
        return Traced(7, ("something was truncated",))

    warned: Stage[int] = Stage(stage.name, stage.depends, compute, stage.save, stage.load)
    for attempt in ("computed", "cached"):
        shown = Notes()
        found = StageCache(tmp_path, shown).trace(warned)
        assert found.value == 7 and found.stages[0].cached == (attempt == "cached")
        assert found.warnings == shown.warnings == ("something was truncated",)


def test_a_warning_of_several_stages_belongs_to_each_and_is_shown_once(tmp_path: Path) -> None:
    class Counting(Reporter):
        def __init__(self) -> None:
            self.said: list[str] = []

        def warn(self, message: str) -> None:
            self.said.append(message)

    shown = Counting()
    cache = StageCache(tmp_path, shown)
    for value in (7, 8):
        stage = number_stage([], value)
        warned: Stage[int] = Stage(
            stage.name, stage.depends, lambda _, v=value: Traced(v, ("careful",)), stage.save, stage.load
        )
        assert cache.trace(warned).warnings == ("careful",)
    assert shown.said == ["careful"]
    assert StageCache(tmp_path, Reporter()).trace(number_stage([], 8)).warnings == ("careful",)


def _slow(root: str, log: str) -> None:
    def compute(_: Path) -> int:
        with open(log, "a") as handle:
            handle.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return 7

    stage = number_stage([])
    StageCache(Path(root), Reporter()).run(Stage(stage.name, stage.depends, compute, stage.save, stage.load))


def test_two_processes_compute_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [context.Process(target=_slow, args=(str(tmp_path / "cache"), str(log))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1
