"""Reconstruction error, cosine, distance preservation and the seed-like mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.metrics import reconstruction as r
from sidbench.datasets.foundation.errors import InputError

E = np.random.default_rng(3).standard_normal((40, 5)).astype(np.float32)


def test_nmse_of_mean_is_one_and_of_identity_zero() -> None:
    assert r.nmse(E, np.broadcast_to(E.mean(axis=0), E.shape)) == pytest.approx(1, abs=1e-6)
    assert r.nmse(E, E) == 0
    assert r.nmse(np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]])) == pytest.approx(0.5)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_nmse_ignores_scale_and_shift(scale: float, seed: int) -> None:
    guess = E + np.random.default_rng(seed).standard_normal(E.shape)
    assert r.nmse(E * scale + 1, guess * scale + 1) == pytest.approx(r.nmse(E, guess), rel=1e-3)


def test_undefined_is_none() -> None:
    assert r.nmse(np.ones((4, 2)), np.zeros((4, 2))) is None
    assert r.nmse(np.zeros((0, 2)), np.zeros((0, 2))) is None
    assert r.mean_cosine(np.zeros((0, 2)), np.zeros((0, 2))) is None
    assert r.distance_tau(E, np.zeros_like(E)) is None
    assert r.distance_tau(E[:2], E[:2]) is None


def test_cosine_counts_zero_vectors_as_zero() -> None:
    assert r.mean_cosine(np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.5)
    assert r.mean_cosine(np.eye(2), np.array([[3.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.5)
    assert r.mean_cosine(E, -2 * E) == pytest.approx(-1)


def test_tau_by_hand_and_at_its_ends() -> None:
    # Distances 1, 3, 2 against 0, 3, 3: two concordant pairs, one tie on the right: 2 / sqrt(3 * 2).
    assert r.distance_tau(np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [0.0], [3.0]])) == pytest.approx(2 / 6**0.5)
    assert r.distance_tau(E, 5 * E) == pytest.approx(1, abs=1e-3)
    assert abs(r.distance_tau(E, np.random.default_rng(1).standard_normal(E.shape)) or 0) < 0.2


def test_tau_items_are_fixed_distinct_and_bounded() -> None:
    assert r.tau_sample(50).tolist() == list(range(50))
    first = r.tau_sample(12_101)
    assert len(np.unique(first)) == r.TAU_ITEMS
    assert first.max() < 12_101
    assert (first == r.tau_sample(12_101)).all()


def test_seed_like_prefers_own_error_and_needs_every_modality() -> None:
    modalities = ("text", "vision", "behaviour")
    probes = {"text": 0.9, "vision": 0.6, "behaviour": 0.8}
    assert r.seed_like({"text": 0.4}, probes, modalities) == pytest.approx(0.6)
    assert r.seed_like({"text": 0.4}, {"vision": 0.6}, modalities) is None
    assert r.seed_like({}, {}, ()) is None


def test_shape_mismatch_is_named() -> None:
    with pytest.raises(InputError, match="reconstruction"):
        r.nmse(E, E[:, :3])
