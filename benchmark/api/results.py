"""The results of runs: a sequence of finished runs, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

import pandas as pd

from sidbench.benchmark.api.boards import Board, board_of, failed_html
from sidbench.benchmark.api.frames import Shape, runs_frame
from sidbench.benchmark.api.homes import at_home
from sidbench.benchmark.api.versions import installed_versions
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.store.paths import runs_folder
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.board.store import Store, StoredRun, read_runs
from sidbench.leaderboards.board.table import build_tables

if TYPE_CHECKING:  # results of earlier runs are read without torch
    from sidbench.benchmark.launchers.base import Outcome


@dataclass(frozen=True)
class FinishedRun:
    """One run that came to an end, with a record or with the reason why it has none.

    label: the run in one line. record: everything about it, ``None`` where it failed. folder: where its files lie.
    reason: why it failed, "" where it did not. reused: the record was there before.
    """

    label: str
    record: RunRecord | None = field(default=None, repr=False)
    folder: Path | None = field(default=None, repr=False)
    reason: str = ""
    reused: bool = False

    def sids(self) -> pd.DataFrame:
        """SIDs of the run: item key, codes (-1 = PAD) and, where the method has them, weights."""
        stored = self.stored()
        if stored.record.sids is None:
            raise InputError(f"SIDs of {self.label}", got="a run without tokenizer", wanted="a run with one")
        return pd.read_parquet(stored.file(stored.record.sids.file))

    def users(self, task: str) -> pd.DataFrame:
        """Per-user results of ``task``, "retrieval" or "ranking": what every number of it can be recomputed from."""
        entry = self.stored().task(task)
        if entry is None:
            raise InputError(f"users of {self.label}", got=f"no task {task!r}", wanted="a task of this run")
        return pd.read_parquet(self.stored().file(entry.users_file))

    def stored(self) -> StoredRun:
        """Record and folder together. Raises ``InputError`` with the reason for a run that failed."""
        if self.record is None or self.folder is None:
            raise InputError(f"run {self.label}", got=f"a failure: {self.reason}", wanted="a run with a record")
        return StoredRun(self.record, self.folder)


@dataclass(frozen=True)
class Results(Sequence[FinishedRun]):
    """Finished runs in their order; an index gives one, a slice ``Results``.

    folder: the runs folder of their home, whose controls join their tables. whole: they are all runs of that folder, so
    rows of older code are marked, as ``bench leaderboard`` does.
    """

    runs: tuple[FinishedRun, ...]
    folder: Path
    whole: bool = False

    @overload
    def __getitem__(self, index: int) -> FinishedRun: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> FinishedRun | Results:
        return Results(self.runs[index], self.folder) if isinstance(index, slice) else self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[FinishedRun]:
        return iter(self.runs)

    @property
    def failed(self) -> tuple[FinishedRun, ...]:
        """The runs without a record, each with its reason."""
        return tuple(run for run in self.runs if run.record is None)

    def to_frame(self, shape: Shape = "wide") -> pd.DataFrame:
        """One row per run ("wide") or per number ("long": ``metric``, ``value``, ``n``, ``low``, ``high``).

        Metrics are named as in ``docs/metrics.md``. A failed run has a row with its reason in the column ``failed``.
        """
        return runs_frame([(run.label, run.record, run.reason) for run in self.runs], shape)

    def leaderboard(self) -> Board:
        """The tables that ``bench run`` prints of these runs: seeds averaged, intervals, ranks, controls of the same
        conditions beside them. Raises ``InputError`` when no run has a record."""
        own = {run.record.run_id: run.stored() for run in self.runs if run.record is not None}
        if not own:
            raise InputError("leaderboard", got="no run with a record", wanted="at least one", do="see Results.failed")
        keys = {run.record.comparability_key for run in own.values()}
        controls = [r for r in read_runs(self.folder).runs if r.record.control and r.record.comparability_key in keys]
        every = {run.record.run_id: run for run in controls} | own
        store = Store(tuple(sorted(every.values(), key=lambda r: (r.record.created, r.record.run_id))))
        board = build_tables(store, installed_versions(store.runs) if self.whole else None, controls=installed().controls())
        return board_of(board, [(run.label, run.reason) for run in self.failed])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html() + failed_html([(run.label, run.reason) for run in self.failed])

    def __repr__(self) -> str:
        lines = [f"<Results: {len(self) - len(self.failed)} runs, {len(self.failed)} failed>"]
        return "\n".join([*lines, *(f"  failed: {run.label}: {run.reason}" for run in self.failed)])


def from_outcomes(outcomes: Iterable[Outcome]) -> Results:
    """What a launcher gave, for runs of this home."""
    folder = runs_folder().absolute()
    return Results(
        tuple(
            FinishedRun(o.spec.label, reason="unknown" if o.failure is None else o.failure.error)
            if o.record is None
            else FinishedRun(o.spec.label, o.record, folder / o.record.run_id, reused=o.recorded)
            for o in outcomes
        ),
        folder,
    )


def results(home: str | Path | None = None) -> Results:
    """All records of a home (``None``: ``$SIDBENCH_HOME`` or the user's data folder), oldest first.

    A record that cannot be read is there as a failed run, with the reason.
    """
    with at_home(home):
        folder = runs_folder().absolute()
    store = read_runs(folder)
    read = [FinishedRun(r.record.run_id, r.record, r.folder, reused=True) for r in store.runs]
    lost = [FinishedRun(str(s.path), reason=f"unreadable record: {s.reason}") for s in store.skipped]
    return Results((*read, *lost), folder, whole=True)
