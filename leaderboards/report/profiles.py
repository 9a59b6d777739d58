"""Plots with a line per row of the table: quality by popularity stratum, and utilisation by position."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from sidbench.benchmark.metrics.strata import NAMES as STRATA
from sidbench.leaderboards.board.values import Row, Table
from sidbench.leaderboards.report import points as data
from sidbench.leaderboards.report.points import Interval
from sidbench.leaderboards.report.scatter_plots import Figure
from sidbench.leaderboards.report.svg import CHARACTER, Drawing, axis_over, number

_STEP, _PANEL, _GAP = 20.0, 176.0, 22.0


def strata_figures(table: Table) -> list[Figure]:
    """One figure a task: its headline over head, torso, tail and cold items, a panel each."""
    return [_strata(table, task) for task in data.tasks(table)]


def _strata(table: Table, task: str) -> Figure:
    column = data.headline(table, task)
    metric, heading = ("", task) if column is None else (column.metric, column.heading)
    title = f"{heading} by popularity of the item ({task})"
    note = (
        "Head: the quarter of the items with most training interactions; tail: the quarter with fewest, cold items "
        "included; cold: items without any, where the split has some. Bars: 95 % over users. Each panel has its own "
        "scale."
    )
    panels = {stratum: [data.measured(row, f"{metric}_{stratum}", task) for row in table.rows] for stratum in STRATA}
    kept = {stratum: values for stratum, values in panels.items() if any(v is not None for v in values)}
    if not kept:
        return Figure(f"strata-{task}", title, note, why=f"No record has {heading} by popularity stratum.")
    return Figure(f"strata-{task}", title, note, _dots(table.rows, kept, title))


def _dots(rows: Sequence[Row], panels: dict[str, list[Interval | None]], title: str) -> Markup:
    names = data.labels(rows)
    left = max(map(len, names)) * CHARACTER + 14
    foot = 28 + len(rows) * _STEP
    drawing = Drawing(left + len(panels) * (_PANEL + _GAP), foot + 22)
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        drawing.text(left - 10, 28 + (index + 0.5) * _STEP + 4, name, f"label {row.kind}", "end")
    for place, (stratum, values) in enumerate(panels.items()):
        start = left + place * (_PANEL + _GAP)
        ends = [v for i in values if i is not None for v in (i.value, i.low, i.high) if v is not None]
        x = axis_over(ends, start, start + _PANEL, pad=0.08)
        drawing.text(start + _PANEL / 2, 16, stratum, "axis-title", "middle")
        for tick in x.ticks(4):
            drawing.line(x(tick), 24, x(tick), foot, "grid")
            drawing.text(x(tick), foot + 15, number(tick), "tick", "middle")
        drawing.line(start, foot, start + _PANEL, foot, "axis")
        for index, (value, row) in enumerate(zip(values, rows, strict=True)):
            height = 28 + (index + 0.5) * _STEP
            if value is None:
                drawing.text(start + _PANEL / 2, height + 4, "undefined", "tick", "middle")
                continue
            if value.low is not None and value.high is not None:
                drawing.line(x(value.low), height, x(value.high), height, f"bar {row.kind}")
            drawing.circle(x(value.value), height, 4, f"dot {row.kind}", f"{names[index]}, {stratum}: {value}")
    return drawing.svg(f"{title}: {', '.join(panels)}, {len(rows)} rows")


def utilisation_figure(table: Table) -> Figure:
    """Heat map: the share of its codebook that a position uses, of the first seed of each row."""
    title = "Utilisation by position"
    note = "Share of a position's codes that some item uses; the first seed of each row."
    name = "utilisation_by_position"
    pairs = [
        (row, label, tuple(min(max(v, 0.0), 1.0) for v in sids.vectors[name]))
        for row, label in zip(table.rows, data.labels(table.rows), strict=True)
        if (sids := row.runs[0].record.sids) is not None and sids.vectors.get(name)
    ]
    if not pairs:
        return Figure("utilisation", title, note, why="No record holds utilisation by position.")
    left = max(len(label) for _, label, _ in pairs) * CHARACTER + 14
    width, longest = 44.0, max(len(values) for *_, values in pairs)
    shown = min(longest, 32)  # what fits beside the names of the rows
    drawing = Drawing(left + shown * width + 4, 30 + len(pairs) * 22 + 4)
    for position in range(shown):
        drawing.text(left + (position + 0.5) * width, 18, str(position), "axis-title", "middle")
    for index, (row, label, values) in enumerate(pairs):
        top = 26 + index * 22
        drawing.text(left - 10, top + 15, label, f"label {row.kind}", "end")
        for position, value in enumerate(values[:shown]):
            tip = f"{label}, position {position}: {value:.1%} of the codes in use"
            drawing.rect(left + position * width, top, width - 2, 20, "heat", tip, 0.06 + 0.84 * value)
            drawing.text(
                left + (position + 0.5) * width - 1,
                top + 14,
                _percent(value),
                "heat-text strong" if value > 0.55 else "heat-text",
                "middle",
            )
    if longest > shown:
        note += f" The first {shown} of {longest} positions."
    return Figure("utilisation", title, note, drawing.svg(f"{title}: {len(pairs)} rows, {longest} positions"))


def _percent(share: float) -> str:
    """Per cent, where 100 means every code and 0 none."""
    rounded = round(100 * share)
    if rounded == 100 and share < 1:
        return ">99"
    return "<1" if rounded == 0 and share > 0 else f"{rounded}"
