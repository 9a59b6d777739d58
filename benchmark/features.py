"""Features of one run: content encoders and the behaviour encoder behind the cache, then assembly.

Features have a fixed seed of their own, so that every seed of a run sees the same embeddings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sidbench.benchmark.cache import Stage
from sidbench.benchmark.codecs import load_arrays, load_json, save_arrays, save_json
from sidbench.benchmark.fingerprint import room_code
from sidbench.benchmark.pipeline import Bench, plugin_code
from sidbench.datasets.base import Dataset, FileLocator, Interactions
from sidbench.datasets.features.assemble import FeaturesConfig, assemble_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.features.encode import RawContent, content_files, encode_content
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.sasrec import BehaviourConfig, behaviour_embeddings

FEATURES_SEED = 0


def build_features(bench: Bench, dataset: Dataset, training: Interactions, config: FeaturesConfig,
                   behaviour: BehaviourConfig, locate: FileLocator) -> ItemFeatures:
    """Item features from the catalogue and from ``training`` events only (training data of every protocol)."""
    sequences = Sequences.from_interactions(training, dataset.n_users)
    counts = np.bincount(training.item, minlength=dataset.n_items).astype(np.int64)
    content = _content(bench, dataset, config, locate)
    raw = dict(content.raw)
    if config.behaviour == "sasrec":
        raw["behaviour"] = _behaviour(bench, sequences, dataset.n_items, behaviour)
    return assemble_features(
        raw=raw, available=content.available, absent=content.absent, train_counts=counts, sequences=sequences,
        richness=config.richness, categories=dataset.catalog.categories, item_text=content.item_text,
        item_keys=dataset.catalog.keys,
        notes={name: float(n) for name, n in content.counts.items()})


def _content(bench: Bench, dataset: Dataset, config: FeaturesConfig, locate: FileLocator) -> RawContent:
    depends = {"dataset": dataset.content_hash(), "config": config,
               "code": room_code("datasets/features", "datasets/foundation"),
               "files": {m: hash_file(p) for m, p in content_files(dataset, config, locate).items()}}

    def compute(_: Path) -> RawContent:
        return encode_content(dataset, config, Rng(FEATURES_SEED).child("content"), bench.runtime, locate)

    def save(value: RawContent, folder: Path) -> None:
        arrays = {f"raw:{m}": e for m, e in value.raw.items()} | {f"available:{m}": a for m, a in value.available.items()}
        save_arrays(folder / "content.npz", arrays)
        save_json(folder / "content.json", {"absent": dict(value.absent), "counts": dict(value.counts),
                                            "item_text": value.item_text})

    def load(folder: Path) -> RawContent:
        arrays, facts = load_arrays(folder / "content.npz"), load_json(folder / "content.json")
        parts = {kind: {n.split(":", 1)[1]: a for n, a in arrays.items() if n.startswith(f"{kind}:")}
                 for kind in ("raw", "available")}
        text = facts["item_text"]
        return RawContent(parts["raw"], parts["available"], facts["absent"], facts["counts"],
                          None if text is None else tuple(text))

    return bench.cache.run(Stage("content", depends, compute, save, load))


def _behaviour(bench: Bench, sequences: Sequences, n_items: int, config: BehaviourConfig) -> np.ndarray:
    events = hash_arrays({"indptr": sequences.indptr, "items": sequences.items})
    depends = {"events": events, "n_items": n_items, "config": config,
               "code": plugin_code("recommender", "sasrec"), **bench.runtime.numerics}

    def compute(partial: Path) -> np.ndarray:
        def work() -> np.ndarray:
            rng = Rng(FEATURES_SEED).child("behaviour")
            return behaviour_embeddings(sequences, n_items, rng, bench.runtime, config)

        return bench.guarded("behaviour encoder", partial, work)

    return bench.cache.run(Stage("behaviour", depends, compute, lambda v, f: save_arrays(f / "behaviour.npz", {"e": v}),
                                 lambda f: load_arrays(f / "behaviour.npz")["e"], by_all=True))
