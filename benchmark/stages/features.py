"""Features of one run: content encoders and the behaviour encoder behind the cache, then assembly.

Features have a fixed seed of their own, so that every seed of a run sees the same embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.plugins.identity import plugin_version, unit_version, unit_versions
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.store.serialization import load_json, load_mapped, save_json, save_mapped
from sidbench.benchmark.store.stage_cache import Stage, Traced, traces
from sidbench.datasets.base import Dataset, FileLocator, Interactions
from sidbench.datasets.features.assemble import FeaturesConfig, assemble_features
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.features.encode import RawContent, content_files, encode_content
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file
from sidbench.datasets.foundation.mapped import MAPPED_BYTES, scratch_matrix
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.sasrec import BehaviourConfig, behaviour_embeddings

FEATURES_SEED = 0


def build_features(
    context: StageContext,
    dataset: Dataset,
    training: Interactions,
    config: FeaturesConfig,
    behaviour: BehaviourConfig,
    locate: FileLocator,
) -> Traced[ItemFeatures]:
    """Item features from the catalogue and from ``training`` events only (training data of every protocol)."""
    sequences = Sequences.from_interactions(training, dataset.n_users)
    counts = np.bincount(training.item, minlength=dataset.n_items).astype(np.int64)
    encoded, content_key = _content(context, dataset, config, locate)
    made: list[Traced[Any]] = [encoded]
    content = encoded.value
    raw, keys = dict(content.raw), dict.fromkeys(content.raw, content_key)
    if config.behaviour == "sasrec":
        learned, keys["behaviour"] = _behaviour(context, sequences, dataset.n_items, behaviour)
        raw["behaviour"] = learned.value
        made.append(learned)

    def scale(name: str, embeddings: np.ndarray, available: np.ndarray, n_items: int) -> tuple[np.ndarray, float]:
        if embeddings.nbytes < MAPPED_BYTES:
            return scale_modality(name, embeddings, available, n_items)
        scaled = _scaled_on_disk(context, name, embeddings, available, keys[name])
        made.append(scaled)
        return scaled.value

    features = assemble_features(
        raw=raw,
        available=content.available,
        absent=content.absent,
        train_counts=counts,
        sequences=sequences,
        richness=config.richness,
        categories=dataset.catalog.categories,
        item_text=content.item_text,
        item_keys=dataset.catalog.keys,
        notes={name: float(n) for name, n in content.counts.items()},
        scale=scale,
    )
    return Traced(features, *traces(made))


def _scaled_on_disk(
    context: StageContext, name: str, embeddings: np.ndarray, available: np.ndarray, raw_key: str
) -> Traced[tuple[np.ndarray, float]]:
    """What ``scale_modality`` gives, as a memory map of a cache entry: a second copy of the rows may not fit."""
    depends = {
        "raw": raw_key,
        "modality": name,
        "available": hash_arrays({"available": available}),
        "version": unit_version("features"),
    }

    def compute(partial: Path) -> tuple[np.ndarray, float]:
        rows = scratch_matrix(partial, name, embeddings.shape)
        return scale_modality(name, embeddings, available, len(embeddings), out=rows)

    def save(value: tuple[np.ndarray, float], folder: Path) -> None:
        save_mapped(folder / "scaled", {"rows": value[0]})
        save_json(folder / "scale.json", value[1])

    return context.cache.trace(
        Stage(
            "scaled",
            depends,
            compute,
            save,
            lambda folder: (load_mapped(folder / "scaled")["rows"], load_json(folder / "scale.json")),
        )
    )


def _content(
    context: StageContext, dataset: Dataset, config: FeaturesConfig, locate: FileLocator
) -> tuple[Traced[RawContent], str]:
    """Content embeddings, and the key of their stage."""
    depends = {
        "dataset": dataset.content_hash(),
        "config": config,
        "version": unit_version("features"),
        "files": {m: hash_file(p) for m, p in content_files(dataset, config, locate).items()},
    }

    def compute(_: Path) -> Traced[RawContent]:
        runtime = context.stage_runtime()
        made = encode_content(dataset, config, Rng(FEATURES_SEED).child("content"), runtime, locate)
        return Traced(made, runtime.warnings)

    def save(value: RawContent, folder: Path) -> None:
        save_mapped(folder / "raw", value.raw)
        save_mapped(folder / "available", value.available)
        save_json(
            folder / "content.json",
            {"absent": dict(value.absent), "counts": dict(value.counts), "item_text": value.item_text},
        )

    def load(folder: Path) -> RawContent:
        facts = load_json(folder / "content.json")
        text = facts["item_text"]
        return RawContent(
            load_mapped(folder / "raw"),
            load_mapped(folder / "available"),
            facts["absent"],
            facts["counts"],
            None if text is None else tuple(text),
        )

    stage: Stage[RawContent] = Stage("content", depends, compute, save, load)
    return context.cache.trace(stage), stage.key


def _behaviour(
    context: StageContext, sequences: Sequences, n_items: int, config: BehaviourConfig
) -> tuple[Traced[np.ndarray], str]:
    """Behaviour embeddings, and the key of their stage."""
    events = hash_arrays({"indptr": sequences.indptr, "items": sequences.items})
    depends = {
        "events": events,
        "n_items": n_items,
        "config": config,
        "version": plugin_version("recommender", "sasrec"),
        **unit_versions("training"),
        **context.runtime.numerics,
    }

    def compute(partial: Path) -> Traced[np.ndarray]:
        with context.guarded("behaviour encoder", partial) as runtime:
            rng = Rng(FEATURES_SEED).child("behaviour")
            return Traced(behaviour_embeddings(sequences, n_items, rng, runtime, config), runtime.warnings)

    stage: Stage[np.ndarray] = Stage(
        "behaviour",
        depends,
        compute,
        lambda v, f: save_mapped(f / "behaviour", {"embeddings": v}),
        lambda f: load_mapped(f / "behaviour")["embeddings"],
        by_all=True,
    )
    return context.cache.trace(stage), stage.key
