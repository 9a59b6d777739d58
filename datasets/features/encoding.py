"""``Encoding``, what every encoder returns, and the deterministic principal components that some of them end with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

_EXACT_WIDTH = 1536  # widest input whose covariance is decomposed exactly (seconds); wider ones are sampled


@dataclass(frozen=True)
class Encoding:
    """embeddings: float32 ``[N, D]``, unscaled, zero where not available. available: bool ``[N]``.

    counts: everything dropped, broken or unused, for the record.
    """

    embeddings: np.ndarray
    available: np.ndarray
    counts: Mapping[str, int] = field(default_factory=dict)


def encoding(rows: np.ndarray, available: np.ndarray, counts: Mapping[str, int]) -> Encoding:
    """Spread ``rows`` ``[A, D]`` of the available items over all ``N`` items."""
    embeddings = np.zeros((len(available), rows.shape[1]), np.float32)
    embeddings[available] = rows
    return Encoding(embeddings, available, dict(counts))


def fix_signs(components: np.ndarray) -> np.ndarray:
    """Signs ``[C]`` that make the largest loading of every row of ``components`` ``[C, F]`` positive.

    A singular vector is defined up to its sign; without a rule the sign depends on the linear algebra library.
    """
    largest = np.abs(components).argmax(axis=1)
    return np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)


def principal_components(rows: np.ndarray, dim: int, rng: Rng, who: str) -> np.ndarray:
    """Project ``rows`` float ``[A, F]`` on at most ``dim`` principal components: float32 ``[A, min(dim, A - 1, F)]``.

    Directions whose variance is below 1e-10 of the first are left out, so the width never exceeds the rank. Inputs
    wider than 1,536 use a randomised SVD (Halko et al. 2011) seeded by ``rng``.

    Raises ``InputError`` with fewer than two rows or when all rows are equal.
    """
    if len(rows) < 2:
        raise InputError(
            f"{who}: principal components",
            got=f"{len(rows)} items to fit on",
            wanted="at least two",
            do="use another encoder for so small a catalogue",
        )
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    if np.square(centred).sum() <= 1e-12 * max(1.0, float(np.square(rows, dtype=np.float64).sum())):
        raise InputError(
            f"{who}: principal components",
            got="the same vector for every item",
            wanted="vectors that differ",
            do="check the source of the embeddings",
        )
    width = min(dim, len(rows) - 1, rows.shape[1])
    if rows.shape[1] <= _EXACT_WIDTH:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        values, components = values[::-1][:width], vectors.T[::-1][:width]
    else:
        from sklearn.utils.extmath import randomized_svd

        _, singular, components = randomized_svd(centred, width, n_iter=4, random_state=rng.integer() % 2**32)
        values = singular**2
    components = components[values > 1e-10 * values[0]]
    return np.asarray(centred @ (components * fix_signs(components)[:, None]).T, np.float32)
