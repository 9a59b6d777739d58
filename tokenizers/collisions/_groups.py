"""Groups of items by equal codes."""

from __future__ import annotations

import numpy as np

from sidbench.tokenizers.base import PAD


def group_ids(codes: np.ndarray) -> np.ndarray:
    """Dense int64 ``[N]`` ids of equal rows of codes int ``[N, L]``, in lexicographic order; one group for ``L = 0``."""
    if codes.shape[1] == 0:
        return np.zeros(len(codes), np.int64)
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def members(ids: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Items of each of the groups ``wanted``, in order of item index."""
    order = np.argsort(ids, kind="stable")
    counts = np.bincount(ids)
    ends = np.cumsum(counts)
    return [order[ends[g] - counts[g] : ends[g]] for g in wanted]


def last_used(codes: np.ndarray) -> int:
    """The last position where some item has a code; the last of all when none has."""
    used = np.flatnonzero((codes != PAD).any(axis=0))
    return int(used[-1]) if len(used) else codes.shape[1] - 1


def prefix_ids(codes: np.ndarray) -> np.ndarray:
    """Dense int64 ``[N]`` ids of the prefix groups: items that agree everywhere but at the last used position."""
    return group_ids(np.delete(codes, last_used(codes), axis=1))
