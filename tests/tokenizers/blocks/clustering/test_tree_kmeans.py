"""Cluster trees, hierarchical k-means and EAGER's codes: planted structure, sizes, duplicates, depth bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.clustering.tree_kmeans import (
    Tree,
    balanced_split,
    conditional_codes,
    grow_tree,
    lloyd_split,
)
from sidbench.tokenizers.eager import Eager, EagerConfig
from sidbench.tokenizers.hierarchical_kmeans import HierarchicalKMeans, HierarchicalKMeansConfig

RUNTIME = local_runtime()


def hierarchical(features: ItemFeatures, **settings: object) -> HierarchicalKMeans:
    config = HierarchicalKMeansConfig(**{"codebook_size": 4, **settings})  # type: ignore[arg-type]
    return HierarchicalKMeans(config).fit(features, Rng(0), RUNTIME)


def all_seen(n: int, *modalities: str) -> ItemFeatures:
    """``n`` planted items, each with behaviour and seen in training."""
    total = -(-n * 10 // 8)
    planted = planted_features(total, modalities=modalities or ("text", "behaviour")).take(np.arange(total - n, total))
    return replace(planted, train_counts=np.ones(n, np.int64))


def labels(features: ItemFeatures, level: int) -> np.ndarray:
    assert features.categories is not None
    return np.unique([path[level] for path in features.categories], return_inverse=True)[1]


def test_prefixes_recover_the_planted_tree() -> None:
    features = planted_features(600)
    codes = hierarchical(features).encode(features, RUNTIME).codes
    assert normalized_mutual_info_score(labels(features, 0), codes[:, 0]) > 0.95
    assert normalized_mutual_info_score(labels(features, 1), codes[:, 0] * 4 + codes[:, 1]) > 0.95


def test_fitted_items_have_sids_of_their_own_of_variable_length() -> None:
    features = all_seen(300)
    tokenizer = hierarchical(features, code_length=10)
    sids = tokenizer.encode(features, RUNTIME)
    assert len(sids.distinct()[0]) == 300
    lengths = (sids.codes != PAD).sum(1)
    assert lengths.min() < lengths.max() == sids.code_length
    ended = np.cumsum(sids.codes == PAD, axis=1) > 0
    assert (sids.codes[ended] == PAD).all()  # nothing follows a PAD
    assert tokenizer.diagnostics()["items_sharing_a_sid"] == 0
    assert tokenizer.diagnostics()["mean_length"] == pytest.approx(lengths.mean())


def test_a_small_catalogue_is_only_numbered() -> None:
    features = all_seen(5)
    sids = hierarchical(features, codebook_size=5).encode(features, RUNTIME)
    assert sids.codes.tolist() == [[0], [1], [2], [3], [4]]


def test_depth_bound_makes_items_share_and_counts_them() -> None:
    features = all_seen(300)
    tokenizer = hierarchical(features, code_length=2)
    sids = tokenizer.encode(features, RUNTIME)
    assert sids.code_length == 2
    assert len(sids.distinct()[0]) <= 16
    assert tokenizer.diagnostics()["items_sharing_a_sid"] > 280


@pytest.mark.parametrize("clustering", ["lloyd", "balanced"])
def test_equal_items_share_a_sid_and_the_tree_ends(clustering: str) -> None:
    features = all_seen(120, "text")
    text = features.modalities["text"].copy()
    text[20:100] = text[0]
    features = replace(features, modalities={"text": text})
    tokenizer = hierarchical(features, clustering=clustering, code_length=30)
    codes = tokenizer.encode(features, RUNTIME).codes
    assert (codes[20:100] == codes[0]).all()
    assert tokenizer.diagnostics()["items_sharing_a_sid"] >= 81
    assert codes.shape[1] < 30


def test_an_item_not_fitted_takes_the_sid_of_the_nearest_item_of_its_leaf() -> None:
    features = all_seen(200, "text")
    tokenizer = hierarchical(features)
    codes = tokenizer.encode(features, RUNTIME).codes
    near = replace(features, modalities={"text": features.modalities["text"] + np.float32(1e-5)})
    np.testing.assert_array_equal(tokenizer.encode(near, RUNTIME).codes, codes)


def test_conditional_codes_by_hand() -> None:
    codes, sizes = conditional_codes(np.array([[2, 1, 0], [0, 3, PAD]]), 4, "x")
    assert codes.tolist() == [[2, 9, 36], [0, 3, PAD]]
    assert sizes.tolist() == [4, 16, 64]
    with pytest.raises(InputError, match="vocabulary=shared"):
        conditional_codes(np.zeros((1, 4), np.int64), 100, "x")


def test_conditional_and_shared_vocabulary_are_the_same_partition() -> None:
    features = all_seen(200)
    shared = hierarchical(features, code_length=3).encode(features, RUNTIME)
    own = hierarchical(features, code_length=3, vocabulary="conditional").encode(features, RUNTIME)
    assert own.sizes.tolist() == [4, 16, 64]
    np.testing.assert_array_equal(own.codes % 4, np.where(shared.codes == PAD, PAD % 4, shared.codes))
    np.testing.assert_array_equal(own.codes[:, 1] // 4, shared.codes[:, 0])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_trees_of_any_rows_end_and_send_rows_where_they_grew(n: int, k: int, depth: int, balanced: bool, seed: int) -> None:
    x = torch.as_tensor(np.random.default_rng(seed).integers(0, 4, (n, 2)), dtype=torch.float32)  # many equal rows
    split = balanced_split(k, RUNTIME, 3) if balanced else lloyd_split(k, RUNTIME, 3)
    tree = grow_tree(x, k, depth, split, Rng(seed))
    codes, _ = tree.descend(x, depth)
    assert (codes[:, 0] != PAD).all()
    assert codes.max() < k
    assert 1 <= tree.depth <= depth
    reached = 1 + sum(len(np.unique(codes[codes[:, p] != PAD, : p + 1], axis=0)) for p in range(tree.depth))
    assert reached == len(tree.count)  # every node holds a row
    again = Tree.from_state(tree.state("t"), "t", 2, "x").descend(x, depth)[0]
    np.testing.assert_array_equal(again, codes)


def test_state_with_children_that_do_not_exist_is_refused() -> None:
    tree = grow_tree(torch.rand(20, 2), 3, 3, lloyd_split(3, RUNTIME, 5), Rng(0))
    state = tree.state("t")
    with pytest.raises(InputError, match="children that do not exist"):
        Tree.from_state({**state, "t/first": state["t/first"] + 50}, "t", 2, "x")


def eager(features: ItemFeatures, **settings: object) -> Eager:
    config = EagerConfig(**{"codebook_size": 16, "passes": 10, **settings})  # type: ignore[arg-type]
    return Eager(config).fit(features, Rng(0), RUNTIME)


def test_eager_gives_every_item_a_leaf_of_its_own_in_equal_clusters() -> None:
    features = all_seen(250)  # 250 = 15 * 16 + 10 leaves of 256
    tokenizer = eager(features)
    sids = tokenizer.encode(features, RUNTIME)
    assert sids.position_names == ("behaviour 1", "behaviour 2", "semantic 1", "semantic 2")
    for stream in (0, 2):
        assert len(np.unique(sids.codes[:, stream : stream + 2], axis=0)) == 250
        assert set(np.bincount(sids.codes[:, stream], minlength=16)) == {15, 16}
    assert tokenizer.diagnostics()["items_sharing_a_semantic_code"] == 0


def test_eager_streams_read_their_own_modality_only() -> None:
    features = all_seen(250)
    other = replace(features, modalities={**features.modalities, "text": features.modalities["text"][::-1].copy()})
    codes = eager(features).encode(features, RUNTIME).codes
    turned = eager(other).encode(other, RUNTIME).codes
    np.testing.assert_array_equal(codes[:, :2], turned[:, :2])
    assert (codes[:, 2:] != turned[:, 2:]).any()


def test_eager_first_codes_follow_the_planted_nodes() -> None:
    features = all_seen(400)
    codes = eager(features, codebook_size=20).encode(features, RUNTIME).codes
    for stream in (0, 2):  # 20 equal clusters cannot be the 16 leaves, but hardly mix the 4 top nodes
        top = labels(features, 0)
        purity = sum(np.bincount(top[codes[:, stream] == c]).max() for c in range(20)) / 400
        assert purity > 0.85


def test_eager_pads_items_without_behaviour_and_counts_them() -> None:
    features = planted_features(240, modalities=("text", "behaviour"))
    tokenizer = eager(features)
    codes = tokenizer.encode(features, RUNTIME).codes
    cold = ~features.available["behaviour"]
    assert cold.sum() == 24
    assert (codes[cold][:, :2] == PAD).all()
    assert (codes[~cold] != PAD).all()
    assert (codes[:, 2:] != PAD).all()
    assert tokenizer.diagnostics()["items_without_behaviour"] == 24


def test_eager_shares_leaves_when_there_are_too_few_and_counts() -> None:
    features = all_seen(250)
    tokenizer = eager(features, codebook_size=8)
    sids = tokenizer.encode(features, RUNTIME)
    sizes = np.unique(sids.codes[:, 2:], axis=0, return_counts=True)[1]
    assert len(sizes) == 64
    assert set(sizes) <= {3, 4}  # 250 = 8 clusters of 31 or 32, 8 leaves in each
    assert tokenizer.diagnostics()["items_sharing_a_semantic_code"] == 250


def test_eager_conditional_second_codes_name_their_first() -> None:
    features = all_seen(250)
    sids = eager(features, vocabulary="conditional").encode(features, RUNTIME)
    assert sids.sizes.tolist() == [16, 256, 16, 256]
    np.testing.assert_array_equal(sids.codes[:, 1] // 16, sids.codes[:, 0])


def test_eager_refuses_an_odd_length() -> None:
    with pytest.raises(InputError, match="set tokenizer.code_length=6"):
        EagerConfig(code_length=5)
