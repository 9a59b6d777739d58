"""The id of a run: a function of everything that decides its numbers."""

from __future__ import annotations

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.config.run_config import NO_POLICY
from sidbench.benchmark.plugins.identity import plugin_version, unit_versions
from sidbench.benchmark.plugins.names import base_of
from sidbench.benchmark.plugins.units import UNITS
from sidbench.benchmark.stages.evaluating import NO_SIDS
from sidbench.benchmark.stages.prepared import Prepared
from sidbench.benchmark.stages.tokenizing import content_hashes
from sidbench.datasets.foundation.hashing import hash_json


def run_id(composed: ComposedRun, prepared: Prepared) -> str:
    """Readable name plus a hash of everything that decides the run's numbers; equal runs have equal ids."""
    run = composed.run
    policy = run.collisions != NO_POLICY
    identity = {
        "run": run.identity,
        "dataset": prepared.dataset_hash,
        "features": composed.features if run.tokenizer else None,
        "behaviour": composed.behaviour if run.tokenizer else None,
        "tokenizer": composed.tokenizer,
        "retriever": composed.retriever,
        "ranker": composed.ranker,
        "versions": [
            plugin_version("tokenizer", run.tokenizer, base_of(composed.tokenizer)) if run.tokenizer else "",
            *[plugin_version("recommender", name) for name in run.recommenders],
            plugin_version("recommender", "sasrec"),  # behind the behaviour embeddings
            unit_versions(*UNITS),
        ],
    }
    if composed.tokenizer is not None:
        identity |= content_hashes(composed.tokenizer)
    if policy:
        identity["collisions"] = [composed.collisions, plugin_version("collisions", run.collisions)]
    words = [run.dataset, run.tokenizer or NO_SIDS, *([run.collisions] if policy else []), f"s{run.seed}"]
    return "-".join([*words, hash_json(identity)[:12]])
