"""Reconstruction error per modality and preservation of distances between items.

Raw training losses of different tokenizers are not comparable (targets and reductions differ); these numbers are,
among tokenizers that reconstruct the modality. All are computed over the items for which the modality is available, in
the scale of ``ItemFeatures`` (one scalar per modality, so the normalised errors equal those of the input space).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import kendalltau

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

TAU_ITEMS = 2_000


def _check_pair(original: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if original.shape != estimate.shape or original.ndim != 2:
        raise InputError("reconstruction", got=f"shape {estimate.shape}", wanted=f"the embeddings' shape {original.shape}")
    return original.astype(np.float64), estimate.astype(np.float64)


def nmse(original: np.ndarray, estimate: np.ndarray) -> float | None:
    """``sum_i ||e_i - ê_i||^2 / sum_i ||e_i - mean||^2`` over rows of ``[M, D]``.

    0 = exact, 1 = no better than predicting the mean, above 1 = worse. ``None`` (undefined) when there is no row or
    when all rows are equal. Raises ``InputError`` when the shapes differ.
    """
    e, e_hat = _check_pair(original, estimate)
    if len(e) == 0:
        return None
    spread = float(((e - e.mean(axis=0)) ** 2).sum())
    return float(((e - e_hat) ** 2).sum()) / spread if spread > 0 else None


def mean_cosine(original: np.ndarray, estimate: np.ndarray) -> float | None:
    """Mean cosine between ``e_i`` and ``ê_i`` over rows of ``[M, D]``; a pair with a zero vector counts as 0.

    ``None`` when there is no row. Raises ``InputError`` when the shapes differ.
    """
    e, e_hat = _check_pair(original, estimate)
    if len(e) == 0:
        return None
    norms = np.linalg.norm(e, axis=1) * np.linalg.norm(e_hat, axis=1)
    dots = (e * e_hat).sum(axis=1)
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).mean())


def tau_sample(n_items: int) -> np.ndarray:
    """Sorted int64 indices of at most ``TAU_ITEMS`` items; the same for every run and seed on a catalogue."""
    if n_items <= TAU_ITEMS:
        return np.arange(n_items)
    return np.sort(Rng(0).child("metrics", "kendall_tau").numpy().choice(n_items, TAU_ITEMS, replace=False))


def distance_tau(original: np.ndarray, estimate: np.ndarray) -> float | None:
    """Kendall tau-b between Euclidean pair distances before and after quantisation (MME-SID), rows ``[M, D]``.

    Tau-b corrects for ties, which collisions make frequent: items with one SID have distance 0. ``None`` for fewer than
    three rows or when all distances on one side are equal.
    """
    e, e_hat = _check_pair(original, estimate)
    if len(e) < 3:
        return None
    # Squared distances rank pairs alike; pdist (not a Gram matrix) keeps exact ties exact.
    tau = float(kendalltau(pdist(e, "sqeuclidean"), pdist(e_hat, "sqeuclidean"), variant="b").statistic)
    return tau if np.isfinite(tau) else None


def seed_like(
    nmse_by_modality: Mapping[str, float], probe_by_modality: Mapping[str, float], modalities: tuple[str, ...]
) -> float | None:
    """Mean over ``modalities`` of the tokenizer's own nmse, or of its probe where it reconstructs nothing.

    The closest robust analogue of the single reconstruction figure of published tables. ``None`` when a modality has
    neither number, or when there is no modality.
    """
    values = [nmse_by_modality.get(m, probe_by_modality.get(m)) for m in modalities]
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
