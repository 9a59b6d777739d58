"""Scatter plots of a table: quality against code bits and seconds, and both tasks against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sidbench.leaderboards.board.values import Table
from sidbench.leaderboards.report import points as data
from sidbench.leaderboards.report.points import Point
from sidbench.leaderboards.report.svg import CHARACTER, Axis, Drawing, axis_over

WIDTH, HEIGHT = 540.0, 340.0
LEFT, RIGHT, TOP, FOOT = 58.0, 18.0, 30.0, 42.0
_BOUND = (2.0, 2.0, WIDTH - 2, HEIGHT - FOOT - 2)  # where labels may stand


@dataclass(frozen=True)
class Figure:
    """A plot with its words, or the sentence that says why there is none. Exactly one of ``svg`` and ``why`` is set.

    ``minor`` plots stand folded below the others.
    """

    name: str
    title: str
    note: str
    svg: Markup | None = None
    why: str = ""
    minor: bool = False


def quality_figures(table: Table) -> list[Figure]:
    """The scatter plots of a table, in the order of the page."""
    figures = []
    names = data.tasks(table)
    if not names:
        return [Figure("quality", "Quality", "", why="No row has a task with a headline metric.")]
    for task in names:
        figures += [_against_bits(table, task), _against_seconds(table, task)]
    return [*figures, _both_tasks(table, names)]


def _against_bits(table: Table, task: str) -> Figure:
    found = data.plane(table, task, data.over_rows(table, map(data.code_bits, table.rows)))
    title = f"{_heading(table, task)} against code bits"
    note = (
        "Bits of the codes an item has on average: Σ log₂ K over its positions in use. Bars: 95 % over users; dashed: "
        "the Pareto front of the rows."
    )
    if not found:
        return Figure(f"bits-{task}", title, note, why=f"No row with semantic IDs has {_heading(table, task)}.")
    return Figure(
        f"bits-{task}",
        title,
        note,
        scatter(found, "code bits of an item", _heading(table, task), title, front=data.pareto(found, less_x=True)),
    )


def _against_seconds(table: Table, task: str) -> Figure:
    found = data.plane(table, task, data.over_rows(table, map(data.tokenizer_seconds, table.rows)))
    title = f"{_heading(table, task)} against seconds"
    devices = sorted({device for row in table.rows for device in row.devices})
    note = "Wall seconds to fit the tokenizer and encode the catalogue, logarithmic. Dashed: the Pareto front of the rows."
    if len(devices) > 1:
        note += f" The rows ran on different devices ({', '.join(devices)}): their seconds do not compare."
    if not found:
        return Figure(f"seconds-{task}", title, note, why="No row with semantic IDs has stage seconds on its record.")
    front = data.pareto(found, less_x=True) if len(devices) == 1 else []
    return Figure(
        f"seconds-{task}",
        title,
        note,
        scatter(found, "tokenizer seconds (fit and encode)", _heading(table, task), title, log_x=True, front=front),
    )


def _both_tasks(table: Table, names: Sequence[str]) -> Figure:
    title = "Pareto front of the tasks"
    note = "Rows that no other row beats in both tasks lie on the dashed front. Bars: 95 % over users."
    if len(names) < 2:
        return Figure("pareto", title, note, why=f"This table measures one task only ({names[0]}).")
    right, up = names[0], names[1]
    column = data.headline(table, right)
    found = []
    for row, label in zip(table.rows, data.labels(table.rows), strict=True):
        x = data.measured(row, column.metric, right) if column is not None else None
        upper = data.headline(table, up)
        y = data.measured(row, upper.metric, up) if upper is not None else None
        if x is not None and y is not None:
            found.append(Point(label, row.kind, x, y))
    if not found:
        return Figure("pareto", title, note, why="No row has both tasks.")
    return Figure(
        "pareto",
        title,
        note,
        scatter(found, _heading(table, right), _heading(table, up), title, front=data.pareto(found, less_x=False)),
    )


def _heading(table: Table, task: str) -> str:
    column = data.headline(table, task)
    return task if column is None else f"{column.heading} ({task})"


def scatter(
    found: Sequence[Point], x_label: str, y_label: str, title: str, *, log_x: bool = False, front: Sequence[Point] = ()
) -> Markup:
    """Points with intervals and direct labels; the front as dashed steps. Labels without room stay in the tooltips."""
    drawing = Drawing(WIDTH, HEIGHT)
    ends = [v for p in found for v in (p.x.value, p.x.low, p.x.high) if v is not None]
    x = axis_over([v for v in ends if v > 0] if log_x else ends, LEFT, WIDTH - RIGHT, log=log_x, pad=0.10)
    y = axis_over([v for p in found for v in (p.y.value, p.y.low, p.y.high) if v is not None], HEIGHT - FOOT, TOP)
    drawing.frame(x, y, x_label, y_label)
    if len(front) > 1:
        drawing.path(_steps(front, x, y, less_x=front[0].y.value < front[-1].y.value), "front")
    for point in found:
        _bars(drawing, point, x, y)
    for point in found:
        tip = f"{point.label}: {x_label} {_tip(point.x)}; {y_label} {point.y}"
        drawing.circle(x(point.x.value), y(point.y.value), 4.5, f"dot {point.kind}", tip)
    spots = [(x(p.x.value), y(p.y.value)) for p in found]
    for (left, foot), (px, py), point in zip(place_labels([p.label for p in found], spots), spots, found, strict=True):
        if abs(foot - 4 - py) > 8:  # away from its point: a thin line says whose it is
            end = left + len(point.label) * CHARACTER * 0.85
            drawing.line(px, py, min(max(px, left), end), foot - 9 if foot > py else foot + 2, "leader")
        drawing.text(left, foot, point.label, f"label {point.kind}")
    return drawing.svg(f"{title}: {len(found)} rows")


def _tip(value: data.Interval) -> str:
    return f"{value.value:,.1f}" if value.low is None else str(value)


def _bars(drawing: Drawing, point: Point, x: Axis, y: Axis) -> None:
    if point.y.low is not None and point.y.high is not None:
        drawing.line(x(point.x.value), y(point.y.low), x(point.x.value), y(point.y.high), f"bar {point.kind}")
    if point.x.low is not None and point.x.high is not None:
        drawing.line(x(point.x.low), y(point.y.value), x(point.x.high), y(point.y.value), f"bar {point.kind}")


def _steps(front: Sequence[Point], x: Axis, y: Axis, *, less_x: bool) -> list[tuple[float, float]]:
    """The border of what the front dominates: level where less x is better, straight down where more is."""
    spots = [(x(p.x.value), y(p.y.value)) for p in front]
    path = spots[:1]
    for (left, upper), (right, lower) in zip(spots, spots[1:], strict=False):
        path += [(right, upper) if less_x else (left, lower), (right, lower)]
    return path


_Box = tuple[float, float, float, float]


def place_labels(words: Sequence[str], spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Left end and baseline of each label: the free place nearest to its point, or the least crowded one."""
    taken: list[_Box] = [(px - 6, py - 6, px + 6, py + 6) for px, py in spots]
    placed = []
    for text, (px, py) in zip(words, spots, strict=True):
        boxes = [box for box in _candidates(px, py, len(text) * CHARACTER) if _inside(box)]
        best = min(boxes, key=lambda box: sum(_overlap(box, t) for t in taken), default=None)
        left, top, right, foot = best or (px + 8, py - 6, px + 8 + len(text) * CHARACTER, py + 6)
        taken.append((left, top, right, foot))
        placed.append((left, foot - 2))
    return placed


def _candidates(px: float, py: float, width: float) -> Iterator[_Box]:
    """Boxes about a point, nearest first."""
    for away in range(0, 120, 13):
        for down in (0,) if away == 0 else (-away, away):
            top = py - 6 + down
            yield (px + 8, top, px + 8 + width, top + 12)
            yield (px - 8 - width, top, px - 8, top + 12)
            if away:
                yield (px - width / 2, top, px + width / 2, top + 12)


def _inside(box: _Box) -> bool:
    return box[0] >= _BOUND[0] and box[1] >= TOP - 8 and box[2] <= _BOUND[2] and box[3] <= _BOUND[3]


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
