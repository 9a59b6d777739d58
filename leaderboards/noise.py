"""Which rows of a column can be told apart: paired bootstrap over users, Holm's correction, marks.

Users are drawn with replacement, the same draws for every row of a table, so that the difference of two rows carries
only the noise that the rows do not share. Its standard deviation over draws gives a two-sided normal p-value (a count
of draws could not resolve the small levels Holm asks for in long tables). Rows are compared with the best one only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtr

from sidbench.benchmark.metrics.auc import user_aucs, weighted_auc
from sidbench.datasets.foundation.seeds import Rng

LEVEL = 0.05
RESAMPLES = 1_000
AUC_RESAMPLES = 300  # a standard deviation from 300 draws is good to about 4 %
BEST, SECOND = "best", "second"
_CHUNK = 64


@dataclass(frozen=True)
class Evidence:
    """What is known of one row in one column.

    value: mean over seeds. seeds: the value of each seed. half_width: of the 95 % interval over users, when there is
    one. draws: float64 ``[R]``, the value under each resample of users, when per-user results exist.
    """

    value: float
    seeds: tuple[float, ...]
    half_width: float | None = None
    draws: np.ndarray | None = None
    n: int = 0


class UserDraws:
    """Resamples of the users of one table; every row is evaluated under the same ones.

    users: user keys of all rows together. Rows may lack some of them; pairing holds where they overlap.
    """

    def __init__(self, users: Sequence[np.ndarray], rng: Rng) -> None:
        first = np.unique(users[0])
        same = all(u is users[0] or np.array_equal(u, users[0]) for u in users)
        self.keys = first if same else np.unique(np.concatenate(list(users)))
        generator, n = rng.numpy(), len(self.keys)
        self.counts = np.empty((RESAMPLES, n), np.int32)
        for i in range(RESAMPLES):
            self.counts[i] = np.bincount(generator.integers(0, n, n), minlength=n)

    def owner(self, users: np.ndarray) -> np.ndarray:
        """int64 position of each user in ``keys``."""
        return np.searchsorted(self.keys, users)

    def ratio(self, owner: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        """``sum_u c_u a_u / sum_u c_u b_u`` float64 ``[R]`` for entries ``a``, ``b`` that belong to users ``owner``."""
        n = len(self.keys)
        both = np.stack([np.bincount(owner, weights=v, minlength=n) for v in (numerator, denominator)], axis=1)
        sums = np.concatenate([self.counts[i:i + _CHUNK].astype(np.float64) @ both
                               for i in range(0, RESAMPLES, _CHUNK)])
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(RESAMPLES, np.nan), where=sums[:, 1] != 0)

    def auc(self, owner: np.ndarray, label: np.ndarray, score: np.ndarray) -> np.ndarray:
        """AUC over all rows under the first ``AUC_RESAMPLES`` draws."""
        return np.concatenate([weighted_auc(label, score, self.counts[i:min(i + 20, AUC_RESAMPLES)][:, owner])
                               for i in range(0, AUC_RESAMPLES, 20)])

    def evaluate(self, metric: str, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The metric under each draw from a run's per-user columns; ``None`` when they do not hold it.

        Retrieval columns are per user: ``user`` and one column a metric. Ranking columns are per row: ``user``,
        ``label``, ``score``.
        """
        owner = self.owner(columns["user"])
        if metric in ("auc", "gauc"):
            if not {"label", "score"} <= columns.keys():
                return None
            label, score = columns["label"], columns["score"]
            if metric == "auc":
                return self.auc(owner, label, score)
            inside = user_aucs(owner, label, score)
            return self.ratio(inside.user, inside.auc * inside.rows, inside.rows.astype(np.float64))
        if metric.startswith("inflation_"):
            wanted = metric.removeprefix("inflation_")
            above, below = columns.get(f"sid_{wanted}"), columns.get(f"item_{wanted}")
        else:
            above, below = columns.get(metric), np.ones(len(owner))
        if above is None or below is None:
            return None
        return self.ratio(owner, above.astype(np.float64), below.astype(np.float64))


def p_value(left: Evidence, right: Evidence) -> float:
    """Two-sided p-value of "no difference", from the best evidence both rows have.

    Per-user draws: paired bootstrap. Intervals only: as if independent, which is the careful side for rows that share
    users. Neither: a pooled t-test over seeds. One seed each and no interval: the numbers are exact, so they differ
    or they do not.
    """
    difference = left.value - right.value
    if left.draws is not None and right.draws is not None:
        error = float(np.nanstd(left.draws - right.draws, ddof=1))
        return _normal(difference, error)
    if left.half_width is not None and right.half_width is not None:
        return _normal(difference, float(np.hypot(left.half_width, right.half_width)) / 1.96)
    freedom = len(left.seeds) + len(right.seeds) - 2
    if freedom == 0:
        return 1.0 if np.isclose(left.value, right.value, rtol=1e-9, atol=1e-12) else 0.0
    squares = sum(float(np.sum((np.array(row.seeds) - np.mean(row.seeds)) ** 2)) for row in (left, right))
    error = np.sqrt(squares / freedom * (1 / len(left.seeds) + 1 / len(right.seeds)))
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(difference) / error))


def _normal(difference: float, error: float) -> float:
    if error == 0 or not np.isfinite(error):
        # Without spread the rows agree for every user, or differ by the same amount for every user.
        return 1.0 if difference == 0 or not np.isfinite(error) else 0.0
    return float(2 * ndtr(-abs(difference) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the i-th smallest of m times ``m - i + 1``, made monotone, at most 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def marks(rows: Sequence[Evidence], higher_is_better: bool) -> list[str]:
    """A mark per row of one column: "best" for every row that cannot be told from the best one, "second" for the best
    of the others (and its exact equals), "" for the rest. A column of fewer than two rows has no marks.
    """
    if len(rows) < 2:
        return [""] * len(rows)
    sign = 1.0 if higher_is_better else -1.0
    top = max(range(len(rows)), key=lambda i: sign * rows[i].value)
    others = [i for i in range(len(rows)) if i != top]
    adjusted = holm([p_value(rows[i], rows[top]) for i in others])
    result = [""] * len(rows)
    for i, p in [(top, 1.0), *zip(others, adjusted, strict=True)]:
        result[i] = BEST if p > LEVEL else ""
    rest = [i for i in range(len(rows)) if not result[i]]
    second = max((sign * rows[i].value for i in rest), default=None)
    for i in rest:
        if sign * rows[i].value == second:
            result[i] = SECOND
    return result
