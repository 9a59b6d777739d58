"""Pruned top-k against sorting all scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.datasets.foundation.errors import InputError
from sidbench.recommenders.decoding import pruned
from sidbench.recommenders.decoding.pruned import PostingLists


def brute_force(rows: np.ndarray, values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Best ``k`` of ``values[rows].sum(0)``, added in float32 in the order of positions, ties by item."""
    score = values[rows[0]].copy()
    for row in rows[1:]:
        score += values[row]
    order = np.lexsort((np.arange(len(score)), -score))[:k]
    return order, score[order]


def fused(codes: np.ndarray, size: int) -> torch.Tensor:
    return torch.from_numpy((codes + size * np.arange(codes.shape[1])).T.copy())


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, np.ndarray, int, int]:
    """Codes ``[N, L]``, classes, values ``[L classes, B]``, k, postings of a round; a coarse grid makes many ties."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    length, size, n_items = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 120))
    codes = generator.integers(0, size, (n_items, length))
    kind = draw(st.sampled_from(["coarse", "fine", "peaked", "impossible"]))
    values = generator.normal(size=(length * size, draw(st.integers(1, 3))))
    if kind == "coarse":
        values = np.round(values)
    elif kind == "peaked":
        values = 8 * values
    elif kind == "impossible":
        values[values < 0] = -np.inf
    return codes, size, values.astype(np.float32), draw(st.integers(1, n_items)), draw(st.integers(1, 40))


@settings(max_examples=150, deadline=None)
@given(problems(), st.booleans(), st.sampled_from([0.1, 1.0, 10.0]))
def test_equals_brute_force_ties_included(problem, prune, share):
    codes, size, values, k, step = problem
    rows = fused(codes, size)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SMALL", 0), ("ROUND", step), ("SCAN", step), ("SHARE", share)):
            patch.setattr(pruned, name, value)
        found = PostingLists.of(rows, len(values)).top_k(torch.from_numpy(values), k, prune)
    for user in range(values.shape[1]):
        item, score = brute_force(rows.numpy(), values[:, user], k)
        np.testing.assert_array_equal(found.item[user].numpy(), item)
        np.testing.assert_array_equal(found.score[user].numpy(), score)


def large(temperature: float) -> tuple[PostingLists, torch.Tensor]:
    generator = np.random.default_rng(0)
    rows = fused(generator.integers(0, 32, (50_000, 4)), 32)
    logits = torch.from_numpy(generator.normal(size=(4, 32)) / temperature).float()
    return PostingLists.of(rows, 128), torch.log_softmax(logits, 1).flatten()


def test_peaked_scores_are_pruned_and_flat_ones_scanned(monkeypatch):
    index, peaked = large(0.2)
    assert index.top_k(peaked, 10).examined[0] == 50_000
    monkeypatch.setattr(pruned, "SMALL", 50_000)
    found = index.top_k(peaked, 10)
    assert found.examined[0] < 50_000 / 8 + 2000
    assert torch.equal(found.item, index.top_k(peaked, 10, prune=False).item)
    flat = index.top_k(torch.zeros(128), 10)
    assert flat.item[0].tolist() == list(range(10))
    assert 50_000 < flat.examined[0] < 50_000 * (1 + 1 / 8) + 2000


def test_bound_by_hand():
    """Two positions of two classes. The best class of position 0 holds items 0 and 1, scores -0.1 - 0.2 and -0.1 - 2;
    after it the bound is -3 - 0.2 < -0.3, so items 2 and 3 are never looked at."""
    rows = torch.tensor([[0, 0, 1, 1], [2, 3, 2, 3]])
    index = PostingLists.of(rows, 4)
    assert [index.items[a:b].tolist() for a, b in zip(index.start, index.start[1:], strict=False)] == [
        [0, 1],
        [2, 3],
        [0, 2],
        [1, 3],
    ]
    values = np.array([-0.1, -3.0, -0.2, -2.0], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruned, "SMALL", 0)
        assert [(lists, round(bound, 4)) for lists, bound in index._rounds(values)] == [([0], -3.2)]
        found = index.top_k(torch.from_numpy(values), 1)
    assert found.item.tolist() == [[0]] and found.examined.tolist() == [2]


def test_one_user_may_come_without_a_column():
    index, peaked = large(0.5)
    both = index.top_k(torch.stack([peaked, peaked.flip(0)], 1), 5)
    assert both.item.shape == (2, 5)
    assert torch.equal(index.top_k(peaked, 5).item[0], both.item[0])


@pytest.mark.parametrize(
    "rows, n_rows, message",
    [
        (torch.zeros(2, 0, dtype=torch.int64), 3, "shape"),
        (torch.tensor([[0, 1], [2, 3]]), 3, "0..3"),
        (torch.tensor([[0, 1], [1, 2]]), 3, "two positions"),
    ],
)
def test_rows_that_cannot_be_indexed_are_refused(rows, n_rows, message):
    with pytest.raises(InputError, match=message):
        PostingLists.of(rows, n_rows)


def test_impossible_questions_are_refused():
    index = PostingLists.of(torch.tensor([[0, 1], [2, 3]]), 4)
    for k in (0, 3):
        with pytest.raises(InputError, match="top-k: k"):
            index.top_k(torch.zeros(4), k)
    with pytest.raises(InputError, match="shape"):
        index.top_k(torch.zeros(5), 1)
    with pytest.raises(InputError, match="NaN"):
        index.top_k(torch.tensor([0.0, float("nan"), 0.0, 0.0]), 1)
