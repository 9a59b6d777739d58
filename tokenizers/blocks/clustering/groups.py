"""Ranks of items inside groups."""

from __future__ import annotations

import numpy as np


def group_ranks(ids: np.ndarray) -> np.ndarray:
    """0-based int64 ``[N]`` rank of each item inside its group (ids int64 ``[N]``), by item index."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids)) - np.searchsorted(ordered, ordered, side="left")
    return ranks
