"""Runs in worker processes of this machine, which divide its threads and GPUs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch

from sidbench.benchmark.launchers.base import RETRIES, LaunchSettings, Outcome
from sidbench.benchmark.launchers.queueing import Task, judge, tasks
from sidbench.benchmark.launchers.worker import Exit, Started, grace_ends, start
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.reporter import Reporter

_POLL_SECONDS = 0.1


@dataclass
class _Slot:
    """A place for one worker at a time. gpus: what CUDA shall show it, "" for everything."""

    gpus: str
    task: Task | None = None
    worker: Started | None = None
    kills: int = 0


class LocalLauncher:
    """A worker that is killed (out of memory, ``kill -9``) is started again once."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def map(self, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        queue = tasks(specs, settings, self.reporter)
        slots = [_Slot(gpus) for gpus in _gpus(settings)]
        again: deque[tuple[Task, int]] = deque()
        more = True
        try:
            while more or again or any(slot.worker for slot in slots):
                for slot in (s for s in slots if s.worker is None):
                    if again:
                        self._start(slot, *again.popleft())
                        continue
                    item = next(queue, None)
                    more = item is not None
                    if isinstance(item, Outcome):
                        yield item
                    elif item is not None:
                        self._start(slot, item, 0)
                for slot in slots:
                    done = slot.worker.exit() if slot.worker else None
                    if slot.task is not None and done is not None:
                        slot.worker = None
                        if done.signal_name and slot.kills < RETRIES:
                            self._tell_kill(slot.task, done)
                            again.append((slot.task, slot.kills + 1))
                        else:
                            yield judge(slot.task, done)
                time.sleep(_POLL_SECONDS)
        finally:
            _stop([slot.worker for slot in slots if slot.worker is not None])

    def _start(self, slot: _Slot, task: Task, kills: int) -> None:
        visible = {"CUDA_VISIBLE_DEVICES": slot.gpus} if slot.gpus else {}
        slot.worker = start(replace(task.work, environment={**task.work.environment, **visible}))
        slot.task, slot.kills = task, kills
        self.reporter.line(f"{task.spec.label}: started, log {task.work.log}")

    def _tell_kill(self, task: Task, done: Exit) -> None:
        self.reporter.line(f"{task.spec.label}: the worker was killed by {done.signal_name}; it is started again")


def _gpus(settings: LaunchSettings) -> list[str]:
    """What each of ``jobs`` workers sees: GPUs dealt out in turn, everything where there is at most one."""
    n = torch.cuda.device_count() if settings.device != "cpu" else 0
    if n < 2:
        return [""] * settings.jobs
    return [visible_gpu(slot, n) for slot in range(settings.jobs)]


def visible_gpu(slot: int, n: int) -> str:
    """The GPU of a slot by the name that CUDA knows it under, where the user shows ``n`` of them."""
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return shown[slot % n] if len(shown) >= n else str(slot % n)


def _stop(workers: Sequence[Started]) -> None:
    """Interrupt all, wait for their checkpoints, kill what is left."""
    for worker in workers:
        worker.interrupt()
    deadline = grace_ends()
    for worker in workers:
        worker.end(deadline)
