"""Two rows side by side: everything that ``bench compare`` tells, from runs at hand or by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sidbench.benchmark.api.homes import at_home
from sidbench.benchmark.api.results import FinishedRun
from sidbench.benchmark.store.maintenance.runs import find_run
from sidbench.benchmark.store.paths import RECORD_NAME, runs_folder
from sidbench.benchmark.store.records import RunRecord, read_record
from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.board.comparability import incomparable_parts, settings, unequal
from sidbench.leaderboards.board.store import StoredRun, identity
from sidbench.leaderboards.board.table import row_name
from sidbench.leaderboards.compare.comparison import Comparison, compare_rows
from sidbench.leaderboards.compare.text import COMPARISON_FORMATS

Side = str | FinishedRun | Sequence[str | FinishedRun]


@dataclass(frozen=True)
class ComparedRows:
    """A comparison of two rows. values: all of it, as the leaderboards compute it."""

    values: Comparison

    def to_frame(self) -> pd.DataFrame:
        """One row per metric and stratum: both values, their difference with its 95 % interval, tests over users
        (``p``, and ``p_holm`` adjusted over all of them) and over seeds (``p_seeds``). Missing where there is none."""
        rows = []
        for line in self.values.lines:
            paired, seeds = line.paired, line.seeds
            rows.append(
                {
                    "task": line.task or "quantisation",
                    "metric": line.column.metric,
                    "stratum": line.stratum,
                    "left": line.left,
                    "right": line.right,
                    "difference": line.difference,
                    "low": None if paired is None else paired.low,
                    "high": None if paired is None else paired.high,
                    "p": None if paired is None else paired.test.p,
                    "p_holm": line.p_adjusted,
                    "n_users": None if paired is None else paired.n_users,
                    "p_seeds": None if seeds is None else seeds.p,
                }
            )
        return pd.DataFrame(rows)

    def to_markdown(self) -> str:
        """The page that ``bench compare`` prints."""
        return self.text("md")

    def text(self, form: str) -> str:
        """The comparison as "md", "csv" or "json"."""
        return COMPARISON_FORMATS[form](self.values)

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        return f"<ComparedRows {self.values.left_name} against {self.values.right_name}>"


def compare(left: Side, right: Side, *, force: bool = False, home: str | Path | None = None) -> ComparedRows:
    """Compare two rows, paired over the same users and items.

    left, right: a run of ``Results``, a run id (or the beginning of one, or a folder with a record), or a list of these:
    the seeds of one row. force: compare rows of different conditions all the same, with a warning on the result.
    home: where run ids are looked for. Raises ``InputError`` for unknown and failed runs, a side whose runs are no seeds
    of one row, one run on both sides, and rows of different comparability keys without ``force``.
    """
    with at_home(home):
        first, second = _row(left), _row(right)
    shared = {r.record.run_id for r in first} & {r.record.run_id for r in second}
    if shared:
        raise InputError("comparison", got=f"{', '.join(sorted(shared))} on both sides", wanted="two different rows")
    parts = incomparable_parts(first[0].record, second[0].record)
    if parts and not force:
        raise InputError(
            "two rows of different comparability keys",
            got="; ".join(parts),
            wanted="rows of one table",
            do="run one of them again with the other's settings, or compare all the same with --force (force=True)",
        )
    names = (row_name(first[0].record), row_name(second[0].record))
    return ComparedRows(compare_rows(first, second, names, parts))


def _row(side: Side) -> list[StoredRun]:
    """The runs of one side, in order of their seeds."""
    entries = [side] if isinstance(side, (str, FinishedRun)) else list(side)
    runs = [_run(entry) if isinstance(entry, str) else entry.stored() for entry in entries]
    if not runs:
        raise InputError("run", got=repr(side), wanted="run ids", do="list them with `bench runs ls`")
    lead = runs[0].record
    for run in runs[1:]:
        if identity(run.record) != identity(lead):
            differ = unequal(_row_settings(lead), _row_settings(run.record))
            raise InputError(
                f"runs {lead.run_id} and {run.record.run_id} on one side",
                got=f"rows that differ in {', '.join(differ) or 'their comparability keys'}",
                wanted="seeds of one row",
                do="give them as two sides",
            )
    seeds = [r.record.seed for r in runs]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds of {lead.run_id}", got=", ".join(map(str, seeds)), wanted="every seed once")
    return sorted(runs, key=lambda r: r.record.seed)


def _row_settings(record: RunRecord) -> dict[str, Any]:
    return {k: v for k, v in settings(record).items() if k not in ("environment", "sids")}


def _run(text: str) -> StoredRun:
    folder = Path(text).expanduser()
    if not (folder / RECORD_NAME).is_file():
        folder = find_run(runs_folder(), text)
    try:
        return StoredRun(read_record((folder / RECORD_NAME).read_text(encoding="utf-8")), folder)
    except (OSError, ValueError) as error:
        raise InputError(f"run {folder.name}", got=" ".join(str(error).split())[:200], wanted="a readable record") from error
