"""Controls made of hashes, categories and popularity: they know exactly what they claim to know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import normalized_mutual_info_score

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import TokenizerConfig
from sidbench.tokenizers.category_prefix import CategoryPrefix, CategoryPrefixConfig
from sidbench.tokenizers.hash import HashCodes
from sidbench.tokenizers.popularity import Popularity

RUNTIME = local_runtime()


def many_items(n: int, keys: bool) -> ItemFeatures:
    base = planted_features(10).take(np.arange(1))
    return replace(
        base,
        train_counts=np.zeros(n, np.int64),
        modalities={},
        available={},
        richness=np.zeros(n, np.float32),
        item_keys=tuple(f"B{i:07d}" for i in range(n)) if keys else None,
    )


def with_counts(counts: list[int]) -> ItemFeatures:
    return replace(many_items(len(counts), False), train_counts=np.array(counts, np.int64))


def by_categories(paths: list[tuple[str, ...]]) -> ItemFeatures:
    return replace(many_items(len(paths), False), categories=tuple(paths), train_counts=np.ones(len(paths), np.int64))


# -- hash ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keys", [True, False])
def test_hash_is_uniform_and_positions_are_independent(keys: bool) -> None:
    features = many_items(20_000, keys)
    config = TokenizerConfig(code_length=4, codebook_size=16)
    codes = HashCodes(config).fit(features, Rng(1), RUNTIME).encode(features, RUNTIME).codes
    for p in range(4):
        assert stats.chisquare(np.bincount(codes[:, p], minlength=16)).pvalue > 1e-4
        for q in range(p):
            joint = np.bincount(codes[:, p] * 16 + codes[:, q], minlength=256)
            assert stats.chisquare(joint).pvalue > 1e-4
    distinct = len(np.unique(codes, axis=0))
    expected = 16**4 * (1 - (1 - 16.0**-4) ** 20_000)
    assert abs(distinct - expected) < 300


def test_hash_follows_the_key_not_the_row() -> None:
    features = many_items(50, True)
    fitted = HashCodes(TokenizerConfig()).fit(features, Rng(0), RUNTIME)
    rows = np.arange(50)[::-1]
    keys = tuple(f"B{i:07d}" for i in rows)
    codes = fitted.encode(features, RUNTIME).codes
    np.testing.assert_array_equal(fitted.encode(replace(features, item_keys=keys), RUNTIME).codes, codes[rows])
    with pytest.raises(InputError, match="no item keys"):
        fitted.encode(replace(features, item_keys=None), RUNTIME)
    other = HashCodes(TokenizerConfig()).fit(features, Rng(1), RUNTIME).encode(features, RUNTIME).codes
    assert (other != codes).mean() > 0.9


# -- popularity ----------------------------------------------------------------------------------------------------
def test_popularity_by_hand() -> None:
    features = with_counts([5, 0, 9, 5, 1, 0, 2, 7])
    codes = (
        Popularity(TokenizerConfig(code_length=3, codebook_size=2))
        .fit(features, Rng(0), RUNTIME)
        .encode(features, RUNTIME)
        .codes
    )
    # ranks: 2, 6, 0, 3, 5, 7, 4, 1 of 8 items, so three binary digits are the rank itself
    assert (codes @ [4, 2, 1]).tolist() == [2, 6, 0, 3, 5, 7, 4, 1]


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=60), size=st.integers(1, 5), length=st.integers(1, 4))
def test_popularity_prefixes_fall_with_the_count_and_are_distinct_where_they_can(
    counts: list[int], size: int, length: int
) -> None:
    features = with_counts(counts)
    tokenizer = Popularity(TokenizerConfig(code_length=length, codebook_size=size)).fit(features, Rng(0), RUNTIME)
    codes = tokenizer.encode(features, RUNTIME).check(len(counts)).codes
    for p in range(1, length + 1):
        prefix = codes[:, :p] @ size ** np.arange(p)[::-1]
        order = np.argsort(-np.array(counts), kind="stable")
        assert (np.diff(prefix[order]) >= 0).all()
        assert np.bincount(prefix).max() <= -(-len(counts) // size**p)


def test_popularity_codes_end_where_the_rank_is_told() -> None:
    features = with_counts(list(range(120))[::-1])  # row = rank
    codes = (
        Popularity(TokenizerConfig(code_length=6, codebook_size=10))
        .fit(features, Rng(0), RUNTIME)
        .encode(features, RUNTIME)
        .codes
    )
    np.testing.assert_array_equal(codes[:, 0], np.arange(120) // 12)
    np.testing.assert_array_equal(codes[:12, 1], [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9])  # floor(10 j / 12)
    np.testing.assert_array_equal(codes[:12, 2], [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    assert not codes[:, 3:].any() and len(np.unique(codes, axis=0)) == 120


def test_popularity_of_new_items() -> None:
    tokenizer = Popularity(TokenizerConfig(code_length=2, codebook_size=10)).fit(
        with_counts([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]), Rng(0), RUNTIME
    )
    codes = tokenizer.encode(with_counts([0, 6, 0]), RUNTIME).codes
    assert codes[1].tolist() == [3, 0]  # as the fitted item of that count
    assert codes[0].tolist() == codes[2].tolist() == [9, 0]  # at the end


# -- categories ----------------------------------------------------------------------------------------------------
def test_category_prefix_is_the_planted_tree() -> None:
    features = planted_features(240)
    tokenizer = CategoryPrefix(CategoryPrefixConfig(code_length=4, codebook_size=8)).fit(features, Rng(0), RUNTIME)
    codes = tokenizer.encode(features, RUNTIME).codes
    leaf = [path[-1] for path in features.categories or ()]
    top = [path[0] for path in features.categories or ()]
    assert normalized_mutual_info_score(top, codes[:, 0]) == pytest.approx(1)
    assert normalized_mutual_info_score(leaf, codes[:, 0] * 8 + codes[:, 1]) == pytest.approx(1)
    assert normalized_mutual_info_score(leaf, codes[:, 2] * 8 + codes[:, 3]) < 0.5  # the rest says nothing of it
    assert len(np.unique(codes, axis=0)) == 240  # about 15 items a leaf, 64 numbers
    assert tokenizer.diagnostics()["folded_categories"] == 0


def test_category_levels_without_choice_are_left_out_and_short_paths_end_in_code_0() -> None:
    features = by_categories([("Beauty", "Hair", "Oil"), ("Beauty", "Hair", "Wax"), ("Beauty", "Skin"), ("Beauty",)])
    tokenizer = CategoryPrefix(CategoryPrefixConfig(code_length=3, codebook_size=4)).fit(features, Rng(0), RUNTIME)
    assert tokenizer.levels_.tolist() == [2, 3]
    assert tokenizer.encode(features, RUNTIME).codes[:, :2].tolist() == [[1, 1], [1, 2], [2, 0], [0, 0]]
    unknown = tokenizer.encode(by_categories([("Beauty", "Nails", "File"), ("Beauty", "Skin", "Soap")]), RUNTIME)
    assert unknown.codes[:, :2].tolist() == [[0, 0], [2, 0]]


def test_too_many_children_are_folded_and_counted() -> None:
    features = by_categories([(f"c{i}",) for i in range(10)])
    tokenizer = CategoryPrefix(CategoryPrefixConfig(code_length=2, codebook_size=5)).fit(features, Rng(0), RUNTIME)
    assert tokenizer.diagnostics()["folded_categories"] == 6
    assert sorted(np.bincount(tokenizer.encode(features, RUNTIME).codes[:, 0])) == [0, 2, 2, 3, 3]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 200), size=st.integers(2, 12), length=st.integers(2, 12))
def test_numbers_within_a_category_repeat_as_little_as_possible(n: int, size: int, length: int) -> None:
    features = by_categories([("a",) if i % 3 else ("b",) for i in range(n)])
    tokenizer = CategoryPrefix(CategoryPrefixConfig(code_length=length, codebook_size=size)).fit(features, Rng(0), RUNTIME)
    codes = tokenizer.encode(features, RUNTIME).check(n).codes
    sizes = np.unique(codes[:, 0], return_counts=True)[1]
    repeats = np.unique(codes, axis=0, return_counts=True)[1]
    assert repeats.max() <= -(-sizes.max() // size ** (length - 1))


def test_catalogue_without_categories_is_refused() -> None:
    with pytest.raises(InputError, match="categories"):
        CategoryPrefix(CategoryPrefixConfig()).fit(replace(planted_features(), categories=None), Rng(0), RUNTIME)
