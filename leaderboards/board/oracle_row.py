"""The oracle row of planted data: what no model can exceed, as the records state it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.board.values import BOUND, EXPECTED, Cell, Column, Row
from sidbench.leaderboards.statistics.groups import Evidence

NAME = "oracle"


def oracle_rows(
    members: Sequence[StoredRun], columns: Sequence[Column], evidence: Sequence[Mapping[str, Evidence]]
) -> tuple[Row, ...]:
    """One row for a table whose data are planted, none for others. It has no rank and nothing is compared with it.

    The newest record that states bounds is asked; all rows of a table test on the same events of the same data.
    """
    stated = [r.record for r in members if r.record.dataset.bounds]
    if not stated:
        return ()
    newest = max(stated, key=lambda record: (record.created, record.run_id))
    cells = {}
    for column in columns:
        value = newest.dataset.bounds.get(column.task or "", {}).get(column.metric)
        if value is not None:
            units = max((e[column.metric].n for e in evidence if column.metric in e), default=0)
            cells[column.metric] = Cell(value, units, interval=EXPECTED)
    if not cells:
        return ()
    return (Row(NAME, BOUND, "", "", "", cells, seconds=None, devices=(), seeds=(), runs=()),)
