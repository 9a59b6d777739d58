"""The runtime of one stage: its notes and logs are its own, the machine is everybody's."""

from __future__ import annotations

import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Notes, Reporter
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.datasets.foundation.runtime import TrainingPlan
from sidbench.datasets.foundation.seeds import Rng


class Shown(Reporter):
    """What a user would see."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(f"warning: {message}")


def plan(name: str, validations: list[float], used: float = 1.0) -> TrainingPlan:
    model = torch.nn.Linear(2, 1)
    values = iter(validations)
    return TrainingPlan(
        name,
        model,
        steps_per_epoch=2,
        epochs=len(validations),
        batch=lambda epoch, index: torch.ones(3, 2),
        loss=lambda batch, step: model(batch).mean(),
        rng=Rng(0),
        validate=lambda: next(values),
        monitor=lambda: {"utilisation": used},
        monitor_every=1,
    )


def test_logs_and_warnings_belong_to_one_stage(runtime: LocalRuntime) -> None:
    shown = Shown()
    first, second = (StageRuntime(runtime, shown) for _ in range(2))
    log = first.train(plan("one", [0.1, 0.3], used=0.01))
    second.train(plan("two", [0.2]))
    second.warn("careful")
    second.warn("careful")
    assert first.logs == {"one": log} and list(second.logs) == ["two"]
    assert len(first.warnings) == 1 and "codebook collapse" in first.warnings[0]
    assert second.warnings == ("careful",)
    assert shown.said == [f"warning: {first.warnings[0]}", "warning: careful"]  # at once, and once
    assert first.device == runtime.device and first.process_group is runtime.process_group
    assert runtime.reporter is not first.reporter  # the runtime of the command is as it was


def test_only_the_watched_stage_is_heard_and_what_a_watch_raises_ends_its_training(runtime: LocalRuntime) -> None:
    heard: list[tuple[int, float]] = []

    def watch(epoch: int, value: float) -> None:
        heard.append((epoch, value))
        if epoch == 2:
            raise KeyError("enough")

    StageRuntime(runtime).train(plan("unwatched", [0.9]))
    watched = StageRuntime(runtime, watch=watch)
    with pytest.raises(KeyError):
        watched.train(plan("watched", [0.1, 0.2, 0.3]))
    assert heard == [(1, 0.1), (2, 0.2)] and watched.logs == {}


def test_notes_pass_everything_on() -> None:
    shown = Shown()
    notes = Notes(shown)
    notes.line("one")
    notes.warn("two")
    notes.step(1, {"validation": 0.5, "epoch": 1})
    assert shown.said == ["one", "warning: two"] and notes.warnings == ("two",)
