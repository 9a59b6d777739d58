"""Stages of one run: seeds reach the plugins, evaluation reads test data, and errors of plugin code are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.pipeline import (
    Fitted,
    StageContext,
    encode_items,
    evaluate_ranker,
    evaluate_retriever,
    fit_recommender,
    fit_tokenizer,
)
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.benchmark.testing.recommenders import make_ranking, make_retrieval
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.sasrec import Sasrec, SasrecConfig
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig


def _huge() -> object:
    return torch.empty(1 << 60, dtype=torch.uint8)


def _no_memory() -> object:
    raise MemoryError("too much")


def _broken() -> object:
    raise KeyError("colour")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (_huge, "tokenizer mine ran out of memory .* lower tokenizer.codebook_size"),
        (_no_memory, "tokenizer mine ran out of memory"),
        (_broken, "tokenizer mine failed: KeyError: 'colour'"),
    ],
)
def test_foreign_errors_are_named(tmp_path: Path, runtime: LocalRuntime, work: Callable[[], object], message: str) -> None:
    with pytest.raises(StageError, match=message):
        StageContext(StageCache(tmp_path, Reporter()), runtime).guarded("tokenizer mine", tmp_path, work)


def test_own_errors_pass_unchanged(tmp_path: Path, runtime: LocalRuntime) -> None:
    def refuse() -> object:
        raise InputError("this setting")

    with pytest.raises(InputError, match="this setting"):
        StageContext(StageCache(tmp_path, Reporter()), runtime).guarded("tokenizer mine", tmp_path, refuse)


def test_the_seed_of_a_run_decides_the_codes(tmp_path: Path, runtime: LocalRuntime) -> None:
    features = planted_features(120)

    def codes(root: str, seed: int) -> np.ndarray:
        context = StageContext(StageCache(tmp_path / root, Reporter()), runtime)
        tokenizer = RqKMeans(RqKMeansConfig(code_length=2, codebook_size=8, iterations=3))
        fitted = fit_tokenizer(context, "rqkmeans", tokenizer, features, seed)
        return encode_items(context, "rqkmeans", tokenizer, fitted, features).codes

    first = codes("a", 0)
    np.testing.assert_array_equal(first, codes("b", 0))
    assert not np.array_equal(first, codes("a", 1))


def test_the_seed_of_a_run_decides_the_recommender(tmp_path: Path, runtime: LocalRuntime) -> None:
    def table(root: str, seed: int) -> np.ndarray:
        context = StageContext(StageCache(tmp_path / root, Reporter()), runtime)
        model = Sasrec(SasrecConfig(width=8, layers=1, epochs=1, batch_positions=128))
        state = fit_recommender(context, "retrieval", "sasrec", model, make_retrieval(), "data", None, "", seed).state
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
    context, fitted = StageContext(StageCache(tmp_path, Reporter()), runtime), Fitted({}, {}, "key", "code")
    model: Any = Witness()
    data, rows = make_retrieval(), make_ranking()
    evaluate_retriever(context, "witness", model, fitted, data, None)
    histories, targets = model.asked
    np.testing.assert_array_equal(histories.indptr, data.test_history.indptr)
    np.testing.assert_array_equal(histories.items, data.test_history.items)
    np.testing.assert_array_equal(targets, data.test_target)
    evaluate_ranker(context, "witness", model, fitted, rows, None)
    assert model.asked == (rows, "test")
