"""The bootstrap over users: drawn with replacement, the same draws for every run, so that differences are paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sidbench.benchmark.metrics.declaration import ROW_AUC, NamedMetric
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.statistics.contributions import Columns, Ratio, contributions

RESAMPLES = 1_000
_CHUNK = 50  # divides RESAMPLES; bounds memory to 50 counts a user


class AucRows:
    """A run's rows in order of score, so that a resample of users is one pass over them."""

    def __init__(self, columns: Columns, keys: np.ndarray) -> None:
        order = np.argsort(columns["score"], kind="stable")
        score = columns["score"][order]
        self.owner = np.searchsorted(keys, columns["user"])[order]
        self.positive = columns["label"][order] > 0
        self.blocks = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))  # starts of tied scores

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """Mann-Whitney AUC float64 ``[C]`` when user ``u`` counts ``weights[:, u]`` times; ties one half, NaN where a
        class is absent."""
        rows = weights[:, self.owner].astype(np.float32)  # counts and their sums stay exact far above a million rows
        plus = rows * self.positive
        minus = rows - plus
        if len(self.blocks) < rows.shape[1]:
            plus, minus = (np.add.reduceat(part, self.blocks, axis=1) for part in (plus, minus))
        wins = (plus * (np.cumsum(minus, axis=1) - minus / 2)).sum(axis=1, dtype=np.float64)
        pairs = plus.sum(axis=1, dtype=np.float64) * minus.sum(axis=1, dtype=np.float64)
        return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def user_keys(runs: Sequence[Columns]) -> np.ndarray:
    """The sorted users of all runs."""
    first = runs[0]["user"]
    if all(np.array_equal(run["user"], first) for run in runs[1:]):
        return np.unique(first)
    return np.unique(np.concatenate([run["user"] for run in runs]))


def bootstrap(runs: Sequence[Columns], metrics: Sequence[NamedMetric], rng: Rng) -> list[dict[str, np.ndarray]]:
    """For each run: metric -> its value float64 ``[RESAMPLES]`` under each resample of users.

    runs: columns of per-user files, see ``contributions``. Metrics that a run's columns do not hold are left out.
    Users that some run lacks are drawn all the same; pairing holds where runs overlap. NaN where a resample leaves a
    metric undefined.
    """
    named = user_keys(runs)
    keys = np.arange(len(named))
    runs = [{**run, "user": np.searchsorted(named, run["user"])} for run in runs]  # once, not once a metric
    columns: list[np.ndarray] = []
    places: list[dict[str, tuple[int, int]]] = [{} for _ in runs]

    def place(values: np.ndarray) -> int:
        columns.append(values)
        return len(columns) - 1

    of_rows = [metric.name for metric in metrics if metric.statistic == ROW_AUC]
    ones: dict[bytes, int] = {}  # the denominators of means are the same column for every metric and most runs
    for found, run in zip(places, runs, strict=True):
        for metric in (m for m in metrics if m.statistic != ROW_AUC):
            part = contributions(run, metric, keys)
            if isinstance(part, Ratio):
                mark = part.denominator.tobytes()
                if mark not in ones:
                    ones[mark] = place(part.denominator)
                found[metric.name] = (place(part.numerator), ones[mark])
    matrix = np.stack(columns, axis=1) if columns else np.zeros((len(keys), 0))
    ranked = [AucRows(run, keys) if of_rows and {"label", "score"} <= run.keys() else None for run in runs]
    totals: list[np.ndarray] = []
    aucs: list[list[np.ndarray]] = [[] for _ in runs]
    for weights in draws(len(keys), rng):
        totals.append(weights @ matrix)
        for rows, parts in zip(ranked, aucs, strict=True):
            if rows is not None:
                parts.append(rows.auc(weights))
    drawn = np.concatenate(totals)
    result: list[dict[str, np.ndarray]] = []
    for found, parts in zip(places, aucs, strict=True):
        values = {metric: _ratio(drawn[:, above], drawn[:, below]) for metric, (above, below) in found.items()}
        result.append(values | (dict.fromkeys(of_rows, np.concatenate(parts)) if parts else {}))
    return result


def draws(n_users: int, rng: Rng) -> Iterator[np.ndarray]:
    """Resamples of users in chunks: float64 ``[chunk, n_users]``, how often each user was drawn."""
    generator = rng.numpy()
    for _ in range(RESAMPLES // _CHUNK):
        counts = [np.bincount(generator.integers(0, n_users, n_users), minlength=n_users) for _ in range(_CHUNK)]
        yield np.stack(counts).astype(np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)
