"""Item kNN, by hand and on a planted chain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain, make_retrieval
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.item_knn import ItemKnn

RUNTIME = local_runtime()
TRAIN = [[0, 1, 2], [1, 0], [3, 3]]


def fitted(train: list[list[int]], **settings: Any) -> ItemKnn:
    """On a catalogue of five items."""
    return ItemKnn(**settings).fit(replace(make_retrieval(), n_items=5, train=as_sequences(train)), None, Rng(0), RUNTIME)


def ranked(model: ItemKnn, history: list[int]) -> TargetRanks:
    """Ranks of every item as the target of one history."""
    return model.rank_targets(as_sequences([history] * 5), np.arange(5, dtype=np.int32), None, RUNTIME)


def test_similarities_and_scores_by_hand() -> None:
    model = fitted(TRAIN, window=2, shrinkage=0.0)
    assert model.similarity_ is not None
    expected = np.zeros((5, 5))  # counts 2, 2, 1, 2, 0; C_01 = 2, C_12 = 1, C_02 = 1/2
    expected[0, 1], expected[1, 2], expected[0, 2] = 2 / 2, 1 / 2**0.5, 0.5 / 2**0.5
    np.testing.assert_allclose(model.similarity_.toarray(), expected + expected.T)
    ranks = ranked(model, [0, 1])
    np.testing.assert_allclose(ranks.score, [1, 0.5, 0.25 / 2**0.5 + 1 / 2**0.5, 0, 0], rtol=1e-6)
    assert ranks.better.tolist() == [0, 2, 1, 3, 3] and ranks.tied.tolist() == [1, 1, 1, 2, 2]
    assert ranks.masked_better.tolist() == [0, 1, 0, 1, 1] and ranks.masked_tied.tolist() == [1, 1, 1, 2, 2]
    assert model.diagnostics()["similar_pairs"] == 6 == model.n_parameters


def test_window_shrinkage_and_decay_by_hand() -> None:
    near = fitted(TRAIN, window=1, shrinkage=2.0, decay=1.0)
    assert near.similarity_ is not None
    dense = near.similarity_.toarray()
    assert dense[0, 2] == 0 and dense[0, 1] == pytest.approx(2 / 4) and dense[1, 2] == pytest.approx(1 / 12**0.5)
    assert ranked(near, [0, 1, 0]).score[1] == pytest.approx(2 * 0.5)  # an item met twice counts twice
    assert ranked(fitted(TRAIN, window=1, shrinkage=2.0, decay=0.0), [1, 0]).score.tolist() == [0, 0.5, 0, 0, 0]


def test_only_the_nearest_are_kept_with_all_that_tie() -> None:
    kept = fitted(TRAIN, window=2, shrinkage=0.0, neighbours=1).similarity_
    assert kept is not None and np.argwhere(kept.toarray() > 0).tolist() == [[0, 1], [1, 0], [2, 1]]
    tied = fitted([[1, 0], [1, 2]], neighbours=1).similarity_
    assert tied is not None and np.argwhere(tied.toarray() > 0).tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]


def test_planted_chain() -> None:
    data = make_chain(500, 30, 0.8)
    model = ItemKnn(window=1, shrinkage=0.0).fit(data, None, Rng(0), RUNTIME)
    ranks = model.rank_targets(data.test_history, data.test_target, None, RUNTIME)
    # The graph has no direction: the predecessor is as near as the successor, until the history is masked.
    assert np.mean((ranks.masked_better == 0) / ranks.masked_tied) > 0.65
    assert np.mean((ranks.better <= 1) & (ranks.tied == 1)) > 0.65


def test_blocks_of_users_give_the_same() -> None:
    model, many = fitted(TRAIN), 500_000  # times 5 items: more scores than are held at once
    ranks = model.rank_targets(as_sequences([[0]] * many), np.full(many, 1, np.int32), None, RUNTIME)
    assert set(ranks.better.tolist()) == {0} and len(set(ranks.score.tolist())) == 1


def test_conformance() -> None:
    check_recommender(ItemKnn)


def test_no_pairs_tie_everything() -> None:
    ranks = ranked(fitted([[3], [], [2, 2]]), [3])
    assert set(ranks.better) == {0} and set(ranks.tied) == {5}


@pytest.mark.parametrize("outside", [5, -1])
def test_items_outside_the_catalogue_are_refused(outside: int) -> None:
    with pytest.raises(InputError, match="training items"):
        fitted([[0, outside]])
    with pytest.raises(InputError, match="history items"):
        ranked(fitted(TRAIN), [outside])


def test_nothing_before_it_is_fitted_and_no_foreign_state() -> None:
    empty, state = ItemKnn(), fitted(TRAIN).state_dict()
    with pytest.raises(InputError, match="fit"):
        ranked(empty, [0])
    broken = (
        {**state, "stranger": np.zeros(1)},
        {**state, "similarity_indices": state["similarity_indices"] + 5},
        {**state, "similarity_columns": np.array([9])},
        {},
    )
    for wrong in broken:
        with pytest.raises(InputError, match="saved state"):
            empty.load_state_dict(wrong)
