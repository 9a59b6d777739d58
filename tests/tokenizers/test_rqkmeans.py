"""Residual k-means: planted hierarchy, costs, behaviour tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.random import RandomCodes
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig

RUNTIME = local_runtime()


def fit(features: ItemFeatures, **settings: object) -> tuple[RqKMeans, SemanticIds]:
    tokenizer = RqKMeans(RqKMeansConfig(**{"code_length": 3, "codebook_size": 16, **settings}))  # type: ignore[arg-type]
    tokenizer.fit(features, Rng(0), RUNTIME)
    return tokenizer, tokenizer.encode(features, RUNTIME)


def top_nodes(features: ItemFeatures) -> np.ndarray:
    assert features.categories is not None
    return np.unique([path[0] for path in features.categories], return_inverse=True)[1]


def test_first_level_finds_the_planted_top_nodes_and_random_codes_do_not() -> None:
    features = planted_features(600)
    sids = fit(features, codebook_size=4)[1]
    assert normalized_mutual_info_score(top_nodes(features), sids.codes[:, 0]) > 0.95
    control = RandomCodes(RandomCodes.config_class(code_length=3, codebook_size=4)).fit(features, Rng(0), RUNTIME)
    codes = control.encode(features, RUNTIME).codes[:, 0]
    assert normalized_mutual_info_score(top_nodes(features), codes) < 0.05


def test_two_levels_find_the_leaves() -> None:
    features = planted_features(600)
    assert features.categories is not None
    leaves = np.unique([path[1] for path in features.categories], return_inverse=True)[1]
    sids = fit(features, codebook_size=4, code_length=2)[1]
    joint = sids.codes[:, 0] * 4 + sids.codes[:, 1]
    assert normalized_mutual_info_score(leaves, joint) > 0.8


def test_each_level_lowers_the_residual() -> None:
    tokenizer, sids = fit(planted_features(600))
    left = [tokenizer.diagnostics()[f"residual_level_{p}"] for p in (1, 2, 3)]
    assert 1 > left[0] > left[1] > left[2] > 0


def test_reconstruction_is_the_sum_of_the_chosen_centres() -> None:
    features = planted_features(300)
    tokenizer, sids = fit(features)
    total = sum(tokenizer.centres_[p][sids.codes[:, p]] for p in range(3))
    decoded = np.concatenate([sids.reconstruction["text"], sids.reconstruction["vision"]], axis=1)
    np.testing.assert_allclose(decoded, total, atol=1e-5)


def test_code_costs_are_the_distances_to_the_last_codebook() -> None:
    features = planted_features(200)
    tokenizer, sids = fit(features)
    costs = tokenizer.code_costs(features, RUNTIME)
    np.testing.assert_array_equal(costs.argmin(1), sids.codes[:, -1])
    left = features.concatenated() - sum(tokenizer.centres_[p][sids.codes[:, p]] for p in range(2))
    brute = ((left[:, None] - tokenizer.centres_[2][None]) ** 2).sum(-1)
    np.testing.assert_allclose(costs, brute, atol=1e-4)


def test_behaviour_tuning_groups_items_that_occur_together() -> None:
    """Content says nothing about the two groups of the sequences except one weak coordinate; tuning finds it."""
    draw = np.random.default_rng(0)
    n = 400
    group = np.arange(n) % 2
    text = draw.standard_normal((n, 24)).astype(np.float32)
    text[:, 0] = 0.6 * (2 * group - 1) + 0.1 * draw.standard_normal(n)
    sequences = np.concatenate([draw.choice(np.flatnonzero(group == u % 2), 8) for u in range(600)]).astype(np.int32)
    features = replace(
        planted_features(n, modalities=("text",)),
        modalities={"text": text},
        train_counts=np.ones(n, np.int64),
        sequences=Sequences(np.arange(0, 600 * 8 + 1, 8), sequences),
    )
    raw = fit(features, codebook_size=2, code_length=1)[1]
    tuned, sids = fit(
        features,
        codebook_size=2,
        code_length=1,
        inputs="behaviour_tuned",
        steps=150,
        batch_size=128,
        warmup_steps=5,
        width=16,
        learning_rate=1e-2,
    )
    assert normalized_mutual_info_score(group, sids.codes[:, 0]) > 0.8
    assert normalized_mutual_info_score(group, raw.codes[:, 0]) < 0.3
    assert sids.reconstruction == {}
    assert tuned.diagnostics()["tuning_pairs"] > 1000


def test_behaviour_tuning_without_sequences_is_refused() -> None:
    features = planted_features(100)
    empty = replace(features, sequences=Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)))
    with pytest.raises(InputError, match="set tokenizer.inputs=content"):
        fit(empty, inputs="behaviour_tuned", steps=5)


def test_only_training_items_are_fitted_unless_all_are_asked_for() -> None:
    features = planted_features(300)  # the first 30 items are cold
    moved = {m: e.copy() for m, e in features.modalities.items()}
    moved["text"][:30] += 50
    changed = replace(features, modalities=moved)
    np.testing.assert_array_equal(fit(features)[0].centres_, fit(changed)[0].centres_)
    assert not np.array_equal(fit(features, fit_items="all")[0].centres_, fit(changed, fit_items="all")[0].centres_)
