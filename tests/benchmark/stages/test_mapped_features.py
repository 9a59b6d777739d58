"""Features and codes that stay on disk: the same provenance and codes as in memory, from the cache too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages import features as features_module
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.features import build_features
from sidbench.benchmark.stages.tokenizing import encode_items, fit_tokenizer
from sidbench.benchmark.store.records import StageRecord
from sidbench.benchmark.store.stage_cache import StageCache, traces
from sidbench.datasets.features.assemble import FeaturesConfig
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation import mapped
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.base import Sequences
from sidbench.datasets.synthetic import Synthetic
from sidbench.recommenders.sasrec import BehaviourConfig
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.training import content
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig
from sidbench.tokenizers.rqvae import RqVae, RqVaeConfig

DATASET = Synthetic(Synthetic.config_class(n_items=120, n_users=60, branching=(3, 2), picture_size=8)).load(LocalFiles())
CONFIG = FeaturesConfig(text_dim=8, vision_dim=6)
BEHAVIOUR = BehaviourConfig(width=8, epochs=1, patience=0)


def bench(root: Path) -> StageContext:
    return StageContext(StageCache(root, Reporter()), local_runtime())


def made(root: Path) -> tuple[tuple[StageRecord, ...], ItemFeatures, SemanticIds]:
    """Costs, features and codes by way of the cache under ``root``."""
    own = bench(root)
    features = build_features(own, DATASET, DATASET.interactions, CONFIG, BEHAVIOUR, LocalFiles())
    tokenizer = RqKMeans(RqKMeansConfig(code_length=2, codebook_size=4, iterations=3))
    fitted = fit_tokenizer(own, "rqkmeans", tokenizer, features.value, 0)
    sids = encode_items(own, "rqkmeans", tokenizer, fitted.value, features.value)
    _, stages = traces([features, fitted, sids])
    return stages, features.value, sids.value


def test_what_lies_on_disk_equals_what_lies_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, features, sids = made(tmp_path / "memory")
    for module in (mapped, features_module):
        monkeypatch.setattr(module, "MAPPED_BYTES", 1)
    for attempt in ("computed", "cached"):
        stages, mapped_features, mapped_sids = made(tmp_path / "disk")
        assert mapped_features.provenance == features.provenance
        assert all(isinstance(e, np.memmap) for e in mapped_features.modalities.values()), attempt
        np.testing.assert_array_equal(mapped_sids.codes, sids.codes)
        for name, array in sids.reconstruction.items():
            np.testing.assert_array_equal(mapped_sids.reconstruction[name], array)
        assert [s.name for s in stages].count("scaled") == 3
        assert {s.cached for s in stages} == {attempt == "cached"}
    assert isinstance(mapped_sids.codes, np.memmap) and not mapped_sids.codes.flags.writeable
    assert not list((tmp_path / "disk").rglob(f"*{mapped.SCRATCH}"))


@pytest.mark.parametrize("kind", [RqKMeans, RqVae])
def test_larger_catalogues_are_fitted_on_a_sample_that_is_reported(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, n = np.random.default_rng(0), 100
    features = ItemFeatures(
        {"text": draw.normal(size=(n, 6)).astype(np.float32)},
        {"text": np.ones(n, bool)},
        np.arange(n),
        np.zeros(n, np.float32),
        "log_count",
        Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)),
    )
    monkeypatch.setattr(content, "FIT_LIMIT", 33)
    runtime = local_runtime()
    assert content.fitting_rows(features, "train", "x", runtime).tolist() == [1 + 3 * i for i in range(33)]
    config = (
        RqKMeansConfig(code_length=2, codebook_size=4)
        if kind is RqKMeans
        else RqVaeConfig(code_length=2, codebook_size=4, hidden=(8,), latent_dim=4, steps=4)
    )
    said: list[str] = []
    monkeypatch.setattr(runtime, "warn", said.append)
    fitted = kind(config).fit(features, Rng(0), runtime)
    assert said and "33 of 99 items" in said[0]
    assert fitted.encode(features, runtime).n_items == n
    exact: SimpleNamespace = SimpleNamespace(warn=said.append)
    monkeypatch.setattr(content, "FIT_LIMIT", 99)
    said.clear()
    assert content.fitting_rows(features, "train", "x", exact).tolist() == list(range(1, 100)) and not said  # type: ignore[arg-type]
