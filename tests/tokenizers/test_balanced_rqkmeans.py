"""Balanced residual k-means: equal sizes at fit and at encode, without knowing the other items."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.balanced_rqkmeans import BalancedRqKMeans, BalancedRqKMeansConfig
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig

RUNTIME = local_runtime()


def fit(features: ItemFeatures, **settings: object) -> tuple[BalancedRqKMeans, SemanticIds]:
    config = BalancedRqKMeansConfig(**{"code_length": 3, "codebook_size": 16, **settings})  # type: ignore[arg-type]
    tokenizer = BalancedRqKMeans(config).fit(features, Rng(0), RUNTIME)
    return tokenizer, tokenizer.encode(features, RUNTIME)


def all_seen(n: int) -> ItemFeatures:
    return replace(planted_features(n, modalities=("text",)), train_counts=np.ones(n, np.int64))


def entropy_gap(codes: np.ndarray, k: int) -> float:
    share = np.bincount(codes, minlength=k) / len(codes)
    return float(math.log(k) + (share[share > 0] * np.log(share[share > 0])).sum())


@pytest.mark.parametrize("balance", ["capacity", "constrained"])
def test_levels_have_the_entropy_of_equal_sizes_and_plain_ones_do_not(balance: str) -> None:
    features = all_seen(960)
    tokenizer, sids = fit(features, balance=balance, iterations=20)
    assert max(entropy_gap(sids.codes[:, level], 16) for level in range(3)) <= 1e-3
    assert tokenizer.diagnostics()["largest_entropy_gap"] <= 1e-3
    plain = RqKMeans(RqKMeansConfig(code_length=3, codebook_size=16)).fit(features, Rng(0), RUNTIME)
    assert entropy_gap(plain.encode(features, RUNTIME).codes[:, 0], 16) > 1e-3  # so balance is not free


def test_constrained_sizes_stay_within_one_of_the_mean() -> None:
    features = all_seen(500)  # 500 = 31 * 16 + 4
    sids = fit(features, balance="constrained", iterations=5)[1]
    for level in range(3):
        sizes = np.bincount(sids.codes[:, level], minlength=16)
        assert sizes.min() >= 30
        assert sizes.max() <= 32


def test_constrained_is_no_worse_than_the_capacity_passes() -> None:
    features = all_seen(480)
    errors = [
        fit(features, balance=b, iterations=20, code_length=1)[0].diagnostics()["loss_native"]
        for b in ("constrained", "capacity")
    ]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("balance", ["capacity", "constrained"])
def test_codes_of_an_item_do_not_depend_on_the_others(balance: str) -> None:
    features = planted_features(400)
    tokenizer, sids = fit(features, balance=balance, iterations=5)
    rows = np.array([7, 300, 11])
    np.testing.assert_array_equal(tokenizer.encode(features.take(rows), RUNTIME).codes, sids.codes[rows])


def test_behaviour_tuned_inputs_have_no_reconstruction() -> None:
    tokenizer, sids = fit(planted_features(300), inputs="behaviour_tuned", steps=10, warmup_steps=2, width=16, iterations=5)
    assert sids.reconstruction == {}
    assert tokenizer.centres_.shape == (3, 16, 16)
