"""Random slots, distinct inside each group."""

from __future__ import annotations

import numpy as np

from sidbench.datasets.foundation.seeds import Rng

BLOCK_CELLS = 1 << 22


def random_slots(ids: np.ndarray, ranks: np.ndarray, slots: int, rng: Rng) -> np.ndarray:
    """int64 ``[N]``: entry ``ranks[i]`` of the random permutation of ``slots`` numbers that belongs to group ``ids[i]``.

    ids: dense int64 ``[N]``; ranks: int64 ``[N]``, distinct inside a group and below ``slots``.
    """
    generator = rng.child("slots").numpy()
    column = np.zeros(len(ids), np.int64)
    order = np.argsort(ids, kind="stable")
    n_groups, step = int(ids.max(initial=-1)) + 1, max(1, BLOCK_CELLS // slots)
    bounds = np.searchsorted(ids[order], np.arange(0, n_groups + step, step))
    for block, start in enumerate(range(0, n_groups, step)):
        rows = order[bounds[block] : bounds[block + 1]]
        permutations = generator.random((min(step, n_groups - start), slots)).argsort(axis=1)
        column[rows] = permutations[ids[rows] - start, ranks[rows]]
    return column
