"""The best that any recommender can do on planted data: Bayes-optimal rankings and their expected metrics.

All functions are pure. For a true next-item distribution ``p`` the ranking by ``p`` maximises the expectation of every
metric that pays a non-increasing reward by rank, so

    E Recall@K <= sum of the K largest p,        E NDCG@K <= sum_{r=1..K} p_(r) / log2(r + 1).

The bounds hold for rankings of the whole catalogue; removing a user's history from the candidates changes the
problem, since the planted transition model allows repeats. Realised values scatter around the expectation by sampling error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sidbench.datasets.base import PlantedTruth
from sidbench.datasets.foundation.errors import InputError

_CELLS = 1 << 22  # dense (user, item) cells held at once


def rank_rewards(k: int) -> dict[str, np.ndarray]:
    """float64 ``[k]`` reward of each rank for "recall" and "ndcg" with one relevant item."""
    return {"recall": np.ones(k), "ndcg": 1.0 / np.log2(np.arange(2, k + 2))}


def expected_metrics(probability: np.ndarray, ranking: np.ndarray) -> dict[str, np.ndarray]:
    """Expected "recall" and "ndcg" float64 ``[B]`` of top lists under the true transition model.

    probability: ``[B, N]`` true next-item probabilities. ranking: int ``[B, K]`` distinct items, best first.
    Raises ``InputError`` when a list names an item twice.
    """
    if np.any(np.diff(np.sort(ranking, axis=1), axis=1) == 0):
        raise InputError("ranking", got="a list that repeats an item", wanted="distinct items")
    mass = np.take_along_axis(probability, ranking, axis=1).astype(np.float64)
    return {name: mass @ reward for name, reward in rank_rewards(ranking.shape[1]).items()}


def oracle_ranking(probability: np.ndarray, k: int) -> np.ndarray:
    """int64 ``[B, k]`` most probable items, best first; ``k`` at most ``N``."""
    top = np.argpartition(-probability, k - 1, axis=1)[:, :k]
    best_first = np.argsort(-np.take_along_axis(probability, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, best_first, axis=1)


def oracle_bounds(
    truth: PlantedTruth, user: np.ndarray, last_item: np.ndarray, cutoffs: Sequence[int] = (10,)
) -> dict[str, float]:
    """Mean expected metrics of the oracle over (user, last item) pairs: ``{"recall@10": ..., "ndcg@10": ...}``.

    user, last_item: int ``[B]``; ``last_item`` -1 for an empty history. No method exceeds these in expectation.
    """
    n_items = len(truth.path)
    totals: dict[str, float] = {f"{name}@{k}": 0.0 for k in cutoffs for name in ("recall", "ndcg")}
    for rows in _batches(len(user), n_items):
        probability = truth.next_item(user[rows], last_item[rows])
        ranking = oracle_ranking(probability, min(max(cutoffs), n_items))
        for k in cutoffs:
            for name, value in expected_metrics(probability, ranking[:, :k]).items():
                totals[f"{name}@{k}"] += float(value.sum())
    return {name: total / len(user) for name, total in totals.items()}


def oracle_ranks(
    truth: PlantedTruth, user: np.ndarray, last_item: np.ndarray, target: np.ndarray
) -> Mapping[str, np.ndarray]:
    """Where the realised targets stand in the oracle's ranking, ties stated: "better" and "tied" int64 ``[B]``.

    better: items strictly more probable than the target; tied: items equally probable, the target included.
    """
    better, tied = np.empty(len(user), np.int64), np.empty(len(user), np.int64)
    for rows in _batches(len(user), len(truth.path)):
        probability = truth.next_item(user[rows], last_item[rows])
        score = np.take_along_axis(probability, np.asarray(target[rows])[:, None].astype(np.int64), axis=1)
        better[rows], tied[rows] = (probability > score).sum(axis=1), (probability == score).sum(axis=1)
    return {"better": better, "tied": tied}


def expected_auc(score: np.ndarray, like: np.ndarray) -> float:
    """Expected AUC of ``score`` ``[R]`` when row ``r`` is positive with probability ``like[r]``, independently.

    Ratio of expectations: pairs ordered rightly (ties one half) over pairs of a positive and a negative,
    ``sum_{i != j} p_i (1 - p_j) [s_i > s_j] / sum_{i != j} p_i (1 - p_j)``; it differs from the expectation of the
    ratio by O(1/R). No score exceeds ``expected_auc(like, like)``: p_i (1 - p_j) > p_j (1 - p_i) exactly if p_i > p_j.
    Raises ``InputError`` when there is no pair.
    """
    p = np.asarray(like, np.float64)
    if len(p) != len(score) or len(p) < 2:
        raise InputError("expected AUC", got=f"{len(score)} scores and {len(p)} probabilities", wanted="two or more of each")
    _, group = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(group, p), np.bincount(group, 1.0 - p)
    below = np.concatenate([[0.0], np.cumsum(negative)[:-1]])
    itself = float(p @ (1.0 - p))  # the pair of a row with itself is no pair
    pairs = float(p.sum() * (1.0 - p).sum()) - itself
    if pairs <= 0.0:
        raise InputError("expected AUC", got="like probabilities that are all 0 or all 1", wanted="both classes possible")
    return (float(positive @ below) + 0.5 * (float(positive @ negative) - itself)) / pairs


def _batches(rows: int, n_items: int) -> list[slice]:
    step = max(_CELLS // n_items, 1)
    return [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]
