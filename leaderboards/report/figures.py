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

from sidbench.leaderboards.report import points as data
from sidbench.leaderboards.report.points import Point
from sidbench.leaderboards.values import CONTROL, TOKENIZER, Table

# Salt and absent date keep the bytes stable; words stay text, in the reader's own sans-serif font.
_STYLE: dict[Any, Any] = {"svg.hashsalt": "sidbench", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8.0,
          "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.4, "grid.alpha": 0.6}
_COLOURS = {TOKENIZER: "#0063a6", CONTROL: "#6a7078"}
_OTHER = "#b04600"
_NEAR = 0.045  # labels nearer than this share of the height are moved apart


def write_figures(table: Table, folder: Path) -> list[Path]:
    """Write the plots of a table that has data for them; returns their files, in order.

    Names are ``<key>-bits-<task>.svg`` and ``<key>-seconds-<task>.svg``, ``key`` the first eight signs of the table's.
    A file appears whole or not at all.
    """
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for task in data.tasks(table):
        column = data.headline(table, task)
        heading = task if column is None else f"{column.heading} ({task})"
        for name, words, number, log in (("bits", "code bits of an item", data.code_bits, False),
                                         ("seconds", "tokenizer seconds (fit and encode)", data.tokenizer_seconds, True)):
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
            axes.plot([point.x.value], [point.y.value], "o", markersize=4.5, color=colour,
                      markerfacecolor="white" if point.kind == CONTROL else colour)
        _label(axes, found)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.22)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _label(axes: Axes, found: list[Point]) -> None:
    """Names to the right of their points, moved up where they would cover the one below."""
    low, high = axes.get_ylim()
    step = (high - low) * _NEAR
    last = float("-inf")
    for point in sorted(found, key=lambda p: (p.y.value, p.label)):
        last = max(point.y.value, last + step)
        colour = "black" if point.kind == TOKENIZER else _COLOURS.get(point.kind, _OTHER)
        axes.text(point.x.value, last, f"   {point.label}", fontsize=7, va="center", color=colour, parse_math=False)
