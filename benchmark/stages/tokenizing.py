"""From features to SIDs: tokenizer, encoding, collision policy, quantisation metrics; ``tokenize`` puts them in order.

Each function is one arrow of the data flow: a pure function of (inputs, config, seed) behind the stage cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.config.run_config import NO_POLICY
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.metrics.quantisation import quantisation_metrics
from sidbench.benchmark.plugins.identity import Code, code_of, unit_version, unit_versions
from sidbench.benchmark.plugins.names import base_of
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.sharding import encode_catalogue, in_blocks
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.fitted import Fitted, fit_facts, load_fitted
from sidbench.benchmark.store.records import StageRecord
from sidbench.benchmark.store.serialization import (
    load_json,
    load_resolved,
    load_sids,
    save_json,
    save_resolved,
    save_sids,
    save_state,
)
from sidbench.benchmark.store.stage_cache import Stage, Traced, traces
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds, Tokenizer
from sidbench.tokenizers.collisions.base import CollisionPolicy, Costs, Resolved


def content_hashes(config: Any) -> dict[str, list[str]]:
    """SHA-256 of the files a tokenizer's ``fit`` reads, as an entry of keys; empty for those that read none."""
    files = config.content_files()
    return {"files": [hash_file(Path(f)) for f in files]} if files else {}


def fit_tokenizer(
    context: StageContext, name: str, tokenizer: Tokenizer, features: ItemFeatures, seed: int
) -> Traced[Fitted]:
    """Fit a tokenizer on the features; cached by (features, config, seed, version)."""
    code = code_of("tokenizer", name, base_of(tokenizer.config))
    depends = {
        "features": features.provenance,
        "tokenizer": name,
        "config": tokenizer.config,
        "seed": seed,
        "version": code.version,
        **unit_versions("training"),
        **content_hashes(tokenizer.config),
        **context.runtime.numerics,
    }

    def compute(partial: Path) -> Traced[Fitted]:
        with context.guarded(f"tokenizer {name}", partial) as runtime:
            tokenizer.fit(features, Rng(seed).child("tokenizer", name), runtime)
            made = Fitted(tokenizer.state_dict(), fit_facts(tokenizer, runtime), stage.key, code)
            return Traced(made, runtime.warnings)

    stage: Stage[Fitted] = Stage(
        "tokenizer",
        depends,
        compute,
        lambda v, f: save_state(v.state, v.facts, f),
        lambda f: load_fitted(stage.key, code, f),
        by_all=True,
    )
    return context.cache.trace(stage)


def encode_items(
    context: StageContext, name: str, tokenizer: Tokenizer, fitted: Fitted, features: ItemFeatures
) -> Traced[SemanticIds]:
    """SIDs of the whole catalogue from the fitted state, checked against the contract."""

    def compute(partial: Path) -> Traced[SemanticIds]:
        with context.guarded(f"tokenizer {name}", partial) as runtime:
            tokenizer.load_state_dict(fitted.state)
            sids = encode_catalogue(tokenizer, features, runtime, scratch=partial)
            return Traced(sids.check(features.n_items, f"tokenizer {name}"), runtime.warnings)

    stage: Stage[SemanticIds] = Stage(
        "sids", {"tokenizer": fitted.key}, compute, save_sids, load_sids, by_all=in_blocks(tokenizer, features.n_items)
    )
    return context.cache.trace(stage)


@dataclass(frozen=True)
class ResolvedStage:
    """What a collision policy made of the SIDs, the key of its stage, and the code it ran with."""

    resolved: Resolved
    key: str
    code: Code


def resolve_collisions(
    context: StageContext,
    name: str,
    policy: CollisionPolicy,
    tokenizer: Tokenizer,
    fitted: Fitted,
    sids: SemanticIds,
    features: ItemFeatures,
    seed: int,
) -> Traced[ResolvedStage]:
    """SIDs after a collision policy, checked against the contract; cached by (SIDs, policy, config, seed, version)."""
    code = code_of("collisions", name)
    depends = {"sids": fitted.key, "policy": name, "config": policy.config, "seed": seed, "version": code.version}

    def compute(partial: Path) -> Traced[Resolved]:
        with context.guarded(f"collision policy {name}", partial) as runtime:
            tokenizer.load_state_dict(fitted.state)
            costs = Costs(sids, features, tokenizer, runtime)
            made = policy.resolve(sids, costs, Rng(seed).child("collisions", name))
        made.sids.check(features.n_items, f"collision policy {name}")
        return Traced(made, runtime.warnings)

    stage: Stage[Resolved] = Stage("collisions", depends, compute, save_resolved, load_resolved)
    found = context.cache.trace(stage)
    return Traced(ResolvedStage(found.value, stage.key, code), found.warnings, found.stages)


Quantisation = tuple[dict[str, Metric], dict[str, tuple[float, ...]]]


def quantisation_numbers(sids: SemanticIds, features: ItemFeatures) -> Quantisation:
    """Quantisation metrics; folds and samples use a fixed seed so that every tokenizer meets the same ones."""
    return quantisation_metrics(sids, features, Rng(0).child("quantisation"))


def measure_quantisation(
    context: StageContext, sids_key: str, sids: SemanticIds, features: ItemFeatures
) -> Traced[Quantisation]:
    """``quantisation_numbers`` behind the stage cache."""

    def save(value: Quantisation, folder: Path) -> None:
        save_json(folder / "metrics.json", [{n: m.model_dump() for n, m in value[0].items()}, value[1]])

    def load(folder: Path) -> Quantisation:
        scalars, vectors = load_json(folder / "metrics.json")
        return {n: Metric(**m) for n, m in scalars.items()}, {n: tuple(v) for n, v in vectors.items()}

    depends = {"sids": sids_key, "version": unit_version("metrics")}
    return context.cache.trace(Stage("quantisation", depends, lambda _: quantisation_numbers(sids, features), save, load))


@dataclass(frozen=True)
class Tokenized:
    """The SIDs of a run and what made them. own: the tokenizer's codes. resolved: after a collision policy, if there is
    one. stages: their costs in order."""

    fitted: Fitted
    own: SemanticIds
    resolved: ResolvedStage | None
    warnings: tuple[str, ...]
    stages: tuple[StageRecord, ...]

    @property
    def sids(self) -> SemanticIds:
        """What recommenders see."""
        return self.own if self.resolved is None else self.resolved.resolved.sids

    @property
    def key(self) -> str:
        """Key of the stage that made ``sids``."""
        return self.fitted.key if self.resolved is None else self.resolved.key


def tokenize(context: StageContext, composed: ComposedRun, features: ItemFeatures, seed: int) -> Tokenized:
    """Fit the tokenizer of a run, encode the catalogue, apply the collision policy.

    Raises ``InputError`` for a run without tokenizer, ``StageError`` for what fails inside a plugin.
    """
    name, policy_name = composed.run.tokenizer, composed.run.collisions
    if name is None:
        raise InputError("semantic IDs", got="a run without tokenizer", wanted="one", do="add --tokenizer NAME")
    cls = installed().load("tokenizer", name)
    fitted = fit_tokenizer(context, name, cls(composed.tokenizer), features, seed)
    own = encode_items(context, name, cls(composed.tokenizer), fitted.value, features)
    made: list[Traced[Any]] = [fitted, own]
    resolved: ResolvedStage | None = None
    if policy_name != NO_POLICY:
        policy = installed().load("collisions", policy_name)(composed.collisions)
        found = resolve_collisions(
            context, policy_name, policy, cls(composed.tokenizer), fitted.value, own.value, features, seed
        )
        resolved = found.value
        made.append(found)
    return Tokenized(fitted.value, own.value, resolved, *traces(made))
