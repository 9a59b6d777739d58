"""Data kept for the next run: found by its key, forgotten in turn, and all with its data set."""

from __future__ import annotations

from typing import Any

from sidbench.benchmark.stages.shared import KEPT, SharedData
from sidbench.benchmark.store.records import StageRecord
from sidbench.benchmark.store.stage_cache import Traced

COST = StageRecord(name="s", key="k", cached=False, wall_seconds=1.0, cpu_seconds=1.0, peak_memory_bytes=1)


def test_what_is_kept_is_made_once_and_said_to_be_cached() -> None:
    shared, made = SharedData(), list[str]()

    def make(name: str) -> Any:
        made.append(name)
        return Traced(name, ("careful",), (COST,))

    def data(name: str) -> Any:
        return shared.dataset(name, lambda: make(name))

    def features(name: str) -> Any:
        return shared.features(name, lambda: make(name))

    assert not data("d").stages[0].cached
    assert data("d").stages[0].cached and data("d").warnings == ("careful",)
    names = [f"f{i}" for i in range(KEPT)]
    for name in (*names, *names):
        assert features(name).value == name
    assert made == ["d", *names]
    features("new")  # the one that was not asked for the longest goes
    assert features(names[-1]).stages[0].cached and not features(names[0]).stages[0].cached
    made.clear()
    data("e")
    data("d")
    features(names[0])
    assert made == ["e", "d", names[0]]  # with a data set goes what was made of it


def test_a_failure_is_not_kept() -> None:
    shared, calls = SharedData(), list[int]()

    def fail() -> Any:
        calls.append(1)
        raise ValueError("no file")

    for _ in range(2):
        try:
            shared.dataset("d", fail)
        except ValueError:
            continue
    assert len(calls) == 2
