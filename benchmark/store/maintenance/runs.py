"""Finished runs as people look at them: the state of their files, and their removal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from sidbench.benchmark.store.paths import RECORD_NAME
from sidbench.benchmark.store.records import RunRecord, SidsRecord
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file
from sidbench.datasets.foundation.paths import leaves_folder

MATCHES, DIFFERS, MISSING, UNREADABLE, UNNAMED = "matches", "DIFFERS", "MISSING", "UNREADABLE", "not named by the record"


@dataclass(frozen=True)
class RunFile:
    """A file of a run's folder. state: how it compares with the hash on the record."""

    name: str
    n_bytes: int
    state: str


def run_files(record: RunRecord, folder: Path) -> list[RunFile]:
    """Every file that the record names or that lies in the folder, compared with the record's hashes."""
    states = {RECORD_NAME: MATCHES}
    for task in record.tasks:
        if task.users_file:
            states[task.users_file] = _state(folder, task.users_file, task.users_hash)
    if record.sids is not None:
        states[record.sids.file] = _sids_state(folder, record.sids)
    present = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [*states, *(name for name in present if name not in states)]
    return [RunFile(n, (folder / n).lstat().st_size if n in present else 0, states.get(n, UNNAMED)) for n in names]


def _state(folder: Path, name: str, digest: str) -> str:
    if leaves_folder(name) or not (folder / name).is_file():
        return MISSING
    return MATCHES if hash_file(folder / name) == digest else DIFFERS


def _sids_state(folder: Path, sids: SidsRecord) -> str:
    """The record holds the hash of the codes, not of the file, so that formats may change."""
    if leaves_folder(sids.file) or not (folder / sids.file).is_file():
        return MISSING
    try:
        column = pyarrow.parquet.read_table(folder / sids.file, columns=["codes"])["codes"]
        codes = np.asarray(column.combine_chunks().flatten(), dtype=np.int32).reshape(-1, sids.code_length)
    except (OSError, ValueError, pyarrow.ArrowException):
        return UNREADABLE
    sizes = np.asarray(sids.sizes, dtype=np.int32)
    return MATCHES if hash_arrays({"codes": codes, "sizes": sizes}) == sids.content_hash else DIFFERS


def find_run(runs: Path, text: str) -> Path:
    """The folder of the run whose id is ``text`` or the only one that begins with it; its record need not be readable.

    Raises ``InputError`` for an unknown or ambiguous id.
    """
    known = [p for p in sorted(runs.glob("[!.]*")) if p.is_dir() and not p.is_symlink()] if runs.is_dir() else []
    found = [p for p in known if p.name == text] or [p for p in known if text and p.name.startswith(text)]
    if len(found) > 1:
        raise InputError(
            f"run {text!r}",
            got=f"{len(found)} runs: {', '.join(p.name for p in found[:5])}",
            wanted="the beginning of one run id",
            do="write more of the id",
        )
    if not found:
        raise unknown_name("run", text, [p.name for p in known], do="run `bench runs ls`")
    return found[0]


def remove_runs(folders: Sequence[Path]) -> None:
    """Delete runs: each is renamed first, so that a reader finds a whole run or none, also when this is killed.

    Raises ``InputError`` when the folder of runs cannot be written.
    """
    for folder in folders:
        gone = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        with storing("bench runs rm", folder.parent):
            os.replace(folder, gone)
            shutil.rmtree(gone)
