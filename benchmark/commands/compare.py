"""`bench compare`: two rows side by side, paired over the same users and items."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sidbench.benchmark.store.maintenance.runs import find_run
from sidbench.benchmark.store.paths import RECORD_NAME, runs_folder
from sidbench.benchmark.store.records import RunRecord, read_record
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.files import write_whole
from sidbench.leaderboards.board.comparability import incomparable_parts, settings, unequal
from sidbench.leaderboards.board.store import StoredRun, identity
from sidbench.leaderboards.board.table import row_name
from sidbench.leaderboards.compare.comparison import compare_rows
from sidbench.leaderboards.compare.text import COMPARISON_FORMATS


def compare_command(left: str, right: str, form: str, out: Path | None, force: bool) -> None:
    """Print a comparison of two rows, or write it to ``out``.

    left, right: run ids, beginnings of them, or folders with a record; seeds of one row with commas. Raises
    ``InputError`` for unknown runs, runs that are no seeds of one row, and rows of different comparability keys unless
    ``force``, which puts a warning on the result instead.
    """
    if form not in COMPARISON_FORMATS:
        raise unknown_name("--format", form, COMPARISON_FORMATS, do="use one of these")
    sides = [_row(text) for text in (left, right)]
    shared = {r.record.run_id for r in sides[0]} & {r.record.run_id for r in sides[1]}
    if shared:
        raise InputError("bench compare", got=f"{', '.join(sorted(shared))} on both sides", wanted="two different rows")
    parts = incomparable_parts(sides[0][0].record, sides[1][0].record)
    if parts and not force:
        raise InputError(
            "two rows of different comparability keys",
            got="; ".join(parts),
            wanted="rows of one table",
            do="run one of them again with the other's settings, or compare all the same with --force",
        )
    first, second = sides
    names = (row_name(first[0].record), row_name(second[0].record))
    text = COMPARISON_FORMATS[form](compare_rows(first, second, names, parts))
    if out is None:
        sys.stdout.write(text)
        return
    write_whole(out, text)


def _row(text: str) -> list[StoredRun]:
    """The runs of one side, in order of their seeds."""
    runs = [_run(part.strip()) for part in text.split(",") if part.strip()]
    if not runs:
        raise InputError("run", got=repr(text), wanted="run ids with commas", do="list them with `bench runs ls`")
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
        raise InputError(f"seeds of {text}", got=", ".join(map(str, seeds)), wanted="every seed once")
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
