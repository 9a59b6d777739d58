"""Progress for people: bars on a terminal, plain lines elsewhere, nothing in tests. Always on stderr.

A reporter also keeps the warnings of a run, because each of them must stand on the record.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 10.0


def _figures(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())


class Reporter:
    """Quiet reporter and base class: remembers messages and warnings, shows nothing."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def line(self, message: str) -> None:
        """One line of progress."""

    def warn(self, message: str) -> None:
        """Keep a warning once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def begin(self, name: str, total: int) -> None:
        """A training of ``total`` steps starts."""

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        """``done`` steps are finished; ``figures`` are live numbers (loss, utilisation, collision rate)."""

    def end(self) -> None:
        """The training is over."""


class PlainReporter(Reporter):
    """Lines on stderr, at most one every ten seconds while training."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._name, self._total, self._last = "", 0, 0.0

    def line(self, message: str) -> None:
        self._console.print(message, markup=False)

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self._console.print(f"warning: {message}", markup=False)
        super().warn(message)

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
