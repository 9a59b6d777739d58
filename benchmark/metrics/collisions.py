"""Collisions: how many items share a SID. Measure before de-duplication, and again after.

Notation: ``N`` items, ``U`` distinct SIDs, ``G_s`` items with SID s (``sum_s G_s = N``). PAD is compared like a code.
"""

from __future__ import annotations

import numpy as np

from sidbench.benchmark.metrics.distribution import check_codes, prefix_ids


def group_sizes(codes: np.ndarray) -> np.ndarray:
    """``G_{s(i)}`` int64 ``[N]``: for each item the number of items (itself included) that share its SID.

    codes: int ``[N, L]``. Raises ``InputError`` for an empty table.
    """
    check_codes(codes, codes.max(axis=0, initial=-1) + 1)
    ids = prefix_ids(codes)[-1]
    return np.bincount(ids)[ids]


def _distinct(sizes: np.ndarray) -> int:
    # Each group of G items contributes G times 1/G.
    return int(round(float((1.0 / sizes).sum())))


def collision_rate(sizes: np.ndarray) -> float:
    """``(N - U) / N`` from ``group_sizes``: 0 = every item has its own SID, ``1 - 1/N`` = one SID for all."""
    return (len(sizes) - _distinct(sizes)) / len(sizes)


def frac_unique(sizes: np.ndarray) -> float:
    """``U / N``, the complement of ``collision_rate``."""
    return _distinct(sizes) / len(sizes)


def items_in_collision(sizes: np.ndarray) -> float:
    """Share of items with ``G_s >= 2``."""
    return float(np.mean(sizes >= 2))


def max_group(sizes: np.ndarray) -> int:
    """``max_s G_s``."""
    return int(sizes.max())


def expected_group(sizes: np.ndarray) -> float:
    """``sum_s G_s**2 / N``: the group size a random item sees (1 without collisions)."""
    return float(sizes.mean())


def expected_group_traffic(sizes: np.ndarray, train_counts: np.ndarray) -> float | None:
    """``sum_i t_i G_{s(i)} / sum_i t_i`` with ``t`` = training interactions; ``None`` without any interaction."""
    total = float(train_counts.sum())
    return float((train_counts * sizes).sum() / total) if total > 0 else None
