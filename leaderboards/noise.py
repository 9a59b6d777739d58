"""Which rows of a column can be told apart: paired bootstrap over users, Holm's correction, marks.

Users are drawn with replacement, the same draws for every row of a table, so that the difference of two rows carries
only the noise that the rows do not share. Its standard deviation over draws gives a two-sided normal p-value (a count
of draws could not resolve the small levels Holm asks for in long tables). Rows are compared with the best one only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtr

from sidbench.benchmark.metrics.auc import user_aucs
from sidbench.datasets.foundation.seeds import Rng

LEVEL = 0.05
RESAMPLES = 1_000
AUC_RESAMPLES = 200  # a standard deviation from 200 draws is good to 5 %
BEST, SECOND = "best", "second"
_CHUNK = 50  # divides both numbers of resamples; bounds memory to 50 counts a user


@dataclass(frozen=True)
class Evidence:
    """What is known of one row in one column.

    value: mean over seeds. seeds: the value of each seed. half_width: of the 95 % interval over users, when there is
    one. draws: float64 ``[R]``, the value under each resample of users, when per-user results exist.
    n: units averaged.
    """

    value: float
    seeds: tuple[float, ...]
    half_width: float | None = None
    draws: np.ndarray | None = None
    n: int = 0


_Part = tuple[str, np.ndarray, np.ndarray]


class _UserSums:
    """One run's per-user results, prepared so that a resample of users is one product with its user counts."""

    def __init__(self, columns: Mapping[str, np.ndarray], metrics: Sequence[str], keys: np.ndarray) -> None:
        self.owner = np.searchsorted(keys, columns["user"])
        self.columns, self.n_keys = columns, len(keys)
        self.ratios: dict[str, tuple[int, int]] = {}
        self.names: list[str] = []
        self.values: list[np.ndarray] = []
        for metric in metrics:
            parts = self._parts(metric)
            if parts is not None:
                self.ratios[metric] = (self._column(*parts[0]), self._column(*parts[1]))
        self.matrix = np.stack(self.values, axis=1) if self.values else np.zeros((len(keys), 0), np.float32)
        self.has_auc = "auc" in metrics and {"label", "score"} <= columns.keys()
        if self.has_auc:
            order = np.argsort(columns["score"], kind="stable")
            score = columns["score"][order]
            self.sorted_owner, self.positive = self.owner[order], columns["label"][order] > 0
            self.blocks = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))  # starts of tied scores

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """Mann-Whitney AUC float64 ``[C]`` of the rows when user ``u`` counts ``weights[:, u]`` times; ties one half."""
        rows = weights[:, self.sorted_owner]
        plus = rows * self.positive
        minus = rows - plus
        if len(self.blocks) < rows.shape[1]:
            plus, minus = (np.add.reduceat(part, self.blocks, axis=1) for part in (plus, minus))
        wins = (plus * (np.cumsum(minus, axis=1) - minus / 2)).sum(axis=1, dtype=np.float64)
        pairs = plus.sum(axis=1, dtype=np.float64) * minus.sum(axis=1, dtype=np.float64)
        return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

    def _parts(self, metric: str) -> tuple[_Part, _Part] | None:
        """Numerator and denominator of a metric, each as (name, users, values)."""
        c, owner = self.columns, self.owner
        if metric == "gauc" and {"label", "score"} <= c.keys():
            inside = user_aucs(owner, c["label"], c["score"])
            return ("gauc", inside.user, inside.auc * inside.rows), ("rows of gauc", inside.user, inside.rows)
        above, below = metric, "users"
        if metric.startswith("inflation_"):
            above, below = f"sid_{metric.removeprefix('inflation_')}", f"item_{metric.removeprefix('inflation_')}"
        if above not in c or (below != "users" and below not in c):
            return None
        return (above, owner, c[above]), (below, owner, np.ones(len(owner)) if below == "users" else c[below])

    def _column(self, name: str, owner: np.ndarray, values: np.ndarray) -> int:
        if name not in self.names:
            self.names.append(name)
            sums = np.bincount(owner, weights=values.astype(np.float64), minlength=self.n_keys)
            self.values.append(sums.astype(np.float32))
        return self.names.index(name)


def bootstrap(runs: Sequence[Mapping[str, np.ndarray]], metrics: Sequence[str],
              rng: Rng) -> list[dict[str, np.ndarray]]:
    """For each run: metric -> its value float64 ``[R]`` under each resample of users, the same resamples for all runs.

    runs: columns of per-user files. Retrieval: ``user`` and one column a metric, one entry a user. Ranking: ``user``,
    ``label``, ``score``, one entry a row. Metrics that a run's columns do not hold are left out. Users that some run
    lacks are drawn all the same; pairing holds where runs overlap. AUC has ``AUC_RESAMPLES`` draws, all others
    ``RESAMPLES``; NaN where a resample leaves a metric undefined.
    """
    keys = np.unique(runs[0]["user"])
    if not all(np.array_equal(run["user"], runs[0]["user"]) for run in runs[1:]):
        keys = np.unique(np.concatenate([run["user"] for run in runs]))
    prepared = [_UserSums(run, metrics, keys) for run in runs]
    draws: list[dict[str, list[np.ndarray]]] = [defaultdict(list) for _ in runs]
    generator, n = rng.numpy(), len(keys)
    for start in range(0, RESAMPLES, _CHUNK):
        draw = [np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(_CHUNK)]
        weights = np.stack(draw).astype(np.float32)
        for run, found in zip(prepared, draws, strict=True):
            sums = (weights @ run.matrix).astype(np.float64)
            for metric, (above, below) in run.ratios.items():
                found[metric].append(np.divide(sums[:, above], sums[:, below], out=np.full(_CHUNK, np.nan),
                                               where=sums[:, below] != 0))
            if run.has_auc and start < AUC_RESAMPLES:
                found["auc"].append(run.auc(weights))
    return [{metric: np.concatenate(parts) for metric, parts in found.items()} for found in draws]


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
        return 1.0 if difference == 0 else 0.0
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


def marks(rows: Sequence[Evidence], higher_is_better: bool, digits: int = 12) -> list[str]:
    """A mark per row of one column: "best" for every row that cannot be told from the best one, "second" for the best
    of the others (and its equals), "" for the rest. Numbers that print alike with ``digits`` digits are equal.
    A column of fewer than two rows has no marks.
    """
    if len(rows) < 2:
        return [""] * len(rows)
    sign = 1.0 if higher_is_better else -1.0
    shown = [round(sign * row.value, digits) for row in rows]
    top = max(range(len(rows)), key=lambda i: sign * rows[i].value)
    others = [i for i in range(len(rows)) if i != top]
    adjusted = holm([1.0 if shown[i] == shown[top] else p_value(rows[i], rows[top]) for i in others])
    result = [""] * len(rows)
    for i, p in [(top, 1.0), *zip(others, adjusted, strict=True)]:
        result[i] = BEST if p > LEVEL else ""
    rest = [i for i in range(len(rows)) if not result[i]]
    second = max((shown[i] for i in rest), default=None)
    for i in rest:
        if shown[i] == second:
            result[i] = SECOND
    return result
