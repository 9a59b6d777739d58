"""The conformance check must catch the faults it names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.testing.recommenders import RANKER_CHECKS, RETRIEVER_CHECKS, check_recommender
from sidbench.datasets.foundation.errors import StageError
from sidbench.recommenders.base import RankingData, RetrievalData, TargetRanks
from sidbench.recommenders.ppnet import Ppnet
from sidbench.recommenders.sasrec import Sasrec


@pytest.mark.parametrize("name", [n for n, p in installed().plugins("recommender").items() if p.source == "sidbench"])
def test_in_tree_recommender_conforms(name: str) -> None:
    results = check_recommender(installed().load("recommender", name))
    task = installed().find("recommender", name).info["task"]
    assert {r.name for r in results} == set(RETRIEVER_CHECKS if task == "retrieval" else RANKER_CHECKS)
    assert {r.status for r in results} <= {"passed", "skipped", "expected"}


class Peeking(Sasrec):
    """Selects by the test targets."""

    def fit(self, data: RetrievalData, sids: Any, rng: Any, runtime: Any) -> Any:
        return super().fit(data, sids, rng.child(int(np.abs(data.test_target).sum())), runtime)


class TieBreaking(Sasrec):
    """Hides ties and loses an item."""

    def rank_targets(self, *args: Any) -> TargetRanks:
        ranks = super().rank_targets(*args)
        return replace(ranks, better=ranks.better + 1)


class Boastful(Sasrec):
    """Knows more ranks than there are items."""

    def rank_targets(self, *args: Any) -> TargetRanks:
        ranks = super().rank_targets(*args)
        return replace(ranks, depth=ranks.depth + 1)


class Shallow(Sasrec):
    """Gives no score to a target that it ranks."""

    def rank_targets(self, *args: Any) -> TargetRanks:
        ranks = super().rank_targets(*args)
        return replace(ranks, depth=ranks.depth - 1, score=np.full_like(ranks.score, np.nan))


class Unseeded(Sasrec):
    """Draws a fresh seed."""

    def fit(self, data: RetrievalData, sids: Any, rng: Any, runtime: Any) -> Any:
        return super().fit(data, sids, rng.child(int(np.random.default_rng().integers(1 << 30))), runtime)


class Forgetful(Ppnet):
    """Saves nothing it needs."""

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        super().load_state_dict({name: np.zeros_like(a) if name == "out.weight" else a for name, a in state.items()})


class LabelReader(Ppnet):
    """Reads the labels it predicts."""

    def predict(self, data: RankingData, split: str, *args: Any) -> np.ndarray:
        return super().predict(data, split, *args) + data.rows[split].label.astype(np.float32)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Peeking, "test fields"),
        (TieBreaking, "leave|tile"),
        (Boastful, "depth leaves"),
        (Shallow, "finite, or NaN"),
        (Unseeded, "equal seeds"),
        (Forgetful, "restore"),
        (LabelReader, "must not read"),
        (int, "Recommender"),
    ],
)
def test_broken_recommenders_are_caught(cls, message):
    with pytest.raises(StageError, match=message):
        check_recommender(cls)
