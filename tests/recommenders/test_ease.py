"""EASE against its formula, by hand and on planted groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_retrieval
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.ease import Ease

RUNTIME = local_runtime()


def fitted(train: list[list[int]], n_items: int, **settings: Any) -> Ease:
    data = replace(make_retrieval(), n_items=n_items, train=as_sequences(train))
    return Ease(**settings).fit(data, None, Rng(0), RUNTIME)


def test_weights_and_ranks_by_hand() -> None:
    # X^T X + I = [[3, 1], [1, 2]], P = [[2, -1], [-1, 3]] / 5; items 2 to 4 are never seen.
    model = fitted([[0, 1, 1], [0]], 5, l2=1.0)
    expected = np.zeros((5, 5))
    expected[0, 1], expected[1, 0] = 1 / 3, 1 / 2
    np.testing.assert_allclose(model.weights_, expected, atol=1e-6)
    ranks = model.rank_targets(as_sequences([[1, 1], [0], [0]]), np.array([0, 0, 4], np.int32), None, RUNTIME)
    np.testing.assert_allclose(ranks.score, [1 / 2, 0, 0], atol=1e-6)  # what stands twice in a history counts once
    assert ranks.better.tolist() == [0, 1, 1] and ranks.tied.tolist() == [1, 4, 4]
    assert ranks.masked_better.tolist() == [0, 1, 1] and ranks.masked_tied.tolist() == [1, 4, 3]


@pytest.mark.parametrize("l2", [0.5, 500.0])
def test_equals_the_formula_of_the_paper(l2: float) -> None:
    generator = np.random.default_rng(0)
    train = [generator.integers(40, size=generator.integers(1, 9)).tolist() for _ in range(200)]
    x = np.zeros((200, 40))
    for user, items in enumerate(train):
        x[user, items] = 1
    p = np.linalg.inv(x.T @ x + l2 * np.eye(40))
    b = np.eye(40) - p / np.diag(p)
    model = fitted(train, 40, l2=l2)
    np.testing.assert_allclose(model.weights_, b, atol=2e-6)
    ranks = model.rank_targets(as_sequences(train), np.zeros(200, np.int32), None, RUNTIME)
    np.testing.assert_allclose(ranks.score, (x @ b)[:, 0], atol=1e-5)
    assert 0 <= model.diagnostics()["inverse_error"] < 1e-5
    assert model.weights_ is not None and model.weights_.flags.c_contiguous  # else each block of users copies it


def test_planted_groups() -> None:
    """Users stay within one of six groups of five items, so the rest of a group comes before all other items."""
    generator = np.random.default_rng(0)
    train = [(5 * generator.integers(6) + generator.permutation(5)[:3]).tolist() for _ in range(600)]
    model = fitted(train, 30, l2=10.0)
    ranks = model.rank_targets(
        as_sequences([[5 * g, 5 * g + 1] for g in range(6)]), np.array([5 * g + 4 for g in range(6)]), None, RUNTIME
    )
    assert (ranks.masked_better + ranks.masked_tied <= 3).all()


def test_conformance() -> None:
    check_recommender(Ease)


def test_too_many_items_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="max_items=4") as raised:
        fitted([[0, 1]], 5, max_items=4)
    assert "max_items=5" in raised.value.do and "item_knn" in raised.value.do


def test_a_penalty_too_small_for_single_precision_is_refused() -> None:
    train = [list(range(30))] * 20_000  # one direction with an eigenvalue of 600,000, the others with l2
    with pytest.raises(InputError, match="raise retriever.l2"):
        fitted(train, 30, l2=1e-3)


@pytest.mark.parametrize("outside", [5, -1])
def test_items_outside_the_catalogue_are_refused(outside: int) -> None:
    with pytest.raises(InputError, match="training items"):
        fitted([[0, outside]], 5)


def test_nothing_before_it_is_fitted_and_no_foreign_state() -> None:
    empty = Ease()
    with pytest.raises(InputError, match="fit"):
        empty.rank_targets(as_sequences([[1]]), np.zeros(1, np.int32), None, RUNTIME)
    for state in ({}, {"weights": np.zeros((2, 3))}, {"weights": np.zeros((2, 2)), "stranger": np.zeros(1)}):
        with pytest.raises(InputError, match="weights"):
            empty.load_state_dict(state)
