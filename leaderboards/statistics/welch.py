"""Doubt of several independent kinds in one error: other users, and other trainings of either row.

Variances add. The degrees of freedom of their sum are those of Welch (Biometrika 29, 1938) and Satterthwaite (Biometrics
Bulletin 2, 1946): ``V^2 / sum_i (V_i^2 / f_i)`` with ``V = sum_i V_i``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """One kind of doubt: a variance and its degrees of freedom, infinite where the variance is known."""

    variance: float
    freedom: float


def of_seeds(values: Sequence[float], weight: float = 1.0) -> tuple[Part, ...]:
    """The doubt of training in ``weight`` times the mean over seeds; nothing for one seed, whose spread is unknown."""
    n = len(values)
    return (Part(weight**2 * float(np.var(values, ddof=1)) / n, n - 1),) if n > 1 else ()


def combined(parts: Iterable[Part]) -> tuple[float, float]:
    """Standard error and degrees of freedom of all parts together; infinite degrees where no spread was estimated."""
    found = tuple(parts)
    variance = sum(p.variance for p in found)
    spread = sum(p.variance**2 / p.freedom for p in found)
    return variance**0.5, variance**2 / spread if spread > 0 else float("inf")
