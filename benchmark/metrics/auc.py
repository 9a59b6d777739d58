"""AUC and GAUC of binary labels, with strata of items and bootstrap intervals over users.

AUC is the Mann-Whitney statistic with mid-ranks, ``(sum of positive ranks - n+ (n+ + 1) / 2) / (n+ n-)``; a tie
between a positive and a negative counts one half. GAUC (Deep Interest Network, KDD 2018) is the weighted mean of AUC
within users, over the users V that have at least one positive and one negative row:

    GAUC = sum_{u in V} w_u AUC_u / sum_{u in V} w_u

with ``w_u`` = rows of u (``gauc``, impression-weighted), positives of u (``gauc_click_weighted``) or 1
(``gauc_unweighted``). Users outside V leave numerator and denominator; ``gauc_coverage_users`` and
``gauc_coverage_rows`` say how much is left. What is undefined (one label only) is reported with its reason, never NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.metrics.ranking_at_k import as_metric, ratio_intervals
from sidbench.benchmark.metrics.strata import NAMES as STRATA
from sidbench.benchmark.metrics.strata import stratum_mask
from sidbench.datasets.foundation.errors import InputError

AUC_RESAMPLES = 200


class UserAucs(NamedTuple):
    """Users with both labels. user int64, auc float64, rows int64, positives int64, all ``[V]``."""

    user: np.ndarray
    auc: np.ndarray
    rows: np.ndarray
    positives: np.ndarray


class RankingNumbers(NamedTuple):
    """Result of ``ranking_metrics``.

    per_user: the columns of ``UserAucs``. metrics: name -> summary. undefined: name -> why there is no number.
    counts: rows, positives, users, users left out of GAUC for having one label only.
    """

    per_user: dict[str, np.ndarray]
    metrics: dict[str, Metric]
    undefined: dict[str, str]
    counts: dict[str, int]


def check_rows(user: np.ndarray, label: np.ndarray, score: np.ndarray) -> None:
    """Raise ``InputError`` unless there are equally many users, labels in {0, 1} and finite scores, at least one."""
    if not len(user) == len(label) == len(score) or len(user) == 0:
        raise InputError(
            "ranking rows",
            got=f"{len(user)} users, {len(label)} labels, {len(score)} scores",
            wanted="equally many, at least one",
        )
    if not np.isin(label, (0, 1)).all():
        raise InputError("ranking labels", got=f"values {np.unique(label)[:5].tolist()}", wanted="0 and 1")
    if not np.isfinite(score).all():
        raise InputError(
            "ranking scores",
            got=f"{int((~np.isfinite(score)).sum())} NaN or infinite scores",
            wanted="finite scores",
            do="check the ranker's predict",
        )


def weighted_auc(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC with integer row weights, float64 ``[W]`` for ``weights`` ``[W, R]``; NaN where a class has no weight.

    A row of weight w counts as w equal rows, so one sort serves every bootstrap resample.
    """
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # first row of each tied block
    positive = label[order] > 0
    result = np.empty(len(weights))
    for i, row in enumerate(weights):
        w = row[order].astype(np.float64)
        plus = np.add.reduceat(w * positive, starts)
        minus = np.add.reduceat(w * ~positive, starts)
        pairs = plus.sum() * minus.sum()
        wins = (plus * (np.cumsum(minus) - minus / 2)).sum()  # negatives below, plus half of those tied
        result[i] = wins / pairs if pairs > 0 else np.nan
    return result


def auc(label: np.ndarray, score: np.ndarray) -> float | None:
    """AUC over all rows ``[R]``; constant scores give 0.5; ``None`` when one class is absent."""
    if len(label) == 0:
        return None
    value = float(weighted_auc(label, score, np.ones((1, len(label))))[0])
    return value if np.isfinite(value) else None


def user_aucs(user: np.ndarray, label: np.ndarray, score: np.ndarray) -> UserAucs:
    """AUC within each user that has both labels, vectorised over users with mid-ranks inside each user."""
    users, owner = np.unique(user, return_inverse=True)
    owner = owner.reshape(-1)
    order = np.lexsort((score, owner))
    u, s, positive = owner[order], score[order], label[order] > 0
    rows = np.bincount(owner, minlength=len(users))
    block = np.cumsum(np.concatenate([[False], (u[1:] != u[:-1]) | (s[1:] != s[:-1])])) if len(u) else u
    size = np.bincount(block)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    # 1-based mid-rank of a tied block inside its user: rank of the block's middle minus the rows of earlier users.
    rank = (first + (size + 1) / 2)[block] - (np.cumsum(rows) - rows)[u]
    n_plus = np.bincount(u[positive], minlength=len(users))
    rank_sum = np.bincount(u[positive], weights=rank[positive], minlength=len(users))
    both = (n_plus > 0) & (n_plus < rows)
    plus, minus = n_plus[both], (rows - n_plus)[both]
    value = (rank_sum[both] - plus * (plus + 1) / 2) / (plus * minus)
    return UserAucs(users[both].astype(np.int64), value, rows[both].astype(np.int64), plus.astype(np.int64))


def _auc_summary(user: np.ndarray, label: np.ndarray, score: np.ndarray, generator: np.random.Generator) -> Metric | None:
    """AUC with the percentile bootstrap over users; ``n`` counts rows. ``None`` when one class is absent."""
    value = auc(label, score)
    if value is None:
        return None
    users, owner = np.unique(user, return_inverse=True)
    n = len(users)
    if n < 2:
        return Metric(value=value, n=len(label))
    draws = np.empty(AUC_RESAMPLES)
    for i in range(0, AUC_RESAMPLES, 20):
        picks = [np.bincount(generator.integers(0, n, n), minlength=n)[owner.reshape(-1)] for _ in range(20)]
        draws[i : i + 20] = weighted_auc(label, score, np.stack(picks))
    low, high = np.percentile(draws, [2.5, 97.5])
    return as_metric(value, len(label), low, high)


def _gauc_summaries(per_user: UserAucs, suffix: str, generator: np.random.Generator) -> dict[str, Metric]:
    """GAUC (overall: all three variants) with the bootstrap over users of V; ``n`` counts them. V must not be empty."""
    weights = {"gauc": per_user.rows}
    if not suffix:
        weights |= {"gauc_click_weighted": per_user.positives, "gauc_unweighted": np.ones_like(per_user.rows)}
    denominators = np.stack(list(weights.values()), axis=1).astype(np.float64)
    value, low, high = ratio_intervals(denominators * per_user.auc[:, None], denominators, generator)
    return {name + suffix: as_metric(value[i], len(per_user.user), low[i], high[i]) for i, name in enumerate(weights)}


def ranking_metrics(
    user: np.ndarray, label: np.ndarray, score: np.ndarray, item_strata: np.ndarray | None, generator: np.random.Generator
) -> RankingNumbers:
    """AUC, GAUC and their strata over test rows ``[R]``.

    user int ``[R]``; label ``[R]`` in {0, 1}; score float ``[R]``, higher = more likely positive; item_strata int8
    ``[R]`` stratum of each row's item (``strata.item_strata(...)[item]``), or ``None``. Stratified numbers keep only
    rows whose item lies in the stratum; they are not a decomposition of the overall AUC, because popularity differences
    between strata drop out. Raises ``InputError`` as ``check_rows`` does.
    """
    check_rows(user, label, score)
    if item_strata is not None and len(item_strata) != len(user):
        raise InputError("item strata", got=len(item_strata), wanted=f"{len(user)} labels, one per row")
    parts = {"": np.ones(len(user), bool)}
    if item_strata is not None:
        parts.update({f"_{name}": stratum_mask(item_strata, name) for name in STRATA})
    overall = user_aucs(user, label, score)
    metrics: dict[str, Metric] = {}
    undefined: dict[str, str] = {}
    for suffix, inside in parts.items():
        u, y, s = user[inside], label[inside], score[inside]
        if summary := _auc_summary(u, y, s, generator):
            metrics["auc" + suffix] = summary
        else:
            undefined["auc" + suffix] = f"{int((y > 0).sum())} positive of {len(y)} rows; both labels are needed"
        aucs = user_aucs(u, y, s) if suffix else overall
        if len(aucs.user):
            metrics |= _gauc_summaries(aucs, suffix, generator)
        else:
            names = ("gauc",) if suffix else ("gauc", "gauc_click_weighted", "gauc_unweighted")
            undefined |= {name + suffix: f"none of {len(np.unique(u))} users has both labels" for name in names}
    n_users, covered = len(np.unique(user)), len(overall.user)
    metrics["gauc_coverage_users"] = Metric(value=covered / n_users, n=n_users)
    metrics["gauc_coverage_rows"] = Metric(value=float(overall.rows.sum()) / len(user), n=len(user))
    counts = {
        "rows": len(user),
        "positives": int((label > 0).sum()),
        "users": n_users,
        "users_with_one_label": n_users - covered,
    }
    return RankingNumbers(overall._asdict(), metrics, undefined, counts)
