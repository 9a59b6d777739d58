"""Figures of a paper drawn again from our records, as SVG of small size; the same numbers give the same bytes."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

from sidbench.benchmark.metrics.catalogue import heading
from sidbench.leaderboards.reproduction.sidebyside import SideFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RICHNESS = tuple(i / 50 for i in range(51))
_PAPER_PAIRS = ((10.0, 9.0), (20.0, 7.0), (20.0, 9.0), (20.0, 14.0))
_SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999", "#7f3c8d")
_MARKERS = "osD^vP*Xh"


def alignment_curve(alpha: float, beta: float, richness: tuple[float, ...] = _RICHNESS) -> tuple[float, ...]:
    """w of eq. 14 of MMQ-v2 at each normalised richness in [0, 1]."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    return tuple(sigmoid(alpha * n - beta) / sigmoid(alpha - beta) for n in richness)


def figure_svg(figure: SideFigure) -> str:
    """The figure as SVG text. A figure without a run of ours still has its axes and says so."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A fixed salt and no date make the bytes depend on the numbers alone.
    with matplotlib.rc_context({"svg.hashsalt": "sidbench", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = drawing.add_subplot()
        {"3": _shares, "4": _weights, "5": _popularity}[figure.number](axes, figure)
        axes.set_title(f"Figure {figure.number}: {figure.title}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": "sidbench"}
        FigureCanvasSVG(drawing).print_svg(text, metadata=metadata)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _shares(axes: Axes, figure: SideFigure) -> None:
    metric = "item_recall_at_100"
    points = [
        (float(m[1]), r.values[metric]) for r in figure.rows if metric in r.values and (m := re.search(r"([\d.]+)$", r.row))
    ]
    axes.set(xlabel="target share of behaviour codes in use", ylabel=heading(metric), xlim=(0, 1))
    if not points:
        _empty(axes)
        return
    axes.errorbar(
        [x for x, _ in points],
        [k.value for _, k in points],
        yerr=[k.half_width or 0.0 for _, k in points],
        color=_SHADES[0],
        marker="o",
        capsize=3,
    )


def _weights(axes: Axes, figure: SideFigure) -> None:
    axes.set(xlabel="normalised behaviour richness N", ylabel="w", xlim=(0, 1), ylim=(0, 1.02))
    for (alpha, beta), shade, at in zip(_PAPER_PAIRS, _SHADES, (38, 15, 23, 34), strict=False):
        curve = alignment_curve(alpha, beta)
        axes.plot(_RICHNESS, curve, color=shade)
        axes.annotate(
            f"({alpha:g}, {beta:g})", (_RICHNESS[at], curve[at]), textcoords="offset points", xytext=(5, -6), color=shade
        )


def _popularity(axes: Axes, figure: SideFigure) -> None:
    groups = ("tail", "torso", "head")
    rows = [
        (row, changes)
        for row, changes in (figure.differences or {}).items()
        if any(c.ours is not None for c in changes.values())
    ]
    axes.axhline(0, color="#666666", linewidth=0.8)
    axes.set(
        xlabel="items by training interactions",
        ylabel=f"AUC minus that of {figure.reference}",
        xticks=range(len(groups)),
        xticklabels=groups,
    )
    if not rows:
        _empty(axes)
        return
    for i, (row, changes) in enumerate(rows):
        points = [
            (x, c.ours, c.ours if c.low is None else c.low)
            for x, g in enumerate(groups)
            if (c := changes.get(f"auc_{g}")) is not None and c.ours is not None
        ]
        offset = (i - (len(rows) - 1) / 2) * 0.08
        axes.errorbar(
            [x + offset for x, _, _ in points],
            [y for _, y, _ in points],
            yerr=[y - low for _, y, low in points],
            linestyle="",
            linewidth=0.8,
            markersize=4,
            color=_SHADES[i % len(_SHADES)],
            marker=_MARKERS[i % len(_MARKERS)],
            label=row,
        )
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no run of ours", transform=axes.transAxes, ha="center", color="#666666")
