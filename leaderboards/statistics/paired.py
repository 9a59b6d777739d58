"""Two rows over the same users and items: difference, BCa interval, permutation test, users won and lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sidbench.benchmark.metrics.auc import user_aucs
from sidbench.benchmark.metrics.declaration import USER_AUC, NamedMetric
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.statistics.bca import acceleration, bca_interval
from sidbench.leaderboards.statistics.contributions import Auc, Columns, Ratio, contributions
from sidbench.leaderboards.statistics.permutation import PermutationTest, sign_flip_tests
from sidbench.leaderboards.statistics.resampling import bootstrap

UNIT_COLUMNS = {"retrieval": ("user", "target"), "ranking": ("user", "row")}  # what one result belongs to
# Columns that metrics are computed from, where results are not the metrics themselves. Files of retrieval have a `score`
# too, which is -inf for a target outside the beam and belongs to no metric.
RESULT_COLUMNS = {"retrieval": (), "ranking": ("label", "score")}
_EQUAL = 1e-6  # per-user values are float32: differences below are none


@dataclass(frozen=True)
class Paired:
    """Per-user results of two rows, one entry of ``left`` and ``right`` a seed. All columns of all seeds have the same
    units in the same order; ``user`` indexes ``users`` (names). left_out: units that not every seed has."""

    left: tuple[Columns, ...]
    right: tuple[Columns, ...]
    users: np.ndarray
    left_out: int = 0

    @property
    def units(self) -> Columns:
        """What the results belong to: the columns of any seed."""
        return self.left[0]

    def within(self, mask: np.ndarray) -> Paired:
        """Only the units of a mask bool ``[E]``."""
        kept = np.flatnonzero(mask)
        left, right = (tuple({n: v[kept] for n, v in c.items()} for c in side) for side in (self.left, self.right))
        return replace(self, left=left, right=right)


@dataclass(frozen=True)
class Difference:
    """One metric of two rows.

    left, right: means over seeds. difference: left minus right, with its 95 % BCa interval over users (``None`` where
    there is none). test: of "no difference" over users. better, worse, equal: users whose left value is higher, lower,
    equal; ``None`` for metrics that single users do not have. n_users: users that count. n_units: users or rows read.
    """

    metric: str
    left: float
    right: float
    difference: float
    low: float | None
    high: float | None
    test: PermutationTest
    better: int | None
    worse: int | None
    equal: int | None
    n_users: int
    n_units: int


def align(task: str, left: Sequence[Columns], right: Sequence[Columns], partial: bool = False) -> Paired:
    """Bring seeds of two rows to the same units: (user, target) for retrieval, rows of the data set for ranking.

    Raises ``InputError`` when they are about different users or items, unless ``partial``: then units that not every
    seed has are left out and counted; and when none is left, or columns are missing.
    """
    every = [*left, *right]
    names = UNIT_COLUMNS[task]
    missing = [n for n in names if any(n not in c for c in every)]
    if missing:
        raise InputError(
            f"per-user {task} results",
            got=f"no column {', '.join(missing)}",
            wanted=f"columns {', '.join(names)}",
            do="run both again",
        )
    keys = [np.char.add(np.char.add(c[names[0]].astype(str), "\x1f"), c[names[1]].astype(str)) for c in every]
    for key in keys:
        if len(np.unique(key)) < len(key):
            raise InputError(
                f"per-user {task} results",
                got=f"{len(key) - len(np.unique(key))} repeated entries",
                wanted=f"one result for each {' and '.join(names)}",
            )
    common = keys[0]
    for key in keys[1:]:
        common = common if np.array_equal(common, key) else np.intersect1d(common, key)
    common = np.sort(common)
    left_out = int(len(np.unique(np.concatenate(keys))) - len(common)) if any(len(k) > len(common) for k in keys) else 0
    if left_out and not partial:
        raise InputError(
            f"per-user {task} results of two rows",
            got=f"{left_out:,} results that not all runs have",
            wanted="the same users and items",
            do="compare runs of one protocol, or add --force",
        )
    if not len(common):
        raise InputError(f"per-user {task} results of two rows", got="no user and item in common", wanted="at least one")
    aligned = []
    for columns, key in zip(every, keys, strict=True):
        order = np.argsort(key, kind="stable")
        order = order[np.searchsorted(key[order], common)]
        aligned.append({name: values[order] for name, values in columns.items()})
    users, index = np.unique(aligned[0]["user"], return_inverse=True)
    aligned = [{**columns, "user": index} for columns in aligned]
    if task == "ranking" and not all(np.array_equal(c["label"], aligned[0]["label"]) for c in aligned):
        raise InputError("labels of ranking rows", got="other labels in one run", wanted="the same labels in all runs")
    return Paired(tuple(aligned[: len(left)]), tuple(aligned[len(left) :]), users, left_out)


def differences(paired: Paired, metrics: Sequence[NamedMetric], rng: Rng) -> list[Difference]:
    """The difference in each metric that all seeds have and that is defined for both rows."""
    named, index = np.unique(paired.units["user"], return_inverse=True)
    keys, n_left = np.arange(len(named)), len(paired.left)
    runs = [{**columns, "user": index} for columns in (*paired.left, *paired.right)]
    parts = {m: [contributions(run, m, keys) for run in runs] for m in metrics}
    usable = {m: [p for p in found if p is not None and np.isfinite(p.value)] for m, found in parts.items()}
    names = [m for m in metrics if len(usable[m]) == len(runs)]
    if not names:
        return []
    draws = bootstrap(runs, names, rng.child("bootstrap"))
    values, jackknives, contributed = [], [], []
    for metric in names:
        found: list[Ratio | Auc] = usable[metric]
        values.append(_gap([p.value for p in found], n_left))
        jackknives.append(_gap([p.jackknife() for p in found], n_left))
        ratios = [p for p in found if isinstance(p, Ratio)]
        contributed.append(_exchange(ratios, n_left) if ratios else _gap([p.influence() for p in found], n_left))
    statistics = np.array(
        [
            value if isinstance(usable[metric][0], Auc) else part.sum()
            for metric, value, part in zip(names, values, contributed, strict=True)
        ]
    )
    tests = sign_flip_tests(np.stack(contributed, axis=1), rng.child("signs"), statistics)
    results = []
    for metric, value, jackknife, test in zip(names, values, jackknives, tests, strict=True):
        found = usable[metric]
        drawn = _gap([d[metric.name] for d in draws], n_left)
        ends = bca_interval(float(value), drawn, acceleration(jackknife)) if len(named) > 1 else None
        low, high = ends if ends is not None else (None, None)
        better, worse, equal = _won(paired, metric)
        results.append(
            Difference(
                metric.name,
                float(np.mean([p.value for p in found[:n_left]])),
                float(np.mean([p.value for p in found[n_left:]])),
                float(value),
                low,
                high,
                test,
                better,
                worse,
                equal,
                _n_users(found, len(named)),
                len(index),
            )
        )
    return results


def _n_users(found: Sequence[Ratio | Auc], n_users: int) -> int:
    """Users that count in a metric: GAUC is over those with both labels."""
    ratios = [p.denominator != 0 for p in found if isinstance(p, Ratio)]
    return int(np.any(ratios, axis=0).sum()) if ratios else n_users


def _gap(values: Sequence[Any], n_left: int) -> np.ndarray:
    """Mean over the first ``n_left`` entries minus mean over the rest."""
    return np.asarray(np.mean(values[:n_left], axis=0) - np.mean(values[n_left:], axis=0))


def _exchange(ratios: Sequence[Ratio], n_left: int) -> np.ndarray:
    """float64 ``[U]``: what exchanging the two rows' results of a user turns round, see ``permutation``."""
    above, below = (_gap([getattr(r, part) for r in ratios], n_left) for part in ("numerator", "denominator"))
    totals = [
        np.mean([getattr(r, part).sum() for r in side])
        for part in ("numerator", "denominator")
        for side in (ratios[:n_left], ratios[n_left:])
    ]
    pooled = (totals[0] + totals[1]) / (totals[2] + totals[3])
    return np.asarray(above - pooled * below)


def user_values(columns: Columns, metric: NamedMetric) -> tuple[np.ndarray, np.ndarray] | None:
    """Users int ``[V]`` and their own value float64 ``[V]``: the metric, or for GAUC the AUC within the user; ``None``
    for metrics that single users do not have."""
    if metric.statistic == USER_AUC and {"label", "score"} <= columns.keys():
        inside = user_aucs(columns["user"], columns["label"], columns["score"])
        return inside.user, inside.auc
    if metric.name in columns and metric.name not in ("label", "score"):
        return columns["user"], columns[metric.name].astype(np.float64)
    return None


def user_gaps(paired: Paired, metric: NamedMetric) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Users int ``[V]``, left and right value float64 ``[V]`` (means over seeds); ``None`` as ``user_values``."""
    sides = [[user_values(columns, metric) for columns in side] for side in (paired.left, paired.right)]
    found = [[v for v in side if v is not None] for side in sides]
    if not all(found):
        return None
    left, right = (np.mean([values for _, values in side], axis=0) for side in found)
    return found[0][0][0], left, right


def _won(paired: Paired, metric: NamedMetric) -> tuple[int | None, int | None, int | None]:
    gaps = user_gaps(paired, metric)
    if gaps is None:
        return None, None, None
    gap = gaps[1] - gaps[2]
    better, worse = int((gap > _EQUAL).sum()), int((gap < -_EQUAL).sum())
    return better, worse, len(gap) - better - worse
