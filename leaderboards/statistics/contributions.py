"""What each user contributes to a metric, so that resampling, tests and jackknife are sums over users.

Means, GAUC and inflation are ratios of two sums over users. AUC is a ratio over pairs of rows; its first-order
contributions are DeLong's components (Biometrics 44, 1988), added up within users because the rows of a user are not
independent (Obuchowski, Biometrics 53, 1997).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sidbench.benchmark.metrics.auc import user_aucs
from sidbench.benchmark.metrics.declaration import ROW_AUC, USER_AUC, USER_MEAN, USER_RATIO, NamedMetric
from sidbench.benchmark.metrics.strata import stratum_mask

Columns = Mapping[str, np.ndarray]


def within(columns: Columns, stratum: str) -> Columns | None:
    """The rows whose items belong to ``stratum``; ``None`` for files that do not hold the strata of their rows."""
    if "stratum" not in columns:
        return None
    inside = stratum_mask(columns["stratum"], stratum)
    return {name: column[inside] for name, column in columns.items()}


@dataclass(frozen=True)
class Ratio:
    """``sum(numerator) / sum(denominator)`` over users, float64 ``[U]`` each."""

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def value(self) -> float:
        """The ratio; NaN where the denominator sums to 0."""
        below = float(self.denominator.sum())
        return float(self.numerator.sum()) / below if below else float("nan")

    def influence(self) -> np.ndarray:
        """float64 ``[U]``, sums to 0: what each user adds to the value, to first order; NaN where it is undefined."""
        below = float(self.denominator.sum())
        if not below:
            return np.full(len(self.numerator), np.nan)
        return np.asarray((self.numerator - self.value * self.denominator) / below)

    def jackknife(self) -> np.ndarray:
        """float64 ``[U]``: the value minus the value without each user, in closed form; 0 where nothing would be left."""
        rest = float(self.denominator.sum()) - self.denominator
        deviation = self.numerator - self.value * self.denominator
        return np.divide(deviation, rest, out=np.zeros(len(rest)), where=rest != 0)


@dataclass(frozen=True)
class Auc:
    """An AUC over rows. user_influence: float64 ``[U]``, sums to 0."""

    value: float
    user_influence: np.ndarray

    def influence(self) -> np.ndarray:
        """float64 ``[U]``: what each user adds to the value, to first order."""
        return self.user_influence

    def jackknife(self) -> np.ndarray:
        """The influence: equal to the jackknife up to a factor that no acceleration sees, to first order."""
        return self.user_influence


def contributions(columns: Columns, metric: NamedMetric, keys: np.ndarray) -> Ratio | Auc | None:
    """One run's per-user results as contributions to a metric over the sorted user ``keys`` ``[U]``.

    columns: retrieval ``user`` and one column a metric, one entry a user; ranking ``user``, ``label``, ``score``, one
    entry a row. Users the run lacks contribute nothing. ``None`` when the columns do not hold the metric.
    """
    owner = np.searchsorted(keys, columns["user"])
    if metric.statistic in (ROW_AUC, USER_AUC):
        if not {"label", "score"} <= columns.keys():
            return None
        if metric.statistic == ROW_AUC:
            return auc_contributions(owner, columns["label"], columns["score"], len(keys))
        inside = user_aucs(owner, columns["label"], columns["score"])
        return Ratio(_sums(inside.user, inside.auc * inside.rows, len(keys)), _sums(inside.user, inside.rows, len(keys)))
    if metric.statistic not in (USER_MEAN, USER_RATIO):
        return None
    above, below = metric.ratio or (metric.name, "")
    if above not in columns or (below and below not in columns):
        return None
    under = columns[below] if below else np.ones(len(owner))
    return Ratio(_sums(owner, columns[above], len(keys)), _sums(owner, under, len(keys)))


def _sums(owner: np.ndarray, values: np.ndarray, n_keys: int) -> np.ndarray:
    return np.bincount(owner, weights=np.asarray(values, np.float64), minlength=n_keys)


def auc_components(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """float64 ``[R]``: for a positive row the share of negatives it beats, for a negative row the share of positives
    that beat it, ties one half; the mean over either class is the AUC. NaN when a class is absent."""
    order = np.argsort(score, kind="stable")
    ordered, positive = score[order], label[order] > 0
    block = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
    plus, minus = (np.bincount(block, weights=part, minlength=block[-1] + 1) for part in (positive, ~positive))
    below = np.cumsum(minus) - minus / 2
    above = plus.sum() - (np.cumsum(plus) - plus / 2)
    found = np.full(len(score), np.nan)
    if plus.sum() and minus.sum():
        found[order] = np.where(positive, (below / minus.sum())[block], (above / plus.sum())[block])
    return found


def auc_contributions(owner: np.ndarray, label: np.ndarray, score: np.ndarray, n_keys: int) -> Auc:
    """AUC of rows ``[R]`` with the summed DeLong components of each of ``n_keys`` owners; NaN for a single class."""
    if not len(score):
        return Auc(float("nan"), np.full(n_keys, np.nan))
    component, positive = auc_components(label, score), label > 0
    if np.isnan(component[0]):
        return Auc(float("nan"), np.full(n_keys, np.nan))
    value = float(component[positive].mean())
    weight = np.where(positive, 1 / positive.sum(), 1 / (~positive).sum())
    return Auc(value, _sums(owner, (component - value) * weight, n_keys))
