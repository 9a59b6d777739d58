"""Small plots for published markdown boards, as SVG files by matplotlib. Equal tables give equal bytes."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sidbench.leaderboards.board.values import CONTROL, TOKENIZER, Table
from sidbench.leaderboards.report import points as data
from sidbench.leaderboards.report.points import Point
from sidbench.leaderboards.report.svg import spread

# Salt and absent date keep the bytes stable; words stay text, in the reader's own sans-serif font.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sidbench",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.6,
}
_COLOURS = {TOKENIZER: "#0063a6", CONTROL: "#6a7078"}
_OTHER = "#b04600"
# Shares of a plot's width or height: names are this high, as wide, and stand this far beside their point. Blanks would not
# do: browsers drop those at the beginning of a text.
_NEAR, _WIDE, _BESIDE = 0.05, 0.2, 0.022


def write_figures(table: Table, folder: Path) -> list[Path]:
    """Write the plots of a table that has data for them; returns their files, in order.

    Names are ``<key>-bits-<task>.svg`` and ``<key>-seconds-<task>.svg``, ``key`` the first eight signs of the table's.
    A file appears whole or not at all.
    """
    table, written = table.measured, []
    folder.mkdir(parents=True, exist_ok=True)
    for task in data.tasks(table):
        column = data.headline(table, task)
        heading = task if column is None else f"{column.heading} ({task})"
        for name, words, number, log in (
            ("bits", "code bits of an item", data.code_bits, False),
            ("seconds", "tokenizer seconds (fit and encode)", data.tokenizer_seconds, True),
        ):
            found = data.plane(table, task, data.over_rows(table, map(number, table.rows)))
            if not found:
                continue
            key = re.sub(r"[^0-9A-Za-z]", "", table.key)[:8]
            path = folder / f"{key}-{name}-{task}.svg"
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(_scatter(found, words, heading, log))
            os.replace(temporary, path)
            written.append(path)
    return written


def _scatter(found: list[Point], x_label: str, y_label: str, log: bool) -> bytes:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.add_subplot()
        if log:
            axes.set_xscale("log")
        for point in found:
            colour = _COLOURS.get(point.kind, _OTHER)
            if point.y.low is not None and point.y.high is not None:
                axes.plot([point.x.value] * 2, [point.y.low, point.y.high], color=colour, alpha=0.5, linewidth=1.2)
            axes.plot(
                [point.x.value],
                [point.y.value],
                "o",
                markersize=4.5,
                color=colour,
                markerfacecolor="white" if point.kind == CONTROL else colour,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.22)
        axes.autoscale_view()
        _label(axes, found)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _label(axes: Axes, found: list[Point]) -> None:
    """Names to the right of their points. Names of neighbours that would cover each other are spread, with a line back to
    their point; the limits of the axes must be final."""
    to_share = axes.transData + axes.transAxes.inverted()
    places = [to_share.transform((p.x.value, p.y.value)) for p in found]
    columns: list[list[int]] = []  # points from left to right whose names share a part of the width
    for i in sorted(range(len(found)), key=lambda i: (places[i][0], found[i].label)):
        if columns and places[i][0] - places[columns[-1][0]][0] < _WIDE:
            columns[-1].append(i)
        else:
            columns.append([i])
    for column in columns:
        heights = spread([float(places[i][1]) for i in column], 0.0, 1.0, _NEAR)
        for i, height in zip(column, heights, strict=True):
            point = found[i]
            colour = "black" if point.kind == TOKENIZER else _COLOURS.get(point.kind, _OTHER)
            moved = abs(height - places[i][1]) > _NEAR / 2
            axes.annotate(
                point.label,
                (point.x.value, point.y.value),
                (float(places[i][0]) + _BESIDE, height),
                xycoords="data",
                textcoords="axes fraction",
                fontsize=7,
                va="center",
                color=colour,
                parse_math=False,
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": colour, "alpha": 0.5} if moved else None,
            )
