"""Exact ranks against brute force in numpy; the chunked loss against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.blocks import exact
from sidbench.recommenders.blocks.exact import Candidates, DistinctSids, expected_ndcg, rank_scores, softmax_loss
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.tokenizers.base import PAD, SemanticIds

RUNTIME = local_runtime()


def brute(scores: np.ndarray, sid: np.ndarray, histories: list[list[int]], targets: np.ndarray) -> dict[str, list[int]]:
    """Counts by plain loops over users and items; ``scores`` float ``[B, N]``."""
    names = ("better", "tied", "sid_better", "sid_tied", "masked_better", "masked_tied")
    out: dict[str, list[int]] = {name: [] for name in names}
    for b, target in enumerate(targets):
        t, items = scores[b, target], range(scores.shape[1])
        kept = [i for i in items if i == target or i not in histories[b]]
        out["better"].append(sum(scores[b, i] > t for i in items))
        out["tied"].append(sum(scores[b, i] == t for i in items))
        out["sid_better"].append(len({sid[i] for i in items if scores[b, i] > t}))
        out["sid_tied"].append(len({sid[i] for i in items if scores[b, i] == t}))
        out["masked_better"].append(sum(scores[b, i] > t for i in kept))
        out["masked_tied"].append(sum(scores[b, i] == t for i in kept))
    return out


def sequences(rows: list[list[int]]) -> Sequences:
    return Sequences(
        np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        np.array([i for r in rows for i in r], np.int32),
    )


def compare(ranks: TargetRanks, expected: dict[str, list[int]]) -> None:
    for name, values in expected.items():
        assert getattr(ranks, name).tolist() == values, name


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4), st.integers(1, 3), st.sampled_from([3, 1 << 21]))
def test_sid_ranks_equal_brute_force(seed, n_items, length, size, cells):
    generator = np.random.default_rng(seed)
    codes = generator.integers(-1, size, size=(n_items, length)).astype(np.int32)
    sids = SemanticIds(codes, np.full(length, size, np.int32), False)
    layout = CodeLayout.of(sids)
    rows = layout.rows(codes)
    users = 5
    # Multiples of 1/8 add without rounding, so equal sums of different SIDs tie exactly in every order of addition.
    log_probs = -generator.integers(0, 6, size=(layout.offsets[-1], users)).astype(np.float32) / 8
    histories = [generator.integers(n_items, size=generator.integers(1, 9)).tolist() for _ in range(users)]
    targets = generator.integers(n_items, size=users).astype(np.int32)
    scores = log_probs.T[:, rows].sum(axis=2)
    before, exact.CELLS = exact.CELLS, cells
    try:
        ranks = DistinctSids.of(sids, rows, RUNTIME).rank(
            torch.from_numpy(log_probs), np.arange(users), Candidates(sequences(histories), targets, n_items), RUNTIME
        )
    finally:
        exact.CELLS = before
    sid = [tuple(c) for c in codes]
    compare(ranks, brute(scores, np.array([sorted(set(sid)).index(s) for s in sid]), histories, targets))
    assert np.array_equal(ranks.score, scores[np.arange(users), targets])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_item_ranks_equal_brute_force(seed, n_items):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, size=(4, n_items)).astype(np.float32)
    histories = [generator.integers(n_items, size=3).tolist() for _ in range(9)]
    targets, users = generator.integers(n_items, size=9).astype(np.int32), np.array([7, 2, 0, 5])
    ranks = rank_scores(torch.from_numpy(scores), users, Candidates(sequences(histories), targets, n_items), RUNTIME)
    compare(ranks, brute(scores, np.arange(n_items), [histories[u] for u in users], targets[users]))


def test_hand_worked_ranks_with_shared_sid_pad_and_target_in_history():
    # items 0 and 1 share (0, PAD); 2 is (0, 0); 3 is (1, PAD). Scores -1-1, -1-.5, -2-1.
    sids = SemanticIds(np.array([[0, PAD], [0, PAD], [0, 0], [1, PAD]], np.int32), np.array([2, 1], np.int32), False)
    rows = CodeLayout.of(sids).rows(sids.codes)
    assert rows.tolist() == [[0, 3], [0, 3], [0, 2], [1, 3]]
    log_probs = torch.tensor([[-1.0], [-2.0], [-0.5], [-1.0]])
    ranks = DistinctSids.of(sids, rows, RUNTIME).rank(
        log_probs, np.array([0]), Candidates(sequences([[0, 1, 2, 2]]), np.array([0]), 4), RUNTIME
    )
    assert (ranks.better[0], ranks.tied[0], ranks.sid_better[0], ranks.sid_tied[0]) == (1, 2, 1, 1)
    assert (ranks.masked_better[0], ranks.masked_tied[0]) == (0, 1)  # the seen target stays a candidate
    assert ranks.score[0] == -2.0


def ranks_of(better: list[int], tied: list[int]) -> TargetRanks:
    b, t = np.array(better), np.array(tied)
    n = np.full(len(b), 100)
    return TargetRanks(b, t, b, t, b, t, np.zeros(len(b), np.float32), n, n)


def test_expected_ndcg_by_hand():
    assert expected_ndcg(ranks_of([0], [1]), 10) == 1.0
    assert expected_ndcg(ranks_of([2], [1]), 10) == pytest.approx(0.5)
    assert expected_ndcg(ranks_of([10], [1]), 10) == 0.0
    assert expected_ndcg(ranks_of([0], [2]), 1) == pytest.approx(0.5)
    assert expected_ndcg(ranks_of([0, 2], [3, 1]), 3) == pytest.approx(((1 + 0.6309297535 + 0.5) / 3 + 0.5) / 2)


@pytest.mark.parametrize("cells", [7, 40, 1 << 21])
def test_softmax_loss_and_gradients_equal_torch(cells, monkeypatch):
    monkeypatch.setattr(exact, "CELLS", cells)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 5, generator=generator, requires_grad=True)
    table = torch.randn(7, 5, generator=generator, requires_grad=True)
    target = torch.randint(7, (11,), generator=generator)
    expected = F.cross_entropy(hidden @ table.T, target)
    wanted = torch.autograd.grad(3 * expected, [hidden, table])
    loss = softmax_loss(hidden, table, target)
    got = torch.autograd.grad(3 * loss, [hidden, table])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_softmax_loss_stays_finite_and_keeps_its_gradient_at_extreme_logits():
    hidden = torch.tensor([[200.0]], requires_grad=True)
    loss = softmax_loss(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert 80 < loss.item() < 90
    assert float(torch.autograd.grad(loss, hidden)[0]) == pytest.approx(2.0)


@pytest.mark.parametrize("cells", [7, 60, 1 << 21])
def test_cosine_loss_and_gradients_equal_torch_for_unequal_positions(cells, monkeypatch):
    monkeypatch.setattr(exact, "CELLS", cells)
    layout = CodeLayout(np.array([6, 6, 4, 6, 5], np.int32), np.array([False, False, True, False, True]))
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 11, 3, generator=generator, requires_grad=True)
    table = F.normalize(torch.randn(int(layout.offsets[-1]), 3, generator=generator), dim=1).requires_grad_()
    target = torch.stack([torch.randint(int(k), (11,), generator=generator) for k in layout.classes], dim=1)
    units = F.normalize(queries, dim=-1) / 0.3
    expected = torch.stack(
        [
            F.cross_entropy(q @ part.T, t)
            for q, part, t in zip(units, table.split(layout.classes.tolist()), target.unbind(1), strict=True)
        ]
    ).mean()
    wanted = torch.autograd.grad(2 * expected, [queries, table])
    loss = exact.cosine_softmax_loss(queries, table, target, layout.runs, 0.3)
    got = torch.autograd.grad(2 * loss, [queries, table])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_runs_join_neighbours_of_equal_size():
    layout = CodeLayout(np.array([6, 6, 4, 5], np.int32), np.array([False, False, True, False]))
    assert layout.runs == ((slice(0, 2), slice(0, 12), 6), (slice(2, 4), slice(12, 22), 5))
