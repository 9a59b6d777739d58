"""Paired permutation test over users: under "no difference" the two results of each user could be exchanged.

Exchanging user u flips the sign of his contribution ``d_u``, so the statistic is ``|sum_u s_u d_u|`` with signs ``s``.
For a difference of two ratios ``A/B - C/D`` over the same users, with ``R = (A + C) / (B + D)`` the pooled ratio,
``d_u = (a_u - c_u) - R (b_u - d_u)`` (R does not change under exchange): for means and GAUC, whose denominators are
equal, that is the difference itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sidbench.datasets.foundation.seeds import Rng

EXACT_USERS = 14  # 2**14 sign patterns are counted one by one; above, patterns are drawn
FLIPS = 9_999
_CHUNK = 101  # divides FLIPS
_TIE = 1e-9  # of the sum of absolute contributions: equal statistics differ by rounding


class PermutationTest(NamedTuple):
    """p: two-sided. exact: whether every sign pattern was counted. smallest: the smallest p this test can give."""

    p: float
    exact: bool
    smallest: float


def sign_flip_tests(contributions: np.ndarray, rng: Rng, observed: np.ndarray | None = None) -> list[PermutationTest]:
    """Tests of ``M`` differences at once, with the same sign patterns.

    contributions: float64 ``[U, M]``. observed: ``[M]`` statistics to test, by default the sums of the columns; given
    where contributions are centred (AUC, whose first-order contributions sum to 0).

    Users without a contribution change nothing. With at most ``EXACT_USERS`` others every pattern is counted; above
    that ``FLIPS`` are drawn, and p is ``(b + 1) / (m + 1)`` with b of m at least as extreme, so never 0 (Phipson and
    Smyth, 2010). A column without any contribution has p = 1.
    """
    matrix = np.asarray(contributions, np.float64)
    found = np.abs(matrix.sum(axis=0) if observed is None else np.asarray(observed, np.float64))
    results: list[PermutationTest | None] = [None] * matrix.shape[1]
    drawn = []
    for column in range(matrix.shape[1]):
        moving = matrix[matrix[:, column] != 0, column]
        if len(moving) > EXACT_USERS:
            drawn.append(column)
            continue
        statistics = np.abs(_patterns(len(moving)) @ moving)
        p = float(np.mean(statistics >= found[column] - _TIE * np.abs(moving).sum()))
        results[column] = PermutationTest(p, True, 2.0 ** (1 - len(moving)) if len(moving) else 1.0)
    if drawn:
        part = matrix[:, drawn]
        part = part[(part != 0).any(axis=1)]
        limit = found[drawn] - _TIE * np.abs(part).sum(axis=0)
        generator, extreme = rng.numpy(), np.zeros(len(drawn))
        for _ in range(FLIPS // _CHUNK):
            signs = generator.integers(0, 2, (_CHUNK, len(part)), dtype=np.int8).astype(np.float64) * 2 - 1
            extreme += (np.abs(signs @ part) >= limit).sum(axis=0)
        for column, count in zip(drawn, extreme, strict=True):
            results[column] = PermutationTest((float(count) + 1) / (FLIPS + 1), False, 1 / (FLIPS + 1))
    return [r for r in results if r is not None]


def _patterns(n: int) -> np.ndarray:
    """All sign patterns float64 ``[2**n, n]``."""
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2.0 - 1
