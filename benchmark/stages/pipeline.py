"""The stages of one run after the features: tokenizer, SIDs, collisions, quantisation, retrieval, ranking.

Each function is one arrow of the data flow: a pure function of (inputs, config, seed) behind the stage cache. A stage
that only evaluates never touches training state, and the test set is read by the evaluation stages alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sidbench.benchmark.metrics.quantisation import quantisation_metrics
from sidbench.benchmark.plugins.code_hash import base_of, room_code
from sidbench.benchmark.plugins.sources import plugin_code
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.sharding import encode_catalogue, in_blocks, predict_rows, rank_users
from sidbench.benchmark.runtime.training import is_out_of_memory
from sidbench.benchmark.store.records import Metric
from sidbench.benchmark.store.serialization import (
    load_arrays,
    load_json,
    load_ranks,
    load_resolved,
    load_sids,
    load_state,
    save_arrays,
    save_json,
    save_ranks,
    save_resolved,
    save_sids,
    save_state,
)
from sidbench.benchmark.store.stage_cache import Stage, StageCache
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import SidbenchError, StageError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import Ranker, RankingData, Recommender, RetrievalData, Retriever, TargetRanks
from sidbench.tokenizers.base import SemanticIds, Tokenizer
from sidbench.tokenizers.collisions.base import CollisionPolicy, Costs, Resolved

METRIC_CODE = ("benchmark/metrics",)
SHARING_CODE = ("benchmark/runtime/sharding.py",)
T = TypeVar("T")


@dataclass(frozen=True)
class Fitted:
    """A fitted plugin: learned state, facts about the fit, the key of its stage, and the code it ran with."""

    state: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    key: str
    code: str


@dataclass(frozen=True)
class StageContext:
    """What every stage needs from outside: the cache and the machine."""

    cache: StageCache
    runtime: LocalRuntime

    def guarded(self, who: str, partial: Path, work: Callable[[], T]) -> T:
        """Run plugin code with its checkpoints in ``partial``; a foreign exception is re-raised naming the plugin."""
        try:
            with self.runtime.checkpointing(partial):
                return work()
        except (SidbenchError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything; it is named and re-raised
            if is_out_of_memory(error):
                raise _out_of_memory(who, error) from error
            raise StageError(
                f"{who} failed: {type(error).__name__}: {error}. To do: `bench --debug run …` shows the "
                "traceback; the fault lies in this plugin, other rows are not affected."
            ) from error


def _out_of_memory(who: str, error: BaseException) -> StageError:
    return StageError(
        f"{who} ran out of memory ({str(error)[:200]}). To do: lower tokenizer.codebook_size or "
        "tokenizer.code_length, whose product sets the size of tables and heads, or the batch size of this "
        "stage; finished stages are kept."
    )


def content_hashes(config: Any) -> dict[str, list[str]]:
    """SHA-256 of the files a tokenizer's ``fit`` reads, as an entry of keys; empty for those that read none."""
    files = config.content_files()
    return {"files": [hash_file(Path(f)) for f in files]} if files else {}


def _load_fitted(stage_key: str, code: str, folder: Path) -> Fitted:
    state, facts = load_state(folder)
    return Fitted(state, facts, stage_key, code)


def _facts(plugin: Tokenizer | Recommender, context: StageContext) -> dict[str, Any]:
    """Numbers about a fit, checked to be finite so that they can stand in a record."""
    logs = {name: vars(log) for name, log in context.runtime.training_logs.items()}
    diagnostics = {name: float(value) for name, value in plugin.diagnostics().items() if np.isfinite(value)}
    return {"diagnostics": diagnostics, "n_parameters": plugin.n_parameters, "training": logs}


def fit_tokenizer(context: StageContext, name: str, tokenizer: Tokenizer, features: ItemFeatures, seed: int) -> Fitted:
    """Fit a tokenizer on the features; cached by (features, config, seed, code)."""
    code = plugin_code("tokenizer", name, base_of(tokenizer.config))
    depends = {
        "features": features.provenance,
        "tokenizer": name,
        "config": tokenizer.config,
        "seed": seed,
        "code": code,
        **content_hashes(tokenizer.config),
        **context.runtime.numerics,
    }

    def compute(partial: Path) -> Fitted:
        context.runtime.training_logs.clear()
        rng = Rng(seed).child("tokenizer", name)

        def work() -> Fitted:
            tokenizer.fit(features, rng, context.runtime)
            return Fitted(tokenizer.state_dict(), _facts(tokenizer, context), stage.key, code)

        return context.guarded(f"tokenizer {name}", partial, work)

    stage: Stage[Fitted] = Stage(
        "tokenizer",
        depends,
        compute,
        lambda v, f: save_state(v.state, v.facts, f),
        lambda f: _load_fitted(stage.key, code, f),
        by_all=True,
    )
    return context.cache.run(stage)


def encode_items(
    context: StageContext, name: str, tokenizer: Tokenizer, fitted: Fitted, features: ItemFeatures
) -> SemanticIds:
    """SIDs of the whole catalogue from the fitted state, checked against the contract."""

    def compute(partial: Path) -> SemanticIds:
        def work() -> SemanticIds:
            tokenizer.load_state_dict(fitted.state)
            sids = encode_catalogue(tokenizer, features, context.runtime, scratch=partial)
            return sids.check(features.n_items, f"tokenizer {name}")

        return context.guarded(f"tokenizer {name}", partial, work)

    stage = Stage(
        "sids", {"tokenizer": fitted.key}, compute, save_sids, load_sids, by_all=in_blocks(tokenizer, features.n_items)
    )
    return context.cache.run(stage)


@dataclass(frozen=True)
class ResolvedStage:
    """What a collision policy made of the SIDs, the key of its stage, and the code it ran with."""

    resolved: Resolved
    key: str
    code: str


def resolve_collisions(
    context: StageContext,
    name: str,
    policy: CollisionPolicy,
    tokenizer: Tokenizer,
    fitted: Fitted,
    sids: SemanticIds,
    features: ItemFeatures,
    seed: int,
) -> ResolvedStage:
    """SIDs after a collision policy, checked against the contract; cached by (SIDs, policy, config, seed, code)."""
    code = plugin_code("collisions", name)
    depends = {"sids": fitted.key, "policy": name, "config": policy.config, "seed": seed, "code": code}

    def compute(partial: Path) -> Resolved:
        def work() -> Resolved:
            tokenizer.load_state_dict(fitted.state)
            costs = Costs(sids, features, tokenizer, context.runtime)
            return policy.resolve(sids, costs, Rng(seed).child("collisions", name))

        made = context.guarded(f"collision policy {name}", partial, work)
        made.sids.check(features.n_items, f"collision policy {name}")
        return made

    stage = Stage("collisions", depends, compute, save_resolved, load_resolved)
    return ResolvedStage(context.cache.run(stage), stage.key, code)


Quantisation = tuple[dict[str, Metric], dict[str, tuple[float, ...]]]


def quantisation_numbers(sids: SemanticIds, features: ItemFeatures) -> Quantisation:
    """Quantisation metrics; folds and samples use a fixed seed so that every tokenizer meets the same ones."""
    return quantisation_metrics(sids, features, Rng(0).child("quantisation"))


def measure_quantisation(context: StageContext, sids_key: str, sids: SemanticIds, features: ItemFeatures) -> Quantisation:
    """``quantisation_numbers`` behind the stage cache."""

    def save(value: Quantisation, folder: Path) -> None:
        save_json(folder / "metrics.json", [{n: m.model_dump() for n, m in value[0].items()}, value[1]])

    def load(folder: Path) -> Quantisation:
        scalars, vectors = load_json(folder / "metrics.json")
        return {n: Metric(**m) for n, m in scalars.items()}, {n: tuple(v) for n, v in vectors.items()}

    depends = {"sids": sids_key, "code": room_code(*METRIC_CODE)}
    return context.cache.run(Stage("quantisation", depends, lambda _: quantisation_numbers(sids, features), save, load))


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
) -> Fitted:
    """Train a recommender; cached by (data, SIDs, config, seed, code)."""
    code = plugin_code("recommender", name)
    depends = {
        "data": data_key,
        "sids": sids_key,
        "recommender": name,
        "config": model.config,
        "seed": seed,
        "code": code,
        **context.runtime.numerics,
    }

    def compute(partial: Path) -> Fitted:
        context.runtime.training_logs.clear()
        rng = Rng(seed).child(task, name)
        context.guarded(f"recommender {name}", partial, lambda: model.fit(data, sids, rng, context.runtime))  # type: ignore[arg-type]
        return Fitted(model.state_dict(), _facts(model, context), stage.key, code)

    stage: Stage[Fitted] = Stage(
        f"{task}.fit",
        depends,
        compute,
        lambda v, f: save_state(v.state, v.facts, f),
        lambda f: _load_fitted(stage.key, code, f),
        by_all=True,
    )
    return context.cache.run(stage)


Evaluated = tuple[T, dict[str, float]]


def evaluate_retriever(
    context: StageContext, name: str, model: Retriever, fitted: Fitted, data: RetrievalData, sids: SemanticIds | None
) -> Evaluated[TargetRanks]:
    """Rank intervals of every test target, and the model's numbers about inference; the only reader of test targets."""

    def compute(partial: Path) -> Evaluated[TargetRanks]:
        def work() -> Evaluated[TargetRanks]:
            model.load_state_dict(fitted.state)
            return rank_users(model, data.test_history, data.test_target, sids, context.runtime)

        return context.guarded(f"recommender {name}", partial, work)

    def save(value: Evaluated[TargetRanks], folder: Path) -> None:
        save_ranks(value[0], folder)
        save_json(folder / "diagnostics.json", value[1])

    stage = Stage(
        "retrieval.evaluate",
        {"fit": fitted.key, "code": room_code(*SHARING_CODE)},
        compute,
        save,
        lambda f: (load_ranks(f), load_json(f / "diagnostics.json")),
        by_all=True,
    )
    return context.cache.run(stage)


def evaluate_ranker(
    context: StageContext, name: str, model: Ranker, fitted: Fitted, data: RankingData, sids: SemanticIds | None
) -> Evaluated[np.ndarray]:
    """Scores float32 of the test rows, and the model's numbers about inference; the only reader of test rows."""

    def compute(partial: Path) -> Evaluated[np.ndarray]:
        def work() -> Evaluated[np.ndarray]:
            model.load_state_dict(fitted.state)
            return predict_rows(model, data, "test", sids, context.runtime)

        return context.guarded(f"recommender {name}", partial, work)

    def save(value: Evaluated[np.ndarray], folder: Path) -> None:
        save_arrays(folder / "scores.npz", {"score": value[0]})
        save_json(folder / "diagnostics.json", value[1])

    stage = Stage(
        "ranking.evaluate",
        {"fit": fitted.key, "code": room_code(*SHARING_CODE)},
        compute,
        save,
        lambda f: (load_arrays(f / "scores.npz")["score"], load_json(f / "diagnostics.json")),
        by_all=True,
    )
    return context.cache.run(stage)
