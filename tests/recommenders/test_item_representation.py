"""Item representations of rankers: hashes by hand, PAD is zero, weights scale, budgets are equal."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sidbench.datasets.foundation.errors import InputError
from sidbench.recommenders.blocks.hashing import prefix_hashes
from sidbench.recommenders.blocks.item_representation import (
    ItemLookup,
    ItemRepresentation,
    RepresentationConfig,
    item_table_rows,
    layout_for,
    sid_concat_parameters,
)
from sidbench.tokenizers.base import PAD, SemanticIds

CODES = np.array([[0, 1, 2], [0, 1, PAD], [3, 1, 2], [0, 2, PAD], [0, 1, 2]], np.int32)
SIDS = SemanticIds(CODES, np.array([4, 3, 5], np.int32), ordered=True)
EVERY = ("item_id", "hashed_id", "sid_concat", "sid_sum", "sid_prefix", "sid+id")


def built(sids: SemanticIds, **chosen) -> tuple[ItemRepresentation, ItemLookup]:
    """A representation with random tables, and the lookup of its catalogue."""
    config = RepresentationConfig(**{"item_width": 6, "code_width": 4, "prefix_rows": 50, **chosen})
    layout = layout_for(config, sids, "test")
    module = ItemRepresentation(config, item_table_rows(config, sids.n_items, layout), layout)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    return module, ItemLookup.of(config, layout, sids, sids.n_items, "test")


def vectors(module: ItemRepresentation, lookup: ItemLookup) -> torch.Tensor:
    weights = None if lookup.weights is None else torch.from_numpy(lookup.weights)
    with torch.no_grad():
        return module(torch.from_numpy(lookup.ids), torch.from_numpy(lookup.rows), weights)[0]


def scrambled(state: int) -> int:
    """The finaliser of SplitMix64 in plain integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def hash_of(prefix: list[int]) -> int:
    state = int.from_bytes(b"SID-BENC", "big")
    for code in prefix:
        state = scrambled((state + 0x9E3779B97F4A7C15 * (code + 1)) % 2**64)
    return state


def test_scrambling_is_the_published_one():
    assert scrambled(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # first output of SplitMix64 with seed 0


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.integers(0, 3)))
def test_equal_prefixes_and_only_they_share_a_hash(codes):
    hashes = prefix_hashes(codes)
    for position in range(codes.shape[1]):
        for item in range(len(codes)):
            assert int(hashes[item, position]) == hash_of(codes[item, : position + 1].tolist())
            same = (codes[:, : position + 1] == codes[item, : position + 1]).all(axis=1)
            assert np.array_equal(hashes[:, position] == hashes[item, position], same)


def test_prefix_rows_by_hand():
    module, lookup = built(SIDS, representation="sid_prefix")
    expected = [
        [hash_of([0]) % 50, hash_of([0, 1]) % 50, hash_of([0, 1, 2]) % 50],
        [hash_of([0]) % 50, hash_of([0, 1]) % 50, 50],  # a prefix that ends in PAD has the PAD row
        [hash_of([3]) % 50, hash_of([3, 1]) % 50, hash_of([3, 1, 2]) % 50],
        [hash_of([0]) % 50, hash_of([0, 2]) % 50, 50],
    ]
    assert lookup.rows[:4].tolist() == expected
    table = module.codes.table.detach()
    torch.testing.assert_close(vectors(module, lookup)[1], table[expected[1][0]] + table[expected[1][1]])
    assert module.embedding_parameters() == 50 * 6
    prefixes = ([0], [0, 1], [0, 1, 2], [0, 2], [3], [3, 1], [3, 1, 2])
    held = Counter(hash_of(prefix) % 50 for prefix in prefixes)
    assert lookup.notes == {"distinct_prefixes": 7.0, "prefixes_sharing_a_row": sum(n for n in held.values() if n > 1)}


def test_one_row_means_that_all_prefixes_share_it():
    module, lookup = built(SIDS, representation="sid_prefix", prefix_rows=1)
    only = module.codes.table.detach()[0]
    torch.testing.assert_close(vectors(module, lookup), torch.stack([3 * only, 2 * only, 3 * only, 2 * only, 3 * only]))
    assert lookup.notes["prefixes_sharing_a_row"] == 7.0


@pytest.mark.parametrize("representation", ["sid_concat", "sid_sum", "sid_prefix"])
def test_pad_is_zero_and_takes_no_gradient(representation):
    module, lookup = built(SIDS, representation=representation)
    with torch.no_grad():
        module.codes.table[torch.from_numpy(module.codes.layout.pad_rows)] += 1e3
    loud = vectors(module, lookup)
    with torch.no_grad():
        module.codes.table[torch.from_numpy(module.codes.layout.pad_rows)] = 0
    assert torch.equal(loud, vectors(module, lookup))
    total, penalty = module(torch.from_numpy(lookup.ids), torch.from_numpy(lookup.rows))
    (total.sum() + penalty).backward()
    assert torch.count_nonzero(module.codes.table.grad[torch.from_numpy(module.codes.layout.pad_rows)]) == 0


def test_an_item_of_pad_only_is_the_zero_vector():
    sids = SemanticIds(np.array([[PAD, PAD], [1, 0]], np.int32), np.array([2, 1], np.int32), True)
    for representation in ("sid_sum", "sid_prefix"):
        found = vectors(*built(sids, representation=representation))
        assert torch.count_nonzero(found[0]) == 0
        assert torch.count_nonzero(found[1]) == 6


WEIGHTS = np.array([[1, 2, 0.5], [1, 0, 9], [0.25, 1, 1], [1, 1, 0], [1, 1, 1]], np.float32)


def test_weights_scale_code_vectors_by_hand():
    sids = replace(SIDS, weights=WEIGHTS)
    module, lookup = built(sids, representation="sid_sum", code_weights=True)
    table, found = module.codes.table.detach(), vectors(module, lookup)
    torch.testing.assert_close(found[0], table[0] + 2 * table[4 + 1] + 0.5 * table[4 + 3 + 2])
    torch.testing.assert_close(found[1], table[0])  # weight 0 at position 1; PAD stays zero whatever its weight
    assert lookup.weights[1, 2] == 0


@pytest.mark.parametrize("representation", ["sid_concat", "sid_sum", "sid_prefix", "sid+id"])
def test_weights_of_one_change_nothing_and_others_do(representation):
    plain = vectors(*built(SIDS, representation=representation))
    for weights, equal in ((np.ones_like(WEIGHTS), True), (WEIGHTS, False)):
        sids = replace(SIDS, weights=weights)
        weighted = vectors(*built(sids, representation=representation, code_weights=True))
        assert torch.equal(plain, weighted) == equal
    assert torch.equal(plain, vectors(*built(sids, representation=representation)))  # without the setting: not read


def test_the_sum_of_concat_and_id_is_both():
    module, lookup = built(SIDS, representation="sid+id")
    rows = torch.from_numpy(lookup.rows)
    with torch.no_grad():
        codes = module.project(module.codes.inputs()[rows].flatten(1))
    torch.testing.assert_close(vectors(module, lookup), codes + module.item_table.detach())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.integers(1, 24), st.integers(8, 40))
def test_hashed_ids_cost_what_codes_cost(length, size, code_width, item_width):
    codes = np.random.default_rng(0).integers(0, size, (2000, length)).astype(np.int32)
    codes[::7, -1] = PAD
    sids = SemanticIds(codes, np.full(length, size, np.int32), False)
    widths = {"code_width": code_width, "item_width": item_width}
    (concat, _), (hashed, lookup) = built(sids, **widths), built(sids, representation="hashed_id", **widths)
    assert abs(concat.embedding_parameters() - hashed.embedding_parameters()) <= item_width
    assert concat.embedding_parameters() == length * size * code_width + length * code_width * item_width + item_width
    assert lookup.notes["hashed_id_rows"] == len(hashed.item_table) == lookup.notes["hashed_id_parameters"] / item_width
    assert lookup.notes["sid_concat_parameters"] == concat.embedding_parameters()
    assert lookup.ids.max() < len(hashed.item_table)
    alone = np.unique(lookup.ids, return_counts=True)[1]
    assert lookup.notes["hashed_id_items_sharing_a_row"] == alone[alone > 1].sum()


def test_hashed_ids_by_hand_and_evenly_spread():
    sids = SemanticIds(np.zeros((5000, 1), np.int32), np.array([100], np.int32), False)
    _, lookup = built(sids, representation="hashed_id", code_width=16, item_width=32)
    rows = round((100 * 16 + 16 * 32 + 32) / 32)
    assert lookup.ids[[0, 1, 4999]].tolist() == [hash_of([i]) % rows for i in (0, 1, 4999)]
    load = np.bincount(lookup.ids, minlength=rows)
    expected = 5000 / rows
    assert ((load - expected) ** 2 / expected).sum() < rows + 4 * (2 * rows) ** 0.5  # chi-square, 4 standard deviations


def test_a_budget_of_a_row_an_item_needs_no_hash():
    _, lookup = built(SIDS, representation="hashed_id")
    assert lookup.ids.tolist() == [0, 1, 2, 3, 4]
    assert lookup.notes["hashed_id_rows"] == 5 and lookup.notes["hashed_id_items_sharing_a_row"] == 0
    assert lookup.notes["sid_concat_parameters"] == 12 * 4 + 3 * 4 * 6 + 6


def test_budget_formula_of_the_specification():
    sids = SemanticIds(np.zeros((1, 6), np.int32), np.full(6, 100, np.int32), False)
    config = RepresentationConfig()
    assert sid_concat_parameters(config, layout_for(config, sids, "test")) == 600 * 16 + 6 * 16 * 32 + 32


@pytest.mark.parametrize("representation", EVERY[1:])
def test_missing_sids_are_refused(representation):
    with pytest.raises(InputError, match=r"(?s)representation=.*semantic IDs"):
        layout_for(RepresentationConfig(representation=representation), None, "test")


@pytest.mark.parametrize(
    ("sids", "chosen", "message"),
    [
        (replace(SIDS, ordered=False), {"representation": "sid_prefix"}, "order"),
        (SIDS, {"code_weights": True}, "adasid"),
        (replace(SIDS, weights=np.ones((5, 2), np.float32)), {"code_weights": True}, "shape"),
        (SIDS, {"representation": "item_id", "code_weights": True}, "code_weights"),
        (SIDS, {"representation": "hashed_id", "code_weights": True}, "code_weights"),
        (SIDS, {"representation": "itemid"}, "sid_prefix"),
    ],
)
def test_what_cannot_be_is_said(sids, chosen, message):
    with pytest.raises(InputError, match=message):
        built(sids, **chosen)


@pytest.mark.parametrize("representation", EVERY[1:])
def test_sids_of_another_catalogue_are_refused(representation):
    config = RepresentationConfig(representation=representation)
    with pytest.raises(InputError, match="5 items"):
        ItemLookup.of(config, layout_for(config, SIDS, "test"), SIDS, 6, "test")
