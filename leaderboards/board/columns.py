"""The columns beside quality that every format shows: costs with unit and digits, and how numbers are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sidbench.benchmark.metrics.catalogue import (
    column_names,
    describe,
    heading,
    headline_names,
    named,
    stratified_names,
    tasks_in_order,
)
from sidbench.benchmark.metrics.declaration import NamedMetric
from sidbench.benchmark.store.records import RunRecord
from sidbench.leaderboards.board.values import EXACT, OVER_SEEDS, UNKNOWN, Cell, Column, Costs, Row, Table

READING = (
    "Compare rows of one table only. rank: 1 + the number of rows that are significantly better in that column (5 %, Holm "
    "over all pairs of rows) over users, paired where per-user results exist, and over the seeds of rows that have several; "
    "how far another training would move a row of one seed is unknown and not counted. **Bold**: rank 1, so rows that "
    "cannot be told apart at the top share it. <u>Underlined</u>: the next rank. Numbers are means over seeds; ± half of "
    "the 95 % interval: over users (BCa bootstrap; AUC: DeLong's components), with trained models held fixed; ±ˢ over "
    "seeds (Student); = exact for the one exported SID table, its spread over seeds unknown. sd: over seeds. Improv.: over "
    "the best other tokenizer row; *controls* (codes without content) and *baselines* (no codes) are no competitors. Costs "
    "are medians over seeds, depend on the device and are not ranked."
)


class CostColumn(NamedTuple):
    """A cost with its heading (unit included), the field of ``Costs``, its meaning, what divides it, digits printed."""

    heading: str
    field: str
    meaning: str
    unit: float = 1.0
    digits: int = 1


COSTS = (
    CostColumn("fit s", "fit_seconds", "wall seconds of the tokenizer's training"),
    CostColumn("encode items/s", "encode_items_per_second", "items encoded a second, whole catalogue", 1, 0),
    CostColumn("retrieval fit s", "retrieval_fit_seconds", "wall seconds of the retriever's training"),
    CostColumn("ranking fit s", "ranking_fit_seconds", "wall seconds of the ranker's training"),
    CostColumn("ms/user", "ms_per_user", "retrieval of one user's list", 1, 3),
    CostColumn("ms/row", "ms_per_row", "scoring of one ranking row", 1, 4),
    CostColumn("tokenizer M parameters", "tokenizer_parameters", "millions of trained numbers of the tokenizer", 1e6, 2),
    CostColumn("recommender M parameters", "recommender_parameters", "those of all recommenders of the table", 1e6, 2),
    CostColumn("peak GiB", "peak_memory_bytes", "largest resident memory at the end of a stage", 2**30, 2),
)


def column_of(metric: str, task: str | None, headline: bool = False) -> Column:
    """The column of a metric, as the catalogue declares it."""
    entry = describe(metric)
    if entry is None:
        return Column(heading(metric), task, NamedMetric(metric), headline=headline)
    return Column(
        heading(metric),
        task,
        entry.named(metric),
        entry.digits,
        entry.direction,
        headline,
        entry.definition,
        entry.unit,
    )


def columns_of(*sides: Sequence[RunRecord]) -> tuple[Column, ...]:
    """The columns of a table of these records: the declared ones whose metrics some record holds, with a number or with
    the reason why there is none; tasks before the SID table. Of several sides, what every side holds. The headlines of
    tasks are marked: tables rank by them."""
    found = []
    for task, names in _names_of(sides):
        headlines = headline_names(task, *names) if task is not None else ()
        found += [column_of(m, task, m in headlines) for m in column_names(task, *names)]
    return tuple(found)


def stratified_of(task: str, *sides: Sequence[RunRecord]) -> tuple[NamedMetric, ...]:
    """The metrics of a task that are also taken within strata of items."""
    return tuple(named(m) for own, names in _names_of(sides) if own == task for m in stratified_names(task, *names))


_Names = tuple[list[str], list[str]]


def _names_of(sides: Sequence[Sequence[RunRecord]]) -> list[tuple[str | None, _Names]]:
    """Task in the order of columns -> the metrics that the records of every side know of, and those with a number."""
    found = []
    for task in tasks_in_order():
        both = [_held(side, task) for side in sides]
        known, measured = ([n for n in both[0][i] if all(n in names[i] for names in both)] for i in (0, 1))
        found.append((task, (known, measured)))
    return found


def _held(records: Sequence[RunRecord], task: str | None) -> _Names:
    known: dict[str, None] = {}
    measured: dict[str, None] = {}
    for record in records:
        entry = record.sids if task is None else next((t for t in record.tasks if t.task == task), None)
        if entry is not None:
            measured |= dict.fromkeys(entry.metrics)
            known |= dict.fromkeys((*entry.metrics, *getattr(entry, "undefined", ())))
    return list(known), list(measured)


def present_costs(table: Table) -> tuple[CostColumn, ...]:
    """The costs that some row of the table has."""
    return tuple(c for c in COSTS if any(cost(row.costs, c) is not None for row in table.rows))


def cost(costs: Costs, column: CostColumn) -> float | None:
    """The cost in the column's unit."""
    value: float | None = getattr(costs, column.field)
    return None if value is None else value / column.unit


def cost_text(costs: Costs, column: CostColumn) -> str:
    """The cost as printed, "–" where it is unknown."""
    value = cost(costs, column)
    return "–" if value is None else f"{value:,.{column.digits}f}"


def doubt_text(
    cell: Cell, column: Column, plus_minus: str = " ±", over_seeds: str = "ˢ", exact: str = " =", unknown: str = " ±?"
) -> str:
    """What stands behind a number: its half-width and over what, or that it is exact, or that there is none."""
    if cell.half_width is None:
        return {EXACT: exact, UNKNOWN: unknown}.get(cell.interval, "")
    mark = over_seeds if cell.interval == OVER_SEEDS else ""
    return f"{plus_minus}{mark}{cell.half_width:.{column.digits}f}"


def improvement_text(row: Row, column: Column) -> str:
    """The relative improvement in percent, "–" where it is not defined."""
    value = row.improvements.get(column.metric)
    return "–" if value is None else f"{value:+.1%}"


def rank_text(row: Row, column: Column) -> str:
    """The rank in a headline column, "–" without one."""
    rank = row.ranks.get(column.metric)
    return "–" if rank is None else str(rank)


def seconds_text(value: float | None) -> str:
    """Seconds with one digit below ten, "–" for a row that nobody ran."""
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def split(table: Table) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """Columns of the tasks, and those of the SID table."""
    return (tuple(c for c in table.columns if c.task is not None), tuple(c for c in table.columns if c.task is None))


def row_markers(row: Row) -> tuple[str, ...]:
    """Words that belong behind a row's name: its kind where it competes with nobody, and that it is stale."""
    kind = () if row.kind == "tokenizer" else (row.kind,)
    return (*kind, *(("stale",) if row.stale else ()))
