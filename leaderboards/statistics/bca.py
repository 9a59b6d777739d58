"""BCa bootstrap intervals: percentiles corrected for bias and for skewness (Efron, JASA 82, 1987, section 4).

With ``z0`` the normal quantile of the share of draws below the value (ties one half) and ``a`` the acceleration,
the end of level ``alpha`` is the draws' quantile at

    Phi(z0 + (z0 + z_alpha) / (1 - a (z0 + z_alpha))),      a = sum_u d_u^3 / (6 (sum_u d_u^2)^1.5)

with ``d_u`` the value minus its value without user u, centred (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, equations 14.10 to 14.15).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

_TIE = 1e-12  # draws are float sums: equal values differ by rounding


def acceleration(jackknife: np.ndarray) -> float:
    """The acceleration from the jackknife differences ``[U]`` of ``contributions``; 0 when all are equal."""
    deviation = np.asarray(jackknife, np.float64) - np.mean(jackknife)
    squares = deviation * deviation
    spread = float(squares.sum())
    return 0.0 if spread == 0 else float((squares * deviation).sum()) / (6 * spread**1.5)


def bca_interval(value: float, draws: np.ndarray, acceleration: float, level: float = 0.95) -> tuple[float, float] | None:
    """Ends of the two-sided interval from bootstrap ``draws`` ``[R]``.

    ``None`` where there is none: a draw is NaN (some resample leaves the number undefined), or all draws lie on one side
    of the value. Draws that all equal the value give an interval of width 0.
    """
    if not np.isfinite(value) or not np.isfinite(draws).all() or not np.isfinite(acceleration):
        return None
    tie = _TIE * max(1.0, abs(value))
    if np.all(np.abs(draws - value) <= tie):
        return value, value
    below = (np.count_nonzero(draws < value - tie) + np.count_nonzero(draws <= value + tie)) / (2 * len(draws))
    if not 0 < below < 1:
        return None
    z0 = ndtri(below)
    z = z0 + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(draws, ndtr(z0 + z / (1 - acceleration * z)))
    return float(low), float(high)
