"""Which items stand near each other in training sequences, as sparse matrices, and how these are saved.

``C_ij = sum over pairs of events of i and j in one sequence, at most `window` steps apart, of 1 / distance``.
Symmetric, with an empty diagonal: an item bought twice says nothing about other items.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Sequences

PARTS = ("indptr", "indices", "values")


def check_training(who: str, sequences: Sequences, n_items: int) -> None:
    """Raise ``InputError`` for training items outside the catalogue."""
    items = sequences.items
    if len(items) and (items.min() < 0 or items.max() >= n_items):
        raise InputError(
            f"{who}: training items",
            got=f"{items.min()}..{items.max()}",
            wanted=f"0..{n_items - 1}",
            do="check the split and the size of the catalogue",
        )


def cooccurrence(sequences: Sequences, n_items: int, window: int) -> sparse.csr_array:
    """``C`` float64 ``[N, N]`` of the module's formula. Memory grows with distinct pairs, not with events x window."""
    items, owner = sequences.items, np.repeat(np.arange(sequences.n_users), sequences.lengths)
    total = sparse.csr_array((n_items, n_items), dtype=np.float64)
    longest = int(sequences.lengths.max(initial=0))
    for distance in range(1, min(window, longest - 1) + 1):
        left, right = items[:-distance], items[distance:]
        pair = (owner[:-distance] == owner[distance:]) & (left != right)
        weight = np.full(int(pair.sum()), 1.0 / distance)
        total = total + sparse.csr_array((weight, (left[pair], right[pair])), shape=(n_items, n_items))
    return in_rows(total + total.T)


def over_roots(matrix: sparse.csr_array, size: np.ndarray) -> sparse.csr_array:
    """``M_ij / sqrt(size_i size_j)``; size: float64 ``[N]``, positive wherever ``M`` has an entry."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    values = matrix.data / np.sqrt(size[row] * size[matrix.indices])
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)


def in_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """Compressed rows in ascending order of columns: equal matrices are equal arrays, and sums have one order."""
    matrix = sparse.csr_array(matrix)
    matrix.sum_duplicates()
    return matrix


def sparse_state(name: str, matrix: sparse.csr_array) -> dict[str, np.ndarray]:
    """A sparse matrix as entries of ``state_dict``: ``<name>_indptr``, ``_indices``, ``_values`` and ``_columns``."""
    return {
        f"{name}_indptr": matrix.indptr.astype(np.int64),
        f"{name}_indices": matrix.indices.astype(np.int64),
        f"{name}_values": matrix.data.astype(np.float64),
        f"{name}_columns": np.array([matrix.shape[1]], np.int64),
    }


def sparse_from_state(who: str, name: str, state: Mapping[str, np.ndarray]) -> sparse.csr_array:
    """Inverse of ``sparse_state``. Raises ``InputError`` for entries that are missing or make no matrix."""
    wanted = [f"{name}_{part}" for part in (*PARTS, "columns")]
    missing = [entry for entry in wanted if entry not in state]
    if missing:
        raise InputError(f"{who}: saved state", got=f"no {', '.join(missing)}", wanted=", ".join(wanted), do="fit it again")
    indptr, indices, values, columns = (state[entry] for entry in wanted)
    try:
        matrix = sparse.csr_array((values, indices, indptr), shape=(len(indptr) - 1, int(columns[0])))
        matrix.check_format(full_check=True)
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{who}: saved state {name}", got=str(error), wanted="a matrix of compressed rows", do="fit it again"
        ) from error
    return matrix


def only_entries(who: str, state: Mapping[str, np.ndarray], wanted: Mapping[str, object]) -> None:
    """Raise ``InputError`` if ``state`` holds entries that are not in ``wanted``."""
    strangers = sorted(set(state) - set(wanted))
    if strangers:
        raise InputError(
            f"{who}: saved state", got=f"also {', '.join(strangers)}", wanted=", ".join(sorted(wanted)), do="fit it again"
        )
