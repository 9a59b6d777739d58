"""The trie against plain Python sets and sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.foundation.errors import InputError
from sidbench.recommenders.decoding import trie as trie_module
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import PAD, SemanticIds

RUNTIME = local_runtime()


def sids_of(codes: list[list[int]], sizes: list[int]) -> SemanticIds:
    return SemanticIds(np.array(codes, np.int32), np.array(sizes, np.int32), False)


@st.composite
def catalogues(draw: st.DrawFn) -> SemanticIds:
    """1 to 40 items of 1 to 5 positions with 1 to 4 codes each, PAD allowed."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    low = draw(st.sampled_from([0, PAD]))
    return sids_of([[int(generator.integers(low, k)) for k in sizes] for _ in range(draw(st.integers(1, 40)))], sizes)


def class_rows(sids: SemanticIds) -> list[tuple[int, ...]]:
    return [tuple(int(k) if c == PAD else int(c) for c, k in zip(row, sids.sizes, strict=True)) for row in sids.codes]


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.sampled_from([1 << 63, 5, 1]))
def test_trie_holds_the_sorted_distinct_sids(sids: SemanticIds, word: int) -> None:
    before, trie_module.WORD = trie_module.WORD, word  # small words: the path for codes too long for one key
    try:
        trie = SidTrie.of(sids, RUNTIME)
    finally:
        trie_module.WORD = before
    rows = class_rows(sids)
    distinct = sorted(set(rows))
    assert list(map(tuple, trie.classes.tolist())) == distinct
    assert trie.of_item.tolist() == [distinct.index(r) for r in rows]
    assert trie.group.tolist() == [rows.count(d) for d in distinct]
    assert (trie.n_items, trie.n_sids, trie.length) == (len(rows), len(distinct), len(sids.sizes))
    assert trie.find(trie.classes).tolist() == list(range(len(distinct)))
    for p in range(trie.length):
        prefixes = sorted({d[:p] for d in distinct})
        deeper = sorted({d[: p + 1] for d in distinct})
        assert (1 if p == 0 else len(trie.label[p - 1])) == len(prefixes)
        found = trie.children(p, torch.arange(len(prefixes)).flip(0))
        got = [
            (prefixes[len(prefixes) - 1 - o], deeper[n], c)
            for o, n, c in zip(found.owner.tolist(), found.node.tolist(), found.label.tolist(), strict=True)
        ]
        assert got == [(q, d, d[p]) for q in reversed(prefixes) for d in deeper if d[:p] == q]


@settings(max_examples=40, deadline=None)
@given(catalogues())
def test_find_knows_every_tuple_of_classes(sids: SemanticIds) -> None:
    trie = SidTrie.of(sids, RUNTIME)
    distinct = sorted(set(class_rows(sids)))
    every = np.stack(np.meshgrid(*(np.arange(c) for c in trie.layout.classes), indexing="ij"), -1).reshape(-1, trie.length)
    wanted = [distinct.index(tuple(t)) if tuple(t) in distinct else -1 for t in every.tolist()]
    assert trie.find(torch.from_numpy(every)).tolist() == wanted


def test_hand_worked_levels_with_pad_last() -> None:
    # Classes, PAD of position 1 is 2: (0, 1) (0, 2) (1, 0) (1, 0).
    trie = SidTrie.of(sids_of([[1, 0], [0, PAD], [0, 1], [1, 0]], [3, 2]), RUNTIME)
    assert [f.tolist() for f in trie.first] == [[0, 2], [0, 2, 3]]
    assert [label.tolist() for label in trie.label] == [[0, 1], [1, 2, 0]]
    assert trie.of_item.tolist() == [2, 1, 0, 2]
    assert trie.group.tolist() == [1, 1, 2]
    assert trie.first[0].dtype == trie.label[0].dtype == torch.int32
    node, label = torch.tensor([[0, 0, 1, -1]]), torch.tensor([[2, 0, 0, 0]])
    assert trie.child(1, node, label).tolist() == [[1, -1, 2, -1]]


def test_codes_too_long_for_one_key() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 65536, size=(500, 9))  # 144 bits
    codes[250:] = codes[:250]
    codes[250:, 8] += generator.integers(0, 2, 250)  # some equal, some apart at the last position only
    sids = sids_of((codes % 65536).tolist(), [65536] * 9)
    trie = SidTrie.of(sids, RUNTIME)
    assert list(map(tuple, trie.classes.tolist())) == sorted(set(class_rows(sids)))
    assert trie.find(trie.classes).tolist() == list(range(trie.n_sids))


def test_wrong_codes_are_refused() -> None:
    for codes in ([[0, 2]], [[0, -2]]):
        with pytest.raises(InputError, match="position 1"):
            SidTrie.of(sids_of(codes, [1, 2]), RUNTIME)
    with pytest.raises(InputError, match="no items"):
        SidTrie.of(SemanticIds(np.zeros((0, 2), np.int32), np.array([1, 1], np.int32), False), RUNTIME)
