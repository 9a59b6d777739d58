"""Small inline SVG: axes, marks and direct labels. Colours are classes, so that the page's style sheet themes them.

Drawn by hand rather than by matplotlib: a plot is a few kilobytes instead of tens, its words stay text (searchable,
read aloud, in the reader's font) and it follows light and dark without a second copy. Inline ``style`` attributes are
never written, since the page's content security policy refuses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

CHARACTER = 7.0  # generous mean advance of the 11 px labels in the widest system font, pixels
LINE = 13.0  # distance of two lines of labels, pixels


@dataclass(frozen=True)
class Axis:
    """Maps ``low..high`` to pixels ``start..end``, linearly or by logarithm; ``whole``: only whole numbers are ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers inside the axis: 1, 2 or 5 times a power of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
                found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
                if len(found) >= 3:
                    return found
            return found
        step = max(_round_step((self.high - self.low) / wanted), 1.0 if self.whole else 0.0)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(s * power for s in (1, 2, 5, 10) if s * power >= step * (1 - 1e-9))


def axis_over(values: Iterable[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Axis:
    """An axis that holds finite ``values`` with some air; equal values stand in its middle."""
    found = list(values)
    low, high = min(found), max(found)
    if log:
        margin = max((high / low) ** pad, 1.15)
        return Axis(low / margin, high * margin, start, end, True)
    wide = high - low > max(1e-9 * max(abs(low), abs(high)), 1e-300)  # else floats cannot resolve the axis
    margin = (high - low) * pad if wide else abs(high) * 0.1
    margin = margin if margin > 1e-300 else 1.0
    return Axis(low - margin, high + margin, start, end)


def number(value: float) -> str:
    """A tick label: as short as the number allows."""
    if value and abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


@dataclass
class Drawing:
    """Elements of one plot of ``width`` by ``height`` pixels. Every text that enters is escaped."""

    width: float
    height: float
    parts: list[Markup] = field(default_factory=list)

    def _add(self, tag: str, attributes: dict[str, object], text: str | None = None, tip: str = "") -> None:
        words = Markup(" ").join(
            Markup('{}="{}"').format(name.replace("_", "-").strip("-"), _shown(value))
            for name, value in attributes.items()
            if value is not None
        )
        inside = (Markup("<title>{}</title>").format(tip) if tip else Markup("")) + escape(text or "")
        self.parts.append(
            Markup("<{0} {1}>{2}</{0}>").format(Markup(tag), words, inside)
            if inside
            else Markup("<{} {}/>").format(Markup(tag), words)
        )

    def text(self, x: float, y: float, words: str, style: str = "label", anchor: str = "start", turn: float = 0.0) -> None:
        """Words with their anchor ("start", "middle", "end") at a point, turned by degrees about it."""
        self._add(
            "text",
            {
                "x": x,
                "y": y,
                "class": style,
                "text_anchor": None if anchor == "start" else anchor,
                "transform": f"rotate({turn:g} {x:.1f} {y:.1f})" if turn else None,
            },
            words,
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self._add("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})

    def path(self, points: Sequence[tuple[float, float]], style: str, tip: str = "") -> None:
        """A line through points."""
        steps = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        self._add("path", {"d": steps, "class": style}, tip=tip)

    def circle(self, x: float, y: float, radius: float, style: str, tip: str = "") -> None:
        """A disc; ``tip`` is shown while the pointer rests on it."""
        self._add("circle", {"cx": x, "cy": y, "r": radius, "class": style}, tip=tip)

    def rect(
        self, x: float, y: float, width: float, height: float, style: str, tip: str = "", opacity: float | None = None
    ) -> None:
        """A rectangle; ``opacity`` of its fill in 0..1."""
        self._add(
            "rect",
            {
                "x": x,
                "y": y,
                "width": width,
                "height": height,
                "class": style,
                "fill_opacity": None if opacity is None else f"{opacity:.3f}",
            },
            tip=tip,
        )

    def frame(self, x: Axis, y: Axis, x_label: str, y_label: str, names: Sequence[str] = ()) -> None:
        """Ticks, grid lines and axis titles of a plot between two axes (``y.start`` is its foot). ``names`` stand at
        1, 2, .. of the x axis instead of numbers."""
        ticks = [(float(i), n) for i, n in enumerate(names, start=1)] or [(v, number(v)) for v in x.ticks()]
        for value, words in ticks:
            self.line(x(value), y.start, x(value), y.end, "grid")
            self.text(x(value), y.start + 14, words, "tick", "middle")
        for value in y.ticks():
            self.line(x.start, y(value), x.end, y(value), "grid")
            self.text(x.start - 6, y(value) + 4, number(value), "tick", "end")
        self.line(x.start, y.start, x.end, y.start, "axis")
        self.text((x.start + x.end) / 2, y.start + 31, x_label, "axis-title", "middle")
        self.text(x.start - 6, y.end - 9, y_label, "axis-title")

    def svg(self, name: str) -> Markup:
        """The finished element; ``name`` is what a screen reader says for it."""
        style = "plot wide" if self.width > 420 else "plot"  # wide ones may shrink a little on a phone
        return Markup(
            '<svg class="{4}" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>'
        ).format(_shown(self.width), _shown(self.height), name, Markup("").join(self.parts), style)


def _shown(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Positions near ``wanted`` at least ``gap`` apart and inside ``low..high`` (closer only where there is no room)."""
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Blocks of touching labels, each centred on the mean of what its members want; neighbours that overlap merge.
    blocks: list[list[int]] = []
    tops: list[float] = []
    for i in order:
        blocks.append([i])
        tops.append(_top(blocks[-1], wanted, low, high, gap))
        while len(blocks) > 1 and tops[-2] + len(blocks[-2]) * gap > tops[-1] + 1e-9:
            merged = blocks.pop(-2) + blocks.pop()
            tops[-2:] = [_top(merged, wanted, low, high, gap)]
            blocks.append(merged)
    placed = [0.0] * len(wanted)
    for block, top in zip(blocks, tops, strict=True):
        for place, i in enumerate(block):
            placed[i] = top + place * gap
    return placed


def _top(block: Sequence[int], wanted: Sequence[float], low: float, high: float, gap: float) -> float:
    mean = sum(wanted[i] - place * gap for place, i in enumerate(block)) / len(block)
    return min(max(mean, low), high - (len(block) - 1) * gap)
