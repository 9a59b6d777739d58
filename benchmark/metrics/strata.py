"""Popularity strata of items by training interactions: quartiles of *items*, not of interactions."""

from __future__ import annotations

import numpy as np

from sidbench.benchmark.metrics.declaration import STRATA

HEAD, TORSO, TAIL, COLD = 0, 1, 2, 3
NAMES = STRATA


def item_strata(train_counts: np.ndarray) -> np.ndarray:
    """int8 ``[N]`` labels ``HEAD``, ``TORSO``, ``TAIL`` or ``COLD`` from training counts ``[N]``.

    Items are ranked by falling count, equal counts by rising item index. The first ``N // 4`` are head, the last
    ``N // 4`` tail, the rest torso. Items without training interactions are ``COLD``
    wherever the quartiles would put them; ``stratum_mask`` counts them as tail too, so the tail exceeds a quartile
    when more than a quarter of the catalogue is cold. Fewer than four items give torso (and cold) only.
    """
    n, quarter = len(train_counts), len(train_counts) // 4
    order = np.argsort(-np.asarray(train_counts, np.float64), kind="stable")
    labels = np.full(n, TORSO, np.int8)
    labels[order[:quarter]] = HEAD
    labels[order[n - quarter :]] = TAIL
    labels[np.asarray(train_counts) == 0] = COLD
    return labels


def stratum_mask(labels: np.ndarray, name: str) -> np.ndarray:
    """bool mask of one stratum of ``NAMES``; "tail" includes cold items, which "cold" reports again on their own."""
    if name == "tail":
        return np.asarray((labels == TAIL) | (labels == COLD))
    return np.asarray(labels == NAMES.index(name))


def split_stratum(metric: str) -> tuple[str, str]:
    """A metric's name without the stratum at its end, and that stratum: ``auc_tail`` gives ("auc", "tail"), ``auc`` gives
    ("auc", "")."""
    base, _, last = metric.rpartition("_")
    return (base, last) if base and last in NAMES else (metric, "")
