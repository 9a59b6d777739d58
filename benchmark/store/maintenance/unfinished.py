"""Runs without a record yet: being written, killed, or on their way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from sidbench.benchmark.store.maintenance.units import modified, path_bytes

_NAME = re.compile(r"\..+\.(\d+)(?:-\d+)?\.(?:tmp|old)")  # as RunFolder and remove_runs write them
CLOCK_SLACK = 2.0  # seconds by which a file's time may lie before the start of the process that wrote it


@dataclass(frozen=True)
class UnfinishedRun:
    """A folder beside the finished runs. modified: its latest change. since: when the process that writes it began, None
    when no process of this machine does. Times are seconds since the epoch."""

    path: Path
    n_bytes: int
    modified: float
    since: float | None


def unfinished_runs(home: Path) -> list[UnfinishedRun]:
    """Every such folder of a home, in ``<home>/runs`` and other folders of runs beside it."""
    found = []
    for path in sorted(home.glob("*/.*")):
        name = _NAME.fullmatch(path.name)
        if name is not None and path.is_dir() and not path.is_symlink():
            changed = modified(path)
            found.append(UnfinishedRun(path, path_bytes(path), changed, _writer_since(int(name[1]), changed)))
    return found


def _writer_since(process: int, changed: float) -> float | None:
    """When process ``process`` began; None when it is over, also where its number has gone to another one."""
    try:
        began = psutil.Process(process).create_time()
    except (psutil.Error, OverflowError):
        return None
    return began if began <= changed + CLOCK_SLACK else None
