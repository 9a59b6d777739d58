"""Most popular items, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, make_retrieval
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.most_popular import MostPopular, MostPopularConfig

RUNTIME = local_runtime()


def fitted(data: RetrievalData) -> MostPopular:
    return MostPopular(MostPopularConfig()).fit(data, None, Rng(0), RUNTIME)


def counted(*items: int) -> MostPopular:
    """Fitted on a catalogue of five items."""
    return fitted(replace(make_retrieval(), n_items=5, train=as_sequences([list(items)])))


def test_ranks_by_hand() -> None:
    model = counted(0, 0, 0, 1, 1, 2, 2, 3)  # 3, 2, 2, 1, 0 events
    ranks = model.rank_targets(
        as_sequences([[4], [4], [0, 3], [0, 1, 1], [0]]), np.array([0, 1, 4, 2, 0], np.int32), None, RUNTIME
    )
    assert ranks.better.tolist() == [0, 1, 4, 1, 0] and ranks.tied.tolist() == [1, 2, 1, 2, 1]
    assert ranks.masked_better.tolist() == [0, 1, 2, 0, 0] and ranks.masked_tied.tolist() == [1, 2, 1, 1, 1]
    assert ranks.sid_better.tolist() == ranks.better.tolist() and ranks.score.tolist() == [3.0, 2.0, 0.0, 2.0, 3.0]
    assert set(ranks.depth) == {5} and model.diagnostics()["ms_per_user"] > 0 and model.n_parameters == 5


def test_large_requests_are_cut_and_give_the_same() -> None:
    model = counted(0, 0, 1, 2)
    many = 700_000  # times 5 items: more scores than are held at once
    ranks = model.rank_targets(as_sequences([[3]] * many), np.full(many, 1, np.int32), None, RUNTIME)
    assert set(ranks.better.tolist()) == {1} and set(ranks.tied.tolist()) == {2}


@pytest.mark.parametrize("outside", [5, -1])
def test_items_outside_the_catalogue_are_refused(outside: int) -> None:
    with pytest.raises(InputError, match="training items"):
        counted(0, outside)
    with pytest.raises(InputError, match="targets"):
        counted(0).rank_targets(as_sequences([[1]]), np.array([outside], np.int32), None, RUNTIME)
    with pytest.raises(InputError, match="history items"):
        counted(0).rank_targets(as_sequences([[outside]]), np.array([1], np.int32), None, RUNTIME)


def test_nothing_before_it_is_fitted_and_no_foreign_state() -> None:
    empty = MostPopular(MostPopularConfig())
    with pytest.raises(InputError, match="fit"):
        empty.rank_targets(as_sequences([[1]]), np.zeros(1, np.int32), None, RUNTIME)
    with pytest.raises(InputError, match="fit"):
        empty.state_dict()
    for state in ({}, {"counts": np.zeros(2), "stranger": np.zeros(1)}, {"counts": np.zeros((2, 2))}):
        with pytest.raises(InputError, match="counts"):
            empty.load_state_dict(state)
