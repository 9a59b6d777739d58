"""MBGen: planted clusters, moving-average codebook, buckets without collisions, hashes of single items."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.blocks.quantisers.codebook_updates import MovingAverage
from sidbench.tokenizers.mbgen import Mbgen, MbgenConfig, Standardise, content_hash

RUNTIME = local_runtime()


@cache
def features() -> ItemFeatures:
    return replace(planted_features(400), train_counts=np.ones(400, np.int64))


@cache
def fit(**settings: Any) -> tuple[Mbgen, SemanticIds]:
    config = MbgenConfig(
        **{
            "codebook_size": 4,
            "hidden": (32,),
            "latent_dim": 8,
            "steps": 60,
            "warmup_steps": 5,
            "validation_share": 0.0,
            **settings,
        }
    )
    tokenizer = Mbgen(config).fit(features(), Rng(0), RUNTIME)
    return tokenizer, tokenizer.encode(features(), RUNTIME)


def labels(level: int) -> np.ndarray:
    categories = features().categories
    assert categories is not None
    return np.unique([path[level] for path in categories], return_inverse=True)[1]


def test_codes_recover_the_planted_tree() -> None:
    codes = fit(steps=300)[1].codes
    assert normalized_mutual_info_score(labels(0), codes[:, 0]) > 0.9
    assert normalized_mutual_info_score(labels(1), codes[:, 0] * 4 + codes[:, 1]) > 0.75


def test_no_two_items_share_a_sid_while_slots_last() -> None:
    tokenizer, sids = fit()
    assert tokenizer.diagnostics()["largest_bucket"] <= 128
    assert len(sids.distinct()[0]) == 400
    assert tokenizer.diagnostics()["items_sharing_a_sid"] == 0


def test_full_buckets_number_on_from_zero_and_are_counted() -> None:
    tokenizer, sids = fit(bucket_slots=5)
    assert sids.sizes.tolist() == [4, 4, 5]
    sharing = np.unique(sids.codes, axis=0, return_counts=True)[1]
    assert tokenizer.diagnostics()["items_sharing_a_sid"] == sharing[sharing > 1].sum() > 0


def test_second_codes_are_nearest_residual_centres_of_their_own_cluster() -> None:
    tokenizer, sids = fit()
    z = tokenizer.net_.latents(torch.as_tensor(features().concatenated()))
    residual = (z - tokenizer.net_.quantiser.codebooks[0][sids.codes[:, 0].astype(np.int64)]).detach().numpy()
    for item in range(0, 400, 37):
        first = sids.codes[item, 0]
        distances = ((tokenizer.children_[first, : tokenizer.counts_[first]] - residual[item]) ** 2).sum(1)
        assert sids.codes[item, 1] == distances.argmin()


def test_expanded_second_codes_name_their_first() -> None:
    plain, expanded = fit()[1], fit(expand_id2=True)[1]
    assert expanded.sizes.tolist() == [4, 16, 128]
    np.testing.assert_array_equal(expanded.codes[:, 1], plain.codes[:, 0] * 4 + plain.codes[:, 1])


def test_hashes_do_not_depend_on_the_other_items_but_running_numbers_do() -> None:
    rows = np.array([399, 3, 77])
    hashed, sids = fit(last="hash")
    np.testing.assert_array_equal(hashed.encode(features().take(rows), RUNTIME).codes, sids.codes[rows])
    running, sids = fit()
    alone = running.encode(features().take(rows), RUNTIME).codes
    np.testing.assert_array_equal(alone[:, :2], sids.codes[rows, :2])
    assert (alone[:, 2] < 3).all()


def test_hash_spreads_and_sees_every_dimension() -> None:
    draw = np.random.default_rng(0)
    multipliers = draw.integers(1 << 62, size=8).astype(np.uint64) * 2 + 1
    x = draw.standard_normal((4000, 4)).astype(np.float32)
    counts = np.bincount(content_hash(x, multipliers) % 16, minlength=16)
    assert ((counts - 250) ** 2 / 250).sum() < 45  # chi squared, 15 degrees of freedom: 1e-4 quantile
    moved = x.copy()
    moved[:, 3] = np.nextafter(moved[:, 3], np.float32(9))
    assert (content_hash(moved, multipliers) != content_hash(x, multipliers)).mean() > 0.99


def test_group_ranks_by_hand() -> None:
    assert group_ranks(np.array([7, 2, 7, 7, 2, 9])).tolist() == [0, 0, 1, 2, 1, 0]
    assert group_ranks(np.array([], np.int64)).tolist() == []


def test_moving_average_without_memory_is_the_mean_of_the_batch() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [10.0, 10.0]])
    codebook = torch.zeros(1, 2, 2)
    MovingAverage(codebook, decay=0.0).after_step(x[None], torch.tensor([[0], [0], [1]]))
    torch.testing.assert_close(codebook[0], torch.tensor([[2.0, 2.0], [10.0, 10.0]]), atol=1e-3, rtol=1e-4)


def test_standardisation_is_that_of_scikit_learn() -> None:
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32) * [1, 20, 0] + 5
    layer = Standardise(3, torch.device("cpu"))
    layer.learn(torch.as_tensor(x, dtype=torch.float32))
    mine = layer(torch.as_tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(mine.numpy(), StandardScaler().fit_transform(x), atol=1e-4)
    torch.testing.assert_close(layer.undo(mine), torch.as_tensor(x, dtype=torch.float32), atol=1e-4, rtol=1e-4)


def test_codebook_is_the_moving_average_of_its_latents_not_scrambled() -> None:
    """The first codes are near the means of their latents: the fault of a reshaped start would put them elsewhere."""
    tokenizer, sids = fit(steps=300)
    z = tokenizer.net_.latents(torch.as_tensor(features().concatenated())).numpy()
    book = tokenizer.net_.quantiser.codebooks[0].detach().numpy()
    for code in np.unique(sids.codes[:, 0]):
        mean = z[sids.codes[:, 0] == code].mean(0)
        assert np.linalg.norm(book[code] - mean) < 0.5 * z.std(0).max() * np.sqrt(8)


def test_a_second_level_with_fewer_items_than_codes_uses_what_it_has() -> None:
    tokenizer, sids = fit(codebook_size=60)
    sizes = np.bincount(sids.codes[:, 0], minlength=60)
    np.testing.assert_array_equal(tokenizer.counts_, np.clip(sizes, 1, 60))
    assert sids.codes[:, 1].max() < tokenizer.counts_.max()


@pytest.mark.parametrize("length", [2, 4])
def test_there_are_three_positions(length: int) -> None:
    with pytest.raises(InputError, match="3 <= code_length <= 3"):
        MbgenConfig(code_length=length)
