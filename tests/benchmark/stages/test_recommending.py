"""Stages of the recommenders: the run's seed reaches them, and evaluation alone reads test data, all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.plugins.identity import Code
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.fitted import Fitted
from sidbench.benchmark.stages.recommending import (
    evaluate_ranker,
    evaluate_retriever,
    fit_recommender,
)
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.benchmark.testing.recommenders import make_ranking, make_retrieval
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.sasrec import Sasrec, SasrecConfig


def test_the_seed_of_a_run_decides_the_recommender(tmp_path: Path, runtime: LocalRuntime) -> None:
    def table(root: str, seed: int) -> np.ndarray:
        context = StageContext(StageCache(tmp_path / root, Reporter()), runtime)
        model = Sasrec(SasrecConfig(width=8, layers=1, epochs=1, batch_positions=128))
        state = fit_recommender(context, "retrieval", "sasrec", model, make_retrieval(), "data", None, "", seed).value.state
        return state["item_table"]

    first = table("a", 0)
    np.testing.assert_array_equal(first, table("b", 0))
    assert not np.array_equal(first, table("a", 1))


class Witness:
    """A recommender that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()

    def load_state_dict(self, state: object) -> None: ...

    def diagnostics(self) -> dict[str, float]:
        return {}

    def rank_targets(self, histories: Sequences, targets: np.ndarray, *_: object) -> TargetRanks:
        self.asked = (histories, targets)
        one = np.ones(len(targets), np.int64)
        return TargetRanks(one, one, one, one, one, one, one.astype(np.float32), one, one)

    def predict(self, data: object, split: str, *_: object) -> np.ndarray:
        self.asked = (data, split)
        return np.zeros(3, np.float32)


def test_evaluation_asks_for_test_targets_after_test_histories_and_for_test_rows(
    tmp_path: Path, runtime: LocalRuntime
) -> None:
    context, fitted = StageContext(StageCache(tmp_path, Reporter()), runtime), Fitted({}, {}, "key", Code("1", "code"))
    model: Any = Witness()
    data, rows = make_retrieval(), make_ranking()
    evaluate_retriever(context, "witness", model, fitted, data, None)
    histories, targets = model.asked
    np.testing.assert_array_equal(histories.indptr, data.test_history.indptr)
    np.testing.assert_array_equal(histories.items, data.test_history.items)
    np.testing.assert_array_equal(targets, data.test_target)
    evaluate_ranker(context, "witness", model, fitted, rows, None)
    assert model.asked == (rows, "test")
