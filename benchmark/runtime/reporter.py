"""Progress for people: bars on a terminal, plain lines elsewhere, nothing in tests. Always on stderr.

A reporter shows and keeps nothing. Warnings that must stand on a record are gathered by ``Notes``, which is made for one
piece of work (a stage, a run) and goes with it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 10.0


def _figures(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())


Watch = Callable[[int, float], None]  # hears of each validation: epoch and value


class Reporter:
    """Quiet reporter and base class: shows nothing."""

    def line(self, message: str) -> None:
        """One line of progress."""

    def warn(self, message: str) -> None:
        """A warning."""

    def begin(self, name: str, total: int) -> None:
        """A training of ``total`` steps starts."""

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        """``done`` steps are finished; ``figures`` are live numbers (loss, utilisation, collision rate)."""

    def end(self) -> None:
        """The training is over."""


class Notes(Reporter):
    """What one piece of work says: its warnings, each once, are gathered; everything is passed on to ``shown``.

    watch: hears of every validation of the trainings inside; what it raises ends the training.
    """

    def __init__(self, shown: Reporter | None = None, watch: Watch | None = None) -> None:
        self._shown, self._watch = shown or Reporter(), watch
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """In the order in which they were first said."""
        return tuple(self._warnings)

    def line(self, message: str) -> None:
        self._shown.line(message)

    def warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings[message] = None
            self._shown.warn(message)

    def begin(self, name: str, total: int) -> None:
        self._shown.begin(name, total)

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        self._shown.step(done, figures)
        if self._watch is not None and "validation" in figures:
            self._watch(int(figures["epoch"]), figures["validation"])

    def end(self) -> None:
        self._shown.end()


class PlainReporter(Reporter):
    """Lines on stderr, at most one every ten seconds while training."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._name, self._total, self._last = "", 0, 0.0

    def line(self, message: str) -> None:
        self._console.print(message, markup=False)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {message}", markup=False)

    def begin(self, name: str, total: int) -> None:
        self._name, self._total, self._last = name, total, time.monotonic()

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        if time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._last = time.monotonic()
            self.line(f"  {self._name} {done}/{self._total} {_figures(figures)}")


class BarReporter(PlainReporter):
    """A live bar on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, name: str, total: int) -> None:
        self.end()
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(name, total=total, figures="")

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, figures=_figures(figures))

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def default_reporter() -> Reporter:
    """Bars when stderr is a terminal, lines otherwise."""
    return BarReporter() if sys.stderr.isatty() else PlainReporter()
