"""RQ-KMeans+: starts exactly as RQ-KMeans, then improves on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig
from sidbench.tokenizers.rqkmeans_plus import ResidualMlp, RqKMeansPlus, RqKMeansPlusConfig

RUNTIME = local_runtime()
SMALL: dict[str, Any] = {"code_length": 3, "codebook_size": 12, "iterations": 20, "validation_share": 0.0}


def error(codes_reconstruction: Any, features: ItemFeatures) -> float:
    joined = np.concatenate([codes_reconstruction[m] for m in ("text", "vision")], 1)
    return float(((joined - features.concatenated()) ** 2).sum(1).mean())


def rqkmeans(features: ItemFeatures) -> RqKMeans:
    config = RqKMeansConfig(code_length=3, codebook_size=12, iterations=20)
    return RqKMeans(config).fit(features, Rng(3), RUNTIME)


def test_codes_before_the_first_step_are_those_of_rqkmeans(monkeypatch: pytest.MonkeyPatch) -> None:
    features = planted_features(300)
    monkeypatch.setattr(LocalRuntime, "train", lambda self, plan: TrainingLog(parts={"loss": 0.0}))
    plus = RqKMeansPlus(RqKMeansPlusConfig(**SMALL)).fit(features, Rng(3), RUNTIME)
    mine, theirs = plus.encode(features, RUNTIME), rqkmeans(features).encode(features, RUNTIME)
    np.testing.assert_array_equal(mine.codes, theirs.codes)
    for name, rows in theirs.reconstruction.items():
        np.testing.assert_allclose(mine.reconstruction[name], rows, atol=1e-5)


def test_training_lowers_the_reconstruction_error_of_the_start() -> None:
    features = replace(planted_features(300), train_counts=np.ones(300, np.int64))
    config = RqKMeansPlusConfig(**SMALL, hidden=(64,), steps=150, warmup_steps=5, learning_rate=1e-3)
    plus = RqKMeansPlus(config).fit(features, Rng(3), RUNTIME)
    start = error(rqkmeans(features).encode(features, RUNTIME).reconstruction, features)
    assert plus.diagnostics()["start_loss"] == pytest.approx(start, rel=1e-4)
    assert error(plus.encode(features, RUNTIME).reconstruction, features) < start


def test_residual_mlp_starts_as_the_identity_and_learns() -> None:
    block = ResidualMlp(5, (7,), torch.Generator().manual_seed(0))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)
    block(x).square().sum().backward()
    last = block.change.get_parameter("2.weight").grad
    assert last is not None
    assert bool((last != 0).any())


def test_the_whole_network_is_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingPlan] = []
    monkeypatch.setattr(LocalRuntime, "train", lambda self, plan: seen.append(plan) or TrainingLog(parts={"loss": 0.0}))
    RqKMeansPlus(RqKMeansPlusConfig(**SMALL)).fit(planted_features(100), Rng(0), RUNTIME)
    assert [plan.name for plan in seen] == ["rqkmeans_plus"]  # no unquantised warm-up
    assert seen[0].learning_rate == 1e-4
