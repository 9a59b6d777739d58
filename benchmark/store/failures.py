"""Runs that did not finish: what the summary says of them, and the notes that ``--rerun never`` reads.

A note is ``<home>/failures/<run id>.json``; it goes when the run succeeds.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidbench.benchmark.store.paths import home_folder
from sidbench.datasets.foundation.errors import SidbenchError
from sidbench.datasets.foundation.files import write_whole


@dataclass(frozen=True)
class Failure:
    """A run that did not finish: what it was, why, and the command that repeats it."""

    run: str
    error: str
    command: str


def cause(error: BaseException) -> str:
    """An exception in words: our own as they are, foreign ones with their type."""
    return str(error) if isinstance(error, SidbenchError) else f"{type(error).__name__}: {error}"


def note_path(run_id: str) -> Path:
    """Where the note of a failed run lies or will lie."""
    return home_folder() / "failures" / f"{run_id}.json"


def write_note(run_id: str, failure: Failure) -> None:
    """Remember a failure, whole or not at all. Where the failure is a disk that is full or cannot be written there is no
    note, and ``--rerun never`` tries the run again."""
    with suppress(OSError):
        write_whole(note_path(run_id), json.dumps(vars(failure)))


def read_note(run_id: str) -> str | None:
    """Why the run failed last time; ``None`` when it did not. A note that cannot be read says so instead."""
    path = note_path(run_id)
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"failed for a reason that cannot be read ({path}: {cause(error)})"
