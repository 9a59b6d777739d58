"""Whether a cell of ``board.json`` is what the records of its row hold: value, units, spread, interval.

The printed value is the mean over seeds, the spread and the interval over seeds are exact to the digits printed, as is
the interval over users of AUC. Those of other metrics over users are bootstrap intervals (BCa) and are not drawn again:
they must hold the value and have the width of the normal interval of the same users, within ``WIDER`` (``SKEWED`` for
inflation) or two users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from sidbench.leaderboards.frozen.document import Cell
from sidbench.leaderboards.frozen.numbers import Number
from sidbench.leaderboards.frozen.records import Metric

DIGITS = 5e-8  # relative: numbers are printed with eight digits
WIDER = 0.25  # how far the width of a bootstrap interval may lie from that of the normal one, relative
SKEWED = 1.0  # the same for inflation, a ratio that few users decide
NORMAL = 1.959964


def equal(printed: float | None, value: float | None) -> bool:
    """Whether a number of eight digits is ``value``."""
    if printed is None or value is None:
        return printed is value
    return abs(printed - value) <= 1.1 * DIGITS * abs(value) + 1e-15


def cell_problems(metric: str, cell: Cell, found: Sequence[tuple[Metric, Number | None]]) -> list[str]:
    """What in a cell is not what its records hold. found: the number of each seed, and what per-user results give for
    it, ``None`` where the SID table is measured."""
    values = [m.value for m, _ in found]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    expected: Mapping[str, tuple[float | None, float | None]] = {
        "value": (cell.value, float(np.mean(values))),
        "n": (cell.n, min(m.n for m, _ in found)),
        "seed_sd": (cell.seed_sd, spread),
        "half_width": (cell.half_width, None if cell.low is None or cell.high is None else (cell.high - cell.low) / 2),
    }
    problems = [
        f"{name} {_said(printed)}, the records give {_said(value)}"
        for name, (printed, value) in expected.items()
        if not (_near(printed, value, cell) if name == "half_width" else equal(printed, value))
    ]
    return problems + _interval_problems(metric, cell, values, [n for _, n in found if n is not None], spread)


def _near(printed: float | None, value: float | None, cell: Cell) -> bool:
    """A half-width is the difference of two printed ends, so it has the digits of the larger one."""
    if printed is None or value is None:
        return printed is value
    return abs(printed - value) <= 1.1 * DIGITS * max(abs(cell.low or 0), abs(cell.high or 0), abs(value))


def _said(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.8g}"


def _interval_problems(
    metric: str, cell: Cell, values: Sequence[float], numbers: Sequence[Number], spread: float | None
) -> list[str]:
    mean, exact, users = float(np.mean(values)), True, 0
    if numbers and (users := len(numbers[0].influence)) > 1:
        kind, exact = "users", metric == "auc"
        influence = np.mean([n.influence for n in numbers], axis=0)
        reach = NORMAL * float(np.sqrt((influence**2).sum() * users / (users - 1)))
        ends = (max(0.0, mean - reach), min(1.0, mean + reach)) if exact else (mean - reach, mean + reach)
    elif spread is not None:
        kind = "seeds"
        reach = float(stdtrit(len(values) - 1, 0.975)) * spread / float(np.sqrt(len(values)))
        ends = (mean - reach, mean + reach)
    else:
        kind = "unknown" if numbers else "exact"
        given = [] if cell.low is None and cell.high is None else ["it has an interval, the records give none"]
        return given if cell.interval == kind else [*given, _kind(cell, kind)]
    if cell.interval != kind:
        return [_kind(cell, kind)]
    if cell.low is None or cell.high is None:
        return ["its interval has no ends"]
    if exact:
        fits = all(abs(a - b) <= 1e-6 * max(1.0, abs(b)) for a, b in zip((cell.low, cell.high), ends, strict=True))
    else:
        slack = (SKEWED if metric.startswith("inflation") else WIDER) * reach + 2 / users
        fits = (
            abs((cell.high - cell.low) / 2 - reach) <= slack
            and cell.low <= mean * (1 + DIGITS)
            and mean * (1 - DIGITS) <= cell.high
        )
    return [] if fits else [f"interval {cell.low:.6g} to {cell.high:.6g}, the records give {ends[0]:.6g} to {ends[1]:.6g}"]


def _kind(cell: Cell, kind: str) -> str:
    return f"its interval is of the kind {cell.interval!r}, the records give {kind!r}"
