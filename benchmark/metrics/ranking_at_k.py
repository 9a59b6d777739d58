"""Recall@K and NDCG@K of one target per user, as exact item-level expectations when ranks are tied.

A target stands somewhere in a block of ``G`` tied items behind ``P`` better ones: items that share its SID, or items
with exactly its score. Its rank is uniform on ``P + 1 .. P + G``; with ``m = min(G, max(0, K - P))``

    Recall@K = m / G,        NDCG@K = (1/G) sum_{i=1..m} 1 / log2(P + i + 1),

the expectation over a random order inside the block, which is what a recommender that must fill K slots achieves.
Without ties (G = 1) both are the textbook metrics. Variants from the same arithmetic:

- ``optimistic`` / ``pessimistic``: the target first / last in its block;
- ``sid_``: ranks counted in distinct SIDs, so any item with the target's SID is a hit (code-string matching, as many
  published tables do it); ``inflation_recall_at_K`` is the mean of this over the item-level mean;
- ``masked_``: item level after the user's history left the candidates.

A beam knows ranks down to a depth only. A metric at cut-off K is left out, with the reason, when the list of any user
is shorter than K (or than the catalogue): a target below the list counts as missed, so the number would be too low.

Every summary number is a ratio of two sums over users; its interval is the percentile bootstrap over users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from sidbench.benchmark.metrics.cutoffs import CUTOFFS, lead_cutoff
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.metrics.strata import NAMES as STRATA
from sidbench.benchmark.metrics.strata import stratum_mask
from sidbench.datasets.foundation.errors import InputError

ITEM_FAMILIES = (
    "item_recall",
    "item_ndcg",
    "masked_item_recall",
    "masked_item_ndcg",
    "optimistic_recall",
    "pessimistic_recall",
    "inflation_recall",
)
SID_FAMILIES = ("sid_recall", "sid_ndcg", "inflation_recall")
RESAMPLES = 1_000
_CHUNK = 32


class RankIntervals(Protocol):
    """The arrays int ``[B]`` of ``sidbench.recommenders.base.TargetRanks`` that metrics read."""

    @property
    def better(self) -> np.ndarray: ...
    @property
    def tied(self) -> np.ndarray: ...
    @property
    def sid_better(self) -> np.ndarray: ...
    @property
    def sid_tied(self) -> np.ndarray: ...
    @property
    def masked_better(self) -> np.ndarray: ...
    @property
    def masked_tied(self) -> np.ndarray: ...
    @property
    def depth(self) -> np.ndarray: ...
    @property
    def sid_depth(self) -> np.ndarray: ...


class RetrievalNumbers(NamedTuple):
    """Result of ``retrieval_metrics``.

    per_user: name -> float32 ``[B]``, or bool ``[B]`` for ``in_head`` ... ``in_cold``. metrics: name -> summary.
    undefined: name -> why there is no number.
    """

    per_user: dict[str, np.ndarray]
    metrics: dict[str, Metric]
    undefined: dict[str, str]


def check_ranks(better: np.ndarray, tied: np.ndarray, what: str = "ranks") -> None:
    """Raise ``InputError`` unless both are integer ``[B]`` with ``better >= 0`` and ``tied >= 1``."""
    if better.shape != tied.shape or better.ndim != 1:
        raise InputError(what, got=f"shapes {better.shape} and {tied.shape}", wanted="two vectors, one entry per user")
    if not (np.issubdtype(better.dtype, np.integer) and np.issubdtype(tied.dtype, np.integer)):
        raise InputError(what, got=f"dtypes {better.dtype} and {tied.dtype}", wanted="integer counts")
    if len(better) and (better.min() < 0 or tied.min() < 1):
        raise InputError(
            what,
            got=f"better down to {better.min()}, tied down to {tied.min()}",
            wanted="better >= 0 and tied >= 1 (the target ties with itself)",
        )


def recall_at_k(better: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """Expected Recall@K float64 ``[B]``: ``m / G`` with ``m = min(G, max(0, K - P))``."""
    return np.minimum(tied, np.maximum(0, k - better)) / tied


def ndcg_at_k(better: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """Expected NDCG@K float64 ``[B]``: ``(1/G) sum_{i=1..m} 1/log2(P + i + 1)`` through cumulative discounts."""
    cumulative = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    return (cumulative[np.minimum(better + tied, k)] - cumulative[np.minimum(better, k)]) / tied


def optimistic_recall_at_k(better: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """Recall@K float64 ``[B]`` with the target first in its block: ``1{P + 1 <= K}``."""
    return (better < k).astype(np.float64)


def pessimistic_recall_at_k(better: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """Recall@K float64 ``[B]`` with the target last in its block: ``1{P + G <= K}``."""
    return (better + tied <= k).astype(np.float64)


def ratio_intervals(
    numerators: np.ndarray, denominators: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios of sums over users and their 95 % percentile bootstrap bounds, float64 ``[M]`` each.

    numerators, denominators: ``[B, M]``; users are drawn with replacement ``RESAMPLES`` times, the same draws for all
    columns. NaN where undefined: a ratio with denominator sum 0; bounds also for fewer than two users with a non-zero
    denominator, or when some resample has denominator 0. Bounds of an all-equal column have width 0.
    """
    n, width = numerators.shape
    both = np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    draws = np.empty((RESAMPLES, width))
    with np.errstate(invalid="ignore", divide="ignore"):
        totals = both.sum(axis=0)
        value = np.where(totals[width:] != 0, totals[:width] / totals[width:], np.nan)
        for start in range(0, RESAMPLES, _CHUNK):
            rows = min(_CHUNK, RESAMPLES - start)
            weights = np.stack([np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(rows)])
            sums = weights.astype(np.float64) @ both
            draws[start : start + rows] = np.where(sums[:, width:] != 0, sums[:, :width] / sums[:, width:], np.nan)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)  # NaN as soon as one resample is undefined
    lone = (denominators != 0).sum(axis=0) < 2
    low[lone], high[lone] = np.nan, np.nan
    return value, low, high


def as_metric(value: float, n: int, low: float, high: float) -> Metric:
    """A ``Metric`` whose bounds are left out where they are NaN."""
    if np.isfinite(low) and np.isfinite(high):
        return Metric(value=float(value), n=n, low=float(low), high=float(high))
    return Metric(value=float(value), n=n)


def beyond_depth(ranks: RankIntervals, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, str]:
    """Name -> reason of every metric whose cut-off the list of some user does not reach.

    Needed are ``min(K, N)`` items (or distinct SIDs). N is the largest rank in sight: an exact user's depth, or the end
    of the interval of a target outside its list; without either, every target was found and nothing is missed.
    """
    missing: dict[str, str] = {}
    for unit, depth, better, tied, families in (
        ("items", ranks.depth, ranks.better, ranks.tied, ITEM_FAMILIES),
        ("SIDs", ranks.sid_depth, ranks.sid_better, ranks.sid_tied, SID_FAMILIES),
    ):
        if depth.shape != better.shape or not np.issubdtype(depth.dtype, np.integer):
            raise InputError(
                f"depth of ranks in {unit}",
                got=f"{depth.dtype} {depth.shape}",
                wanted=f"one integer per user ({len(better)})",
            )
        if len(depth) == 0:
            continue
        reach, total = int(depth.min()), int(max(depth.max(), (better + tied).max()))
        for k in cutoffs:
            if reach < min(k, total):
                missing.update({f"{family}_at_{k}": f"beam covers {reach} {unit}" for family in families})
    return missing


def per_user_metrics(ranks: RankIntervals, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, np.ndarray]:
    """Name -> float32 ``[B]`` of every variant at every cut-off within reach (see ``beyond_depth``).

    Raises ``InputError`` for impossible ranks.
    """
    views = {
        "item": (ranks.better, ranks.tied),
        "sid": (ranks.sid_better, ranks.sid_tied),
        "masked_item": (ranks.masked_better, ranks.masked_tied),
    }
    values: dict[str, np.ndarray] = {}
    for view, (better, tied) in views.items():
        check_ranks(better, tied, f"{view} ranks")
        for k in cutoffs:
            values[f"{view}_recall_at_{k}"] = recall_at_k(better, tied, k)
            values[f"{view}_ndcg_at_{k}"] = ndcg_at_k(better, tied, k)
    for k in cutoffs:
        values[f"optimistic_recall_at_{k}"] = optimistic_recall_at_k(ranks.better, ranks.tied, k)
        values[f"pessimistic_recall_at_{k}"] = pessimistic_recall_at_k(ranks.better, ranks.tied, k)
    missing = beyond_depth(ranks, cutoffs)
    return {name: column.astype(np.float32) for name, column in values.items() if name not in missing}


def retrieval_metrics(
    ranks: RankIntervals,
    target_strata: np.ndarray | None,
    generator: np.random.Generator,
    cutoffs: tuple[int, ...] = CUTOFFS,
) -> RetrievalNumbers:
    """Per-user values and summaries with n and 95 % interval.

    ranks: rank intervals of ``B`` targets. target_strata: int8 ``[B]`` labels of the targets
    (``item_strata(train_counts)[targets]``), or ``None`` for no strata. Raises ``InputError`` for no users,
    impossible ranks or labels of another length.
    """
    per_user = per_user_metrics(ranks, cutoffs)
    n_users = len(ranks.better)
    if n_users == 0:
        raise InputError("retrieval metrics", got="no evaluated user", wanted="at least one")
    if target_strata is not None and len(target_strata) != n_users:
        raise InputError("target strata", got=len(target_strata), wanted=f"{n_users} labels")
    ones = np.ones(n_users, np.float32)
    undefined = beyond_depth(ranks, cutoffs)
    pairs = {name: (column, ones) for name, column in per_user.items()}
    for k in cutoffs:
        if f"inflation_recall_at_{k}" not in undefined:
            pairs[f"inflation_recall_at_{k}"] = (per_user[f"sid_recall_at_{k}"], per_user[f"item_recall_at_{k}"])
    if target_strata is not None:
        for stratum in STRATA:
            inside = stratum_mask(target_strata, stratum)
            per_user[f"in_{stratum}"] = inside
            for kind in ("recall", "ndcg"):
                name = f"item_{kind}_at_{lead_cutoff(cutoffs)}"
                if name in undefined:
                    undefined[f"{name}_{stratum}"] = undefined[name]
                else:
                    pairs[f"{name}_{stratum}"] = (per_user[name] * inside, inside.astype(np.float32))
    if not pairs:
        return RetrievalNumbers(per_user, {}, undefined)
    value, low, high = ratio_intervals(
        np.stack([p[0] for p in pairs.values()], axis=1), np.stack([p[1] for p in pairs.values()], axis=1), generator
    )
    metrics: dict[str, Metric] = {}
    for i, (name, (_, denominator)) in enumerate(pairs.items()):
        inflation = name.startswith("inflation")
        if np.isfinite(value[i]):
            n = n_users if inflation else int(np.count_nonzero(denominator))
            metrics[name] = as_metric(value[i], n, low[i], high[i])
        else:
            undefined[name] = "item-level recall is 0" if inflation else "no target in this stratum"
    return RetrievalNumbers(per_user, metrics, undefined)


def bound_violations(values: Mapping[str, float], tolerance: float = 1e-6) -> tuple[str, ...]:
    """Names of the pairs that no single-target Recall/NDCG table can hold; empty for a sound table.

    For cut-offs a < b with one relevant item (expectations over tie orders included):

        (R@b - R@a) / log2(b + 1)  <=  N@b - N@a  <=  (R@b - R@a) / log2(a + 2),      N@K <= R@K,      R@a <= R@b.

    values: metric name -> mean, names such as ``item_recall_at_10`` or ``item_ndcg_at_10_head``; every pair of recall
    and ndcg with equal prefix and suffix is checked. tolerance: slack of each inequality; about 2e-4 for tables
    printed with four digits.
    """
    table: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for name, value in values.items():
        match = re.fullmatch(r"(.*?)(recall|ndcg)_at_(\d+)(.*)", name)
        if match and not match[1].startswith("inflation"):
            table.setdefault((match[1], match[4]), {}).setdefault(int(match[3]), {})[match[2]] = value
    broken: list[str] = []
    for (prefix, suffix), cutoffs in table.items():
        complete = sorted(k for k, row in cutoffs.items() if len(row) == 2)
        for k in complete:
            if cutoffs[k]["ndcg"] > cutoffs[k]["recall"] + tolerance:
                broken.append(f"{prefix}ndcg_at_{k}{suffix} > {prefix}recall_at_{k}{suffix}")
        for a, b in zip(complete, complete[1:], strict=False):
            d_recall = cutoffs[b]["recall"] - cutoffs[a]["recall"]
            d_ndcg = cutoffs[b]["ndcg"] - cutoffs[a]["ndcg"]
            step = f"{prefix}ndcg_at_{a}{suffix} -> {prefix}ndcg_at_{b}{suffix}"
            if d_recall < -tolerance:
                broken.append(f"{prefix}recall_at_{a}{suffix} > {prefix}recall_at_{b}{suffix}")
            elif d_ndcg > d_recall / np.log2(a + 2) + tolerance:
                broken.append(f"{step} rises more than recall allows")
            elif d_ndcg < d_recall / np.log2(b + 1) - tolerance:
                broken.append(f"{step} rises less than recall demands")
    return tuple(broken)
