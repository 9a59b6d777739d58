"""Doubt between seeds: does the difference survive a new fit? Few seeds can say little, and this says how little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.special import stdtrit

from sidbench.datasets.foundation.seeds import Rng

EXACT_SPLITS = 20_000
DRAWN_SPLITS = 9_999
_TIE = 1e-12


@dataclass(frozen=True)
class SeedTest:
    """Two-sided permutation test of equal means over seeds.

    difference: mean of the left minus mean of the right. p: its p-value. smallest: the smallest p that so many seeds can
    give, whatever their values: with 3 against 3 it is 2 of 20 splits, 0.1. exact: whether every split was counted.
    """

    difference: float
    p: float
    smallest: float
    exact: bool = True


def smallest_p(n_left: int, n_right: int) -> float:
    """The smallest two-sided p of a split of ``n_left + n_right`` seeds: one split is the most extreme and, when both
    sides are equally long, so is its mirror image."""
    return (2 if n_left == n_right else 1) / comb(n_left + n_right, n_left)


def seed_test(left: Sequence[float], right: Sequence[float], rng: Rng | None = None) -> SeedTest | None:
    """Test two rows by the values of their seeds; ``None`` when a side has none.

    Seeds are independent fits, so any split of all values into sides of these sizes is equally likely under "no
    difference". Every split is counted up to ``EXACT_SPLITS``; above, ``DRAWN_SPLITS`` are drawn from ``rng``.
    """
    if not left or not right:
        return None
    values, n, total = np.array([*left, *right], np.float64), len(left), len(left) + len(right)
    observed = float(np.mean(left) - np.mean(right))
    limit = abs(observed) - _TIE * max(1.0, float(np.abs(values).max()))

    def statistic(sums: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(sums / n - (values.sum() - sums) / len(right)))

    n_splits, least = comb(total, n), smallest_p(n, len(right))
    if n_splits <= EXACT_SPLITS:
        splits = np.array([values[list(chosen)].sum() for chosen in combinations(range(total), n)])
        return SeedTest(observed, float(np.mean(statistic(splits) >= limit)), least)
    generator = (rng or Rng(0).child("seed test")).numpy()
    splits = np.array([values[generator.permutation(total)[:n]].sum() for _ in range(DRAWN_SPLITS)])
    count = int(np.count_nonzero(statistic(splits) >= limit))
    least = max(least, 1 / (DRAWN_SPLITS + 1))
    return SeedTest(observed, (count + 1) / (DRAWN_SPLITS + 1), least, exact=False)


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean over seeds, ``mean ± t sd / sqrt(n)``; ``None`` for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / n**0.5
    mean = float(np.mean(values))
    return mean - reach, mean + reach
