"""The shortcut line, by hand."""

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
from sidbench.recommenders.graph_text import GraphText, tfidf

RUNTIME = local_runtime()
TRAIN = [[0, 1, 2], [1, 0]]
TEXTS = ("soap", "brush", "comb", "soap", "")


def fitted(texts: tuple[str, ...] | None = TEXTS, train: list[list[int]] | None = None, **settings: Any) -> GraphText:
    """On a catalogue of five items."""
    data = replace(make_retrieval(), n_items=5, train=as_sequences(train or TRAIN), item_text=texts)
    return GraphText(**settings).fit(data, None, Rng(0), RUNTIME)


def ranked(model: GraphText, history: list[int]) -> TargetRanks:
    """Ranks of every item as the target of one history."""
    return model.rank_targets(as_sequences([history] * 5), np.arange(5, dtype=np.int32), None, RUNTIME)


def test_graph_and_text_by_hand() -> None:
    model = fitted(window=2)
    assert model.graph_ is not None
    expected = np.zeros((5, 5))  # C_01 = 2, C_12 = 1, C_02 = 1/2; degrees 5/2, 3, 3/2
    expected[0, 1], expected[1, 2], expected[0, 2] = 2 / 7.5**0.5, 1 / 4.5**0.5, 0.5 / 3.75**0.5
    expected += expected.T
    np.testing.assert_allclose(model.graph_.toarray(), expected)
    ranks = ranked(model, [0, 1])  # weights 1/2 and 1; items 0 and 3 have one text, items 1 and 2 one of their own
    likeness = 0.32 * np.array([0.5, 1, 0, 0.5, 0])
    np.testing.assert_allclose(ranks.score, 0.5 * expected[0] + expected[1] + likeness, rtol=1e-6)
    assert ranks.masked_better[3] == 1 and ranks.masked_better[4] == 2  # items 2 and 3 before it


def test_equal_texts_tie_and_the_graph_alone_is_the_weight_zero() -> None:
    alone = ranked(fitted(text_weight=0.0), [0])
    assert alone.score[3] == alone.score[4] == 0
    twice = ranked(fitted(("brush", "soap of lime", "comb", "soap of lime", ""), [[2], [2]]), [1, 0])
    assert twice.score[1] == twice.score[3] > 0 and twice.tied[1] == 2


def test_tfidf_rows_have_length_one_and_forget_what_most_items_share() -> None:
    texts = ("shop lime soap", "shop lime", "shop brush", "", "shop comb comb")
    rows = tfidf(texts).toarray()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0, 1])
    likeness = rows @ rows.T
    assert likeness[0, 1] > 0 and likeness[0, 2] == 0  # "shop" stands in over half of the texts


def test_planted_chain_is_found_by_the_graph() -> None:
    data = make_chain(500, 30, 0.8)
    model = GraphText(text_weight=0.0, window=1).fit(data, None, Rng(0), RUNTIME)
    ranks = model.rank_targets(data.test_history, data.test_target, None, RUNTIME)
    assert np.mean((ranks.masked_better == 0) / ranks.masked_tied) > 0.65


def test_cold_items_are_found_by_their_texts() -> None:
    """Items 3 and 4 are never met in training."""
    ranks = ranked(fitted(("red soap", "brush", "comb", "blue brush", "red soap")), [0])
    assert ranks.masked_better[4] < ranks.masked_better[3]


def test_conformance() -> None:
    check_recommender(GraphText)


@pytest.mark.parametrize("texts", [None, ("soap",), ("",) * 5, ("soap",) * 5])
def test_missing_and_useless_texts_are_refused(texts: tuple[str, ...] | None) -> None:
    with pytest.raises(InputError, match="item texts") as raised:
        fitted(texts)
    assert "item_knn" in raised.value.do


def test_nothing_before_it_is_fitted_and_no_foreign_state() -> None:
    empty, state = GraphText(), fitted().state_dict()
    with pytest.raises(InputError, match="fit"):
        ranked(empty, [0])
    other = fitted(TEXTS).state_dict()
    other["text_indptr"] = other["text_indptr"][:-1]  # texts of four items: the last has none
    for wrong in ({**state, "stranger": np.zeros(1)}, other, {}):
        with pytest.raises(InputError, match="saved state"):
            empty.load_state_dict(wrong)
