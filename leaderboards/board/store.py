"""Reading what runs left behind: records and per-user results. Nothing unreadable is left out in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from sidbench.benchmark.store.paths import RECORD_NAME
from sidbench.benchmark.store.records import RunRecord, TaskRecord, read_record
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import canonical_json
from sidbench.datasets.foundation.paths import inside
from sidbench.leaderboards.board.compact import expand, stratum_labels, units_of
from sidbench.leaderboards.board.recorded_versions import Plugin, versions_of

DISAGREE = 1e-5  # relative; per-user columns are float32, so their mean is not the recorded number to the last digit


@dataclass(frozen=True)
class StoredRun:
    """A record and the folder that holds it and its per-user files."""

    record: RunRecord
    folder: Path

    @cached_property
    def row(self) -> str:
        """What makes two runs of a table the same row, see ``identity``."""
        return identity(self.record)

    @cached_property
    def versions(self) -> Mapping[Plugin, str]:
        """The versions of its plugins, see ``versions_of``."""
        return versions_of(self.record)

    def file(self, name: str) -> Path:
        """The file ``name`` of the record, which need not exist. Raises ``InputError`` for one outside the run's folder."""
        return inside(self.folder, name, f"record {self.record.run_id}")

    def task(self, name: str | None) -> TaskRecord | None:
        """The run's record of one task."""
        return next((t for t in self.record.tasks if t.task == name), None)


@dataclass(frozen=True)
class Skipped:
    """A record file that could not be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Store:
    """Every run found, in order of creation, and what could not be read."""

    runs: tuple[StoredRun, ...]
    skipped: tuple[Skipped, ...] = ()

    def of_dataset(self, name: str) -> Store:
        """Only the runs on one dataset."""
        return replace(self, runs=tuple(r for r in self.runs if r.record.dataset.name == name))


def read_runs(folder: Path) -> Store:
    """All records below ``folder`` (``<run id>/record.json``); unreadable ones are returned with their reason."""
    runs, skipped = [], []
    for path in sorted(folder.glob(f"[!.]*/{RECORD_NAME}")):  # dot folders are runs being written
        try:
            runs.append(StoredRun(read_record(path.read_text(encoding="utf-8")), path.parent))
        except (OSError, ValueError) as error:  # wrong encoding and UnreadableRecord are ValueErrors
            skipped.append(Skipped(path, one_line(error)))
    return Store(tuple(sorted(runs, key=lambda r: (r.record.created, r.record.run_id))), tuple(skipped))


def one_line(error: BaseException) -> str:
    """The message of an exception on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def identity(record: RunRecord) -> str:
    """What makes two records the same row: tokenizer and collision policy or, for baselines, the recommenders, with all
    settings."""
    if record.tokenizer is not None:
        policy = None if record.sids is None else [record.sids.collision_policy, record.sids.collision_config]
        return canonical_json([record.comparability_key, record.tokenizer.name, record.tokenizer.config, policy])
    recommenders = [[t.recommender.name, t.recommender.config] for t in record.tasks]
    return canonical_json([record.comparability_key, recommenders])


def newest(runs: Sequence[StoredRun]) -> tuple[list[StoredRun], tuple[str, ...]]:
    """The newest record of every (row, seed), of the newest versions only, and the ids of the records this replaces.

    Seeds of different versions must not be averaged, so a row is what its latest versions give. ``runs`` are in order
    of creation.
    """
    versions = {r.row: r.versions for r in runs}  # later entries replace earlier ones
    latest = {(r.row, r.record.seed): r for r in runs if r.versions == versions[r.row]}
    kept = {r.record.run_id for r in latest.values()}
    return list(latest.values()), tuple(r.record.run_id for r in runs if r.record.run_id not in kept)


def read_users(run: StoredRun, task: str, wanted: Collection[str]) -> dict[str, np.ndarray] | str:
    """The columns ``wanted`` of a task's per-user file, ``user`` as strings; or the reason why there are none.

    Full and compact files (``leaderboards/board/compact.py``) give the same columns; those a file lacks are left out.
    ``stratum``: int8 labels of ``benchmark/metrics/strata.py``, from the flags ``in_head`` ... where the file has those.
    """
    entry = run.task(task)
    if entry is None or not entry.users_file:
        return "no per-user file"
    names = {*wanted, "user"}
    try:
        path = run.file(entry.users_file)
        units = units_of(path)
        if units is not None:
            columns = expand(entry, path, units, names)
            # Anonymous numbers sort as the keys they stand for, so that resamples of users are the same.
            columns["user"] = np.char.zfill(columns["user"].astype(str), 10)
        else:
            columns = _full_columns(path, names)
    except (OSError, ValueError, LookupError, pyarrow.ArrowException, InputError) as error:
        return one_line(error)
    if "user" not in columns:
        return f"{path.name} has no column `user`"
    broken = [n for n, values in columns.items() if values.dtype.kind == "f" and not np.isfinite(values).all()]
    if broken:
        return f"{path.name} holds NaN or infinite numbers in {', '.join(sorted(broken))}"
    columns["user"] = columns["user"].astype(str)
    return columns


def _full_columns(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    present = pyarrow.parquet.read_schema(path).names
    flags = [n for n in present if n.startswith("in_")] if "stratum" in names and "stratum" not in present else []
    table = pyarrow.parquet.read_table(path, columns=[n for n in present if n in names or n in flags])
    columns = {name: table[name].to_numpy() for name in table.column_names}
    labels = stratum_labels(columns) if flags else None
    if labels is not None:
        columns["stratum"] = labels
    return {name: values for name, values in columns.items() if name in names}
