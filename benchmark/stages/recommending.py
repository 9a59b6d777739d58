"""Recommenders behind the stage cache: trained on training data, evaluated on test data.

Each function is one arrow of the data flow: a pure function of (inputs, config, seed). A stage that only evaluates never
touches training state, and the test set is read by the evaluation stages alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np

from sidbench.benchmark.plugins.identity import code_of, unit_version, unit_versions
from sidbench.benchmark.runtime.reporter import Watch
from sidbench.benchmark.runtime.sharding import predict_rows, rank_users
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.fitted import Fitted, fit_facts, load_fitted
from sidbench.benchmark.store.serialization import (
    load_arrays,
    load_json,
    load_ranks,
    save_arrays,
    save_json,
    save_ranks,
    save_state,
)
from sidbench.benchmark.store.stage_cache import Stage, Traced
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import Ranker, RankingData, RetrievalData, Retriever, TargetRanks
from sidbench.tokenizers.base import SemanticIds

T = TypeVar("T")


def fit_recommender(
    context: StageContext,
    task: str,
    name: str,
    model: Retriever | Ranker,
    data: RetrievalData | RankingData,
    data_key: str,
    sids: SemanticIds | None,
    sids_key: str,
    seed: int,
    watch: Watch | None = None,
) -> Traced[Fitted]:
    """Train a recommender; cached by (data, SIDs, config, seed, version). watch: hears of every validation, where it is
    trained and not read."""
    code = code_of("recommender", name)
    depends = {
        "data": data_key,
        "sids": sids_key,
        "recommender": name,
        "config": model.config,
        "seed": seed,
        "version": code.version,
        **unit_versions("training"),
        **context.runtime.numerics,
    }

    def compute(partial: Path) -> Traced[Fitted]:
        with context.guarded(f"recommender {name}", partial, watch) as runtime:
            model.fit(data, sids, Rng(seed).child(task, name), runtime)  # type: ignore[arg-type]
        return Traced(Fitted(model.state_dict(), fit_facts(model, runtime), stage.key, code), runtime.warnings)

    stage: Stage[Fitted] = Stage(
        f"{task}.fit",
        depends,
        compute,
        lambda v, f: save_state(v.state, v.facts, f),
        lambda f: load_fitted(stage.key, code, f),
        by_all=True,
    )
    return context.cache.trace(stage)


Evaluated = tuple[T, dict[str, float]]


def evaluate_retriever(
    context: StageContext, name: str, model: Retriever, fitted: Fitted, data: RetrievalData, sids: SemanticIds | None
) -> Traced[Evaluated[TargetRanks]]:
    """Rank intervals of every test target, and the model's numbers about inference; the only reader of test targets."""

    def compute(partial: Path) -> Traced[Evaluated[TargetRanks]]:
        with context.guarded(f"recommender {name}", partial) as runtime:
            model.load_state_dict(fitted.state)
            return Traced(rank_users(model, data.test_history, data.test_target, sids, runtime), runtime.warnings)

    def save(value: Evaluated[TargetRanks], folder: Path) -> None:
        save_ranks(value[0], folder)
        save_json(folder / "diagnostics.json", value[1])

    stage: Stage[Evaluated[TargetRanks]] = Stage(
        "retrieval.evaluate",
        {"fit": fitted.key, "version": unit_version("evaluation")},
        compute,
        save,
        lambda f: (load_ranks(f), load_json(f / "diagnostics.json")),
        by_all=True,
    )
    return context.cache.trace(stage)


def evaluate_ranker(
    context: StageContext, name: str, model: Ranker, fitted: Fitted, data: RankingData, sids: SemanticIds | None
) -> Traced[Evaluated[np.ndarray]]:
    """Scores float32 of the test rows, and the model's numbers about inference; the only reader of test rows."""

    def compute(partial: Path) -> Traced[Evaluated[np.ndarray]]:
        with context.guarded(f"recommender {name}", partial) as runtime:
            model.load_state_dict(fitted.state)
            return Traced(predict_rows(model, data, "test", sids, runtime), runtime.warnings)

    def save(value: Evaluated[np.ndarray], folder: Path) -> None:
        save_arrays(folder / "scores.npz", {"score": value[0]})
        save_json(folder / "diagnostics.json", value[1])

    stage: Stage[Evaluated[np.ndarray]] = Stage(
        "ranking.evaluate",
        {"fit": fitted.key, "version": unit_version("evaluation")},
        compute,
        save,
        lambda f: (load_arrays(f / "scores.npz")["score"], load_json(f / "diagnostics.json")),
        by_all=True,
    )
    return context.cache.trace(stage)
