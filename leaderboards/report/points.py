"""The numbers behind the plots, read from rows: shared by the page's own SVG and the matplotlib figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sidbench.benchmark.metrics.declaration import HIGHER
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import RunRecord
from sidbench.leaderboards.board.values import OVER_USERS, Column, Row, Table

TOKENIZER_STAGES = ("tokenizer", "sids", "collisions")  # what getting the codes costs; all else is shared or evaluation
MAX_LABEL = 26


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval over users, both averaged over seeds; ``low`` is ``None`` where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.4f}" + ("" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]")


@dataclass(frozen=True)
class Point:
    """A row in a plane. ``x`` and ``y`` with their doubt."""

    label: str
    kind: str
    x: Interval
    y: Interval


def labels(rows: Sequence[Row]) -> list[str]:
    """A short label per row: its name, with its settings or its place where names repeat."""
    names = Counter(row.name for row in rows)
    found = [row.name if names[row.name] == 1 else f"{row.name} {row.settings}".strip() for row in rows]
    cut = [text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…" for text in found]
    repeats = Counter(cut)
    return [text if repeats[text] == 1 else f"{text[: MAX_LABEL - 4]} ({place})" for place, text in enumerate(cut, start=1)]


def records(row: Row) -> list[RunRecord]:
    """The records of a row, one per seed."""
    return [run.record for run in row.runs]


def measured(row: Row, metric: str, task: str | None) -> Interval | None:
    """A metric of a row: its cell, or else the mean over the seeds that have it; ``None`` where none has."""
    cell = row.cells.get(metric)
    if cell is not None:
        return Interval(cell.value, cell.low, cell.high) if cell.interval == OVER_USERS else Interval(cell.value)
    found: list[Metric] = [m for r in records(row) if (m := r.metric(metric, task)) is not None and math.isfinite(m.value)]
    if not found:
        return None
    value = float(np.mean([m.value for m in found]))
    ends = [(m.low, m.high) for m in found if m.low is not None and m.high is not None]
    low, high = np.mean(ends, axis=0).tolist() if len(ends) == len(found) else (math.nan, math.nan)
    return Interval(value, low, high) if math.isfinite(high - low) else Interval(value)


def headline(table: Table, task: str) -> Column | None:
    """The headline of a task, or else its first column for which more is better: the number its plots show."""
    chosen = next((c for c in table.headlines if c.task == task), None)
    return chosen or next((c for c in table.columns if c.task == task and c.direction == HIGHER), None)


def tasks(table: Table) -> list[str]:
    """The tasks with a headline, in the order of the columns."""
    return [t for t in dict.fromkeys(c.task for c in table.columns) if t is not None and headline(table, t) is not None]


def code_bits(row: Row) -> float | None:
    """Bits of the codes an item has on average: ``sum_l active_l log2 K_l``, with the share ``active_l`` of items whose
    position ``l`` is not PAD."""
    sids = row.runs[0].record.sids if row.runs else None
    if sids is None:
        return None
    share = sids.mean_active / max(1, sids.code_length)
    active = sids.vectors.get("active_by_position", ())
    if len(active) != len(sids.sizes):
        active = (share,) * len(sids.sizes)
    return float(sum(a * math.log2(k) for a, k in zip(active, sids.sizes, strict=True) if k > 0))


def tokenizer_seconds(row: Row) -> float | None:
    """Wall seconds of fitting the tokenizer and encoding the catalogue, median over seeds; ``None`` without SIDs."""
    if not row.runs:
        return None
    spent = [sum(s.wall_seconds for s in r.stages if s.name in TOKENIZER_STAGES) for r in records(row)]
    median = float(np.median(spent))
    return median if row.runs[0].record.sids is not None and median > 0 else None


def plane(table: Table, task: str, over: dict[int, float]) -> list[Point]:
    """Rows by their headline of ``task`` (y) and a number of their own (x), those that have both."""
    column = headline(table, task)
    if column is None:
        return []
    return [
        Point(label, row.kind, Interval(over[i]), y)
        for i, (row, label) in enumerate(zip(table.rows, labels(table.rows), strict=True))
        if i in over and (y := measured(row, column.metric, task)) is not None
    ]


def over_rows(table: Table, number: Iterable[float | None]) -> dict[int, float]:
    """Row index -> number, of the rows that have one."""
    return {i: n for i, n in zip(range(len(table.rows)), number, strict=True) if n is not None}


def pareto(points: Sequence[Point], *, less_x: bool) -> list[Point]:
    """The points that no other point beats in both directions, by rising x. More y is better; less or more x as said.

    By values alone: neighbours on the front need not be separable.
    """
    ordered = sorted(points, key=lambda p: (p.x.value if less_x else -p.x.value, -p.y.value))
    front: list[Point] = []
    for point in ordered:
        if not front or point.y.value > front[-1].y.value:
            front.append(point)
    return front if less_x else front[::-1]
