"""Plots of lines: training curves, router activity by popularity and the curve of the alignment weight."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sidbench.leaderboards.board.values import Row, Table
from sidbench.leaderboards.report import points as data
from sidbench.leaderboards.report.scatter_plots import Figure
from sidbench.leaderboards.report.svg import CHARACTER, Drawing, axis_over, spread

COLOURS = 8  # of the style sheet's series; lines beyond them repeat a colour with dashes
_LEFT, _TOP, _FOOT = 58.0, 30.0, 42.0
_QUARTILES = ("rarest", "2", "3", "most popular")


@dataclass(frozen=True)
class Line:
    """Points ``(x, y)`` with a label; ``series`` decides its colour, the same for a row in every plot."""

    label: str
    series: int
    points: tuple[tuple[float, float], ...]


def line_figures(table: Table) -> list[Figure]:
    """Curves of recommenders and tokenizers, router activity and alignment weight."""
    return [
        _router_activity(table),
        _codes_in_use(table),
        _alignment_weight(table),
        _recommender_curves(table),
        *_tokenizer_curves(table),
    ]


# -- training curves ---------------------------------------------------------------------------------------------------
def _recommender_curves(table: Table) -> Figure:
    """All rows in one plot: they train the same recommender on other codes."""
    title = "Training of the retriever: validation"
    note = "Value of the metric on validation users after each validation; the first seed of each row."
    lines = []
    for index, (row, label) in enumerate(_labelled(table)):
        task = next((t for t in row.runs[0].record.tasks if t.task == "retrieval"), None)
        curves = {} if task is None else task.recommender.curves
        lines += [
            Line(label, index, tuple(enumerate(values, start=1)))
            for name, values in curves.items()
            if name.endswith("_validation") and values
        ]
    if not lines:
        return Figure(
            "retriever-curves",
            title,
            note,
            why="No record holds training curves of a retriever; runs of older releases did not keep them.",
        )
    return _plot("retriever-curves", title, note, lines, "validation", "metric")


def _tokenizer_curves(table: Table) -> list[Figure]:
    """One plot per name of a training: losses of different methods have different units and never share an axis."""
    by_name: dict[str, list[Line]] = {}
    for index, (row, label) in enumerate(_labelled(table)):
        tokenizer = row.runs[0].record.tokenizer
        for name, values in ({} if tokenizer is None else tokenizer.curves).items():
            if values:
                short = name.removeprefix(row.name.split(" ")[0]).strip("._").replace("_", " ")
                by_name.setdefault(f"{row.name.split(' ')[0]}: {short}", []).append(
                    Line(label, index, tuple(enumerate(values, start=1)))
                )
    note = "By epoch (losses) or validation; the first seed of each row."
    if not by_name:
        return [
            Figure(
                "tokenizer-curves",
                "Training of the tokenizers",
                note,
                why="No record holds training curves of a tokenizer; methods fitted in closed form have none, and "
                "runs of older releases did not keep them.",
            )
        ]
    return [
        replace(
            _plot(f"curve-{_slug(name)}", f"Training of {name}", note, lines, "epoch or validation", name.split(": ")[1]),
            minor=True,
        )
        for name, lines in by_name.items()
    ]


# -- what experts did --------------------------------------------------------------------------------------------------
def _router_activity(table: Table) -> Figure:
    title = "Router activity by popularity"
    note = "Mean number of behaviour experts in use, by quartile of training interactions (ADA-SID)."
    lines = _diagnostic_lines(table, "mean_active_behaviour_count_q", [1, 2, 3, 4])
    if not lines:
        return Figure("router", title, note, why="No row has a router that switches behaviour codes on and off.")
    return _plot("router", title, note, lines, "quartile of training interactions", "active behaviour codes", _QUARTILES)


def _codes_in_use(table: Table) -> Figure:
    title = "Codes in use by popularity"
    note = "Mean number of codes that are not PAD, by quartile of training interactions; the first seed of each row."
    lines = [
        Line(label, index, tuple(enumerate(sids.vectors["active_codes_by_quartile"], start=1)))
        for index, (row, label) in enumerate(_labelled(table))
        if (sids := row.runs[0].record.sids) is not None and sids.vectors.get("active_codes_by_quartile")
    ]
    if not lines:
        return Figure("codes-in-use", title, note, why="Every item of every row has all its codes: no row uses PAD.")
    return _plot("codes-in-use", title, note, lines, "quartile of training interactions", "codes in use", _QUARTILES)


def _alignment_weight(table: Table) -> Figure:
    title = "Alignment weight by richness"
    note = "The weight w of MMQ-v2 (arXiv 2510.25622) eq. 14 over an item's richness, as its Figure 4."
    steps = [f"{i / 10:.1f}" for i in range(11)]
    lines = []
    for index, (row, label) in enumerate(_labelled(table)):
        found = _diagnostics(row)
        values = [(float(at), found[f"w_at_{at}"]) for at in steps if f"w_at_{at}" in found]
        if len(values) > 1:
            lines.append(Line(label, index, tuple(values)))
    if not lines:
        return Figure("weight", title, note, why="No row learns with an alignment weight.")
    return _plot("weight", title, note, lines, "richness", "alignment weight w")


def _diagnostics(row: Row) -> Mapping[str, float]:
    tokenizer = row.runs[0].record.tokenizer
    return {} if tokenizer is None else tokenizer.diagnostics


def _diagnostic_lines(table: Table, prefix: str, at: Sequence[int]) -> list[Line]:
    lines = []
    for index, (row, label) in enumerate(_labelled(table)):
        found = _diagnostics(row)
        values = tuple((float(q), found[f"{prefix}{q}"]) for q in at if f"{prefix}{q}" in found)
        if len(values) > 1:
            lines.append(Line(label, index, values))
    return lines


# -- drawing -----------------------------------------------------------------------------------------------------------
def _plot(
    name: str, title: str, note: str, lines: Sequence[Line], x_label: str, y_label: str, categories: Sequence[str] = ()
) -> Figure:
    """Lines with direct labels at their ends; points that are not finite break nothing and are counted."""
    kept, broken = [], 0
    for line in lines:
        finite = tuple(p for p in line.points if math.isfinite(p[1]))
        broken += len(line.points) - len(finite)
        if finite:
            kept.append(Line(line.label, line.series, finite))
    if not kept:
        return Figure(name, title, note, why="None of the values is finite.")
    if max(len(line.points) for line in kept) < 2:
        return Figure(
            name,
            title,
            note,
            why="A single value a row, which makes no line: "
            + ", ".join(f"{line.label} {line.points[0][1]:.4g}" for line in kept)
            + ".",
        )
    if broken:
        note += f" {broken} values are not finite and not shown."
    right = max(len(line.label) for line in kept) * CHARACTER + 12
    height = max(300.0, _TOP + _FOOT + 14 * len(kept))
    drawing = Drawing(_LEFT + 330 + right, height)
    across = [p[0] for line in kept for p in line.points]
    x = replace(axis_over(across, _LEFT, _LEFT + 330, pad=0.03), whole=all(v == int(v) for v in across))
    y = axis_over([p[1] for line in kept for p in line.points], height - _FOOT, _TOP)
    if categories:
        x = axis_over([1.0, float(len(categories))], _LEFT, _LEFT + 330, pad=0.12)
    drawing.frame(x, y, x_label, y_label, categories)
    ends = spread([y(line.points[-1][1]) for line in kept], _TOP, height - _FOOT, gap=13)
    for line, at in zip(kept, ends, strict=True):
        style = f"series s{line.series % COLOURS}" + (" dashed" if line.series >= COLOURS else "")
        spots = [(x(px), y(py)) for px, py in line.points]
        tip = f"{line.label}: last {line.points[-1][1]:.4g}, least {min(p[1] for p in line.points):.4g}"
        drawing.path(spots, style, tip)
        if categories or len(spots) == 1:
            for (px, py), (_, value) in zip(spots, line.points, strict=True):
                drawing.circle(px, py, 3, f"mark s{line.series % COLOURS}", f"{line.label}: {value:.4g}")
        drawing.line(spots[-1][0] + 2, spots[-1][1], x.end + 6, at, "leader")
        drawing.text(x.end + 9, at + 4, line.label, f"label s{line.series % COLOURS}")
    return Figure(name, title, note, drawing.svg(f"{title}: {', '.join(line.label for line in kept)}"))


def _labelled(table: Table) -> list[tuple[Row, str]]:
    return list(zip(table.rows, data.labels(table.rows), strict=True))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
