"""Controls: random codes, shuffled codes, item IDs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers import random
from sidbench.tokenizers.base import TokenizerConfig
from sidbench.tokenizers.item_id import ItemId
from sidbench.tokenizers.random import RandomCodes, distinct_codes
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig
from sidbench.tokenizers.shuffled import BASES, Shuffled, ShuffledConfig

RUNTIME = local_runtime()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 300), length=st.integers(1, 4), size=st.integers(1, 6), seed=st.integers(0, 3))
def test_random_codes_repeat_as_little_as_possible(n: int, length: int, size: int, seed: int) -> None:
    codes = distinct_codes(n, length, size, Rng(seed))
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    assert codes.shape == (n, length) and codes.min() >= 0 and codes.max() < size
    assert len(counts) == min(n, size**length)
    assert counts.max() - counts.min() <= 1 or len(counts) < size**length
    assert counts.max() == -(-n // size**length)


@pytest.mark.parametrize("enumerable", [1, 1 << 20])
def test_random_rows_do_not_depend_on_how_many_follow(enumerable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "ENUMERABLE", enumerable)
    many, few = distinct_codes(5000, 3, 20, Rng(0)), distinct_codes(100, 3, 20, Rng(0))
    np.testing.assert_array_equal(many[:100], few)
    assert len(np.unique(many, axis=0)) == 5000


def test_random_codes_are_uniform() -> None:
    codes = distinct_codes(20_000, 6, 100, Rng(1))
    for position in range(6):
        counts = np.bincount(codes[:, position], minlength=100)
        assert ((counts - 200) ** 2 / 200).sum() < 160  # chi-square, 99 degrees of freedom: beyond once in 10,000


def test_random_codes_ignore_the_features() -> None:
    fitted = RandomCodes(TokenizerConfig()).fit(planted_features(seed=0), Rng(3), RUNTIME)
    first, second = (fitted.encode(planted_features(seed=s), RUNTIME).codes for s in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_shuffled_keeps_the_table_and_moves_the_items() -> None:
    features = planted_features(300)
    shared = {"code_length": 3, "codebook_size": 8}
    budget = RqKMeans.budgets["smoke"]
    base = RqKMeans(RqKMeansConfig(**{**budget, **shared})).fit(  # type: ignore[arg-type]
        features, Rng(0).child("tokenizer", "rqkmeans"), RUNTIME
    )
    plain = base.encode(features, RUNTIME).codes
    shuffled = Shuffled(ShuffledConfig(base_budget="smoke", **shared)).fit(  # type: ignore[arg-type]
        features, Rng(0).child("tokenizer", "shuffled"), RUNTIME
    )
    np.testing.assert_array_equal(shuffled.base_.encode(features, RUNTIME).codes, plain)  # its neighbour
    dealt = shuffled.encode(features, RUNTIME).codes
    for before, after in zip(*(np.unique(c, axis=0, return_counts=True) for c in (plain, dealt)), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (plain == dealt).all(axis=1).mean() < 0.2


@pytest.mark.parametrize("base", sorted(BASES))
def test_every_base_can_be_built(base: str) -> None:
    own = installed().load("tokenizer", base).config_class()  # some methods fix the length of their SIDs
    config = ShuffledConfig(base=base, base_budget="smoke", code_length=own.code_length, codebook_size=own.codebook_size)
    made = Shuffled(config).base_
    assert type(made).__name__ == BASES[base]
    assert made.config.codebook_size == config.codebook_size


def test_item_id_is_the_identity_and_refuses_other_catalogues() -> None:
    features = planted_features(50)
    fitted = ItemId(TokenizerConfig()).fit(features, Rng(0), RUNTIME)
    sids = fitted.encode(features, RUNTIME).check(50)
    assert sids.codes[:, 0].tolist() == list(range(50)) and sids.sizes.tolist() == [50]
    with pytest.raises(InputError, match="the 50 items of the fit"):
        fitted.encode(planted_features(51), RUNTIME)
