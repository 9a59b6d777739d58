"""Graph-constrained decoding against brute force in plain Python."""

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.decoding import graph as module
from sidbench.recommenders.decoding.graph import GraphWalks, SidGraph, walk_seeds
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import PAD, SemanticIds

SIZES, WIDTH = np.array([5, 4, 6], np.int32), 7


def catalogue(n_items: int = 60) -> SidTrie:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, SIZES, (n_items, 3)).astype(np.int32)
    codes[::7, 1] = PAD
    return SidTrie.of(SemanticIds(codes, SIZES, False), local_runtime())


def unit_vectors(trie: SidTrie) -> torch.Tensor:
    drawn = torch.randn(int(trie.layout.offsets[-1]), WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(drawn, dim=1)


def similarities(trie: SidTrie, vectors: torch.Tensor) -> np.ndarray:
    """``sim(i, j)`` as printed: the mean over positions of ``(1 + cos) / 2``."""
    rows = trie.classes.numpy() + trie.layout.offsets[:-1]
    table = vectors.double().numpy()
    return np.array(
        [[np.mean([(1 + table[a] @ table[b]) / 2 for a, b in zip(i, j, strict=True)]) for j in rows] for i in rows]
    )


def drawn_scores(trie: SidTrie, users: int) -> torch.Tensor:
    return torch.log_softmax(torch.randn(int(trie.layout.offsets[-1]), users, generator=torch.Generator().manual_seed(2)), 0)


def exact_scores(graph: SidGraph, log_probs: torch.Tensor) -> torch.Tensor:
    """float32 ``[B, U]``, added in the order of positions."""
    total = log_probs[graph.rows[0]]
    for row in graph.rows[1:]:
        total = total + log_probs[row]
    return total.T


def test_neighbours_are_the_most_similar_sids(monkeypatch):
    trie = catalogue()
    vectors = unit_vectors(trie)
    expected = np.sort(np.argsort(-similarities(trie, vectors), axis=1)[:, :9], axis=1)
    whole = SidGraph.build(trie, vectors, 9)
    np.testing.assert_array_equal(np.sort(whole.neighbours.numpy(), axis=1), expected)
    assert (whole.neighbours == torch.arange(trie.n_sids)[:, None]).any(1).all()
    monkeypatch.setattr(module, "CELLS", 5 * trie.n_sids)
    pieces = SidGraph.build(trie, vectors, 9)
    assert torch.equal(pieces.neighbours.sort(1).values, whole.neighbours.sort(1).values)


def test_a_sid_is_its_own_neighbour_even_among_identical_vectors():
    trie = catalogue()
    same = torch.ones(int(trie.layout.offsets[-1]), 1)
    assert SidGraph.build(trie, same, 1).neighbours[:, 0].tolist() == list(range(trie.n_sids))


def walk_by_hand(graph: SidGraph, scores: np.ndarray, start: list[int], steps: int) -> tuple[list[int], set[int]]:
    beam, everything = list(start), set()
    for _ in range(steps):
        candidates = {int(j) for i in beam for j in graph.neighbours[i]}
        everything |= candidates
        beam = sorted(candidates, key=lambda i: (-scores[i], i))[: len(start)]
    return beam, everything


@pytest.mark.parametrize("cells", [1 << 21, 300])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_search_equals_the_walk_written_out(monkeypatch, cells, steps):
    trie = catalogue()
    graph = SidGraph.build(trie, unit_vectors(trie), 4)
    log_probs = drawn_scores(trie, 20)
    start = torch.from_numpy(np.random.default_rng(3).integers(trie.n_sids, size=(20, 5)))
    start[0] = start[0, 0]  # doubles in a start
    visited = torch.zeros(trie.n_sids, dtype=torch.bool)
    monkeypatch.setattr(module, "CELLS", cells)
    beam, scored = graph.search(log_probs, start, steps, visited)
    scores = exact_scores(graph, log_probs)
    union: set[int] = set()
    for user in range(20):
        expected, reached = walk_by_hand(graph, scores[user].numpy(), start[user].tolist(), steps)
        union |= reached
        sids = [s for s in beam.sid[user].tolist() if s >= 0]
        assert sids == expected and beam.sid[user].tolist()[len(sids) :] == [-1] * (5 - len(sids))
        assert torch.equal(beam.score[user, : len(sids)], scores[user, sids])
        assert int(scored[user]) == len(reached)
    assert set(visited.nonzero()[:, 0].tolist()) == union
    assert torch.isinf(beam.bound).all() and (beam.bound > 0).all()


def test_one_step_with_all_edges_finds_the_true_best():
    trie = catalogue()
    graph = SidGraph.build(trie, unit_vectors(trie), 10**6)
    assert graph.neighbours.shape == (trie.n_sids, trie.n_sids)
    log_probs = drawn_scores(trie, 8)
    start, visited = torch.zeros(8, 6, dtype=torch.int64), torch.zeros(trie.n_sids, dtype=torch.bool)
    beam, scored = graph.search(log_probs, start, 1, visited)
    best = torch.topk(exact_scores(graph, log_probs), 6, dim=1)
    assert torch.equal(beam.score, best.values) and torch.equal(beam.sid, best.indices)
    assert (scored == trie.n_sids).all()


def test_a_tie_cut_by_the_width_is_told():
    trie = catalogue()
    graph = SidGraph.build(trie, unit_vectors(trie), trie.n_sids)
    start, visited = torch.zeros(2, 6, dtype=torch.int64), torch.zeros(trie.n_sids, dtype=torch.bool)
    flat, _ = graph.search(torch.zeros(int(trie.layout.offsets[-1]), 2), start, 1, visited)
    assert flat.cut.all()
    clear, _ = graph.search(drawn_scores(trie, 2), start, 1, visited)
    assert not clear.cut.any()


def test_orphans_and_unreached_items_are_counted_in_items():
    codes = np.array([[0], [1], [2], [2], [3]], np.int32)
    trie = SidTrie.of(SemanticIds(codes, np.array([4], np.int32), False), local_runtime())
    # 0 and 1 point at each other, 3 points at 1, 2 points at 0: nobody points at 2 (two items) or 3 (one).
    neighbours = torch.tensor([[0, 1], [1, 0], [2, 0], [3, 1]], dtype=torch.int32)
    graph = SidGraph(trie, torch.arange(4)[None], neighbours)
    assert graph.orphans().tolist() == [False, False, True, True]
    walks = GraphWalks(graph, lambda users: torch.zeros(4, len(users)), np.arange(3, dtype=np.uint64), 2, local_runtime())
    starts = walks._start(np.arange(3), 1)
    walks(np.array([0, 1, 2]), 1)
    touched = {0, 1} | {int(s) for s in starts[:, 0]}
    notes = walks.notes()
    assert notes["graph_orphan_items"] == 3.0
    assert notes["graph_unreached_items"] == sum({2: 2, 3: 1}.get(s, 1) for s in set(range(4)) - touched)


def test_walks_do_not_depend_on_how_users_are_batched():
    trie = catalogue()
    graph, log_probs = SidGraph.build(trie, unit_vectors(trie), 3), drawn_scores(trie, 30)

    def predict(users: np.ndarray) -> torch.Tensor:
        return log_probs[:, torch.from_numpy(users)]

    seeds = walk_seeds(as_sequences([[u, u + 1] for u in range(30)]), 5, Rng(5))
    together, alone = (GraphWalks(graph, predict, seeds, 2, local_runtime()) for _ in range(2))
    users = np.random.default_rng(0).permutation(30)
    whole = together(users, 4)
    for at, user in enumerate(users):
        single = alone(np.array([user]), 4)
        assert torch.equal(single.sid[0], whole.sid[at]) and torch.equal(single.score[0], whole.score[at])
    assert together.notes() == alone.notes()
    assert (together(users, trie.n_sids).sid.sort(1).values == torch.arange(trie.n_sids)).all()


def test_starts_hang_on_the_seed_and_the_newest_items_in_their_order_alone():
    rows = [[1, 2, 3], [3, 2, 1], [9, 1, 2, 3], [1, 2, 3]]
    seeds, windowed, other = (
        walk_seeds(as_sequences(rows), 50, Rng(0)),
        walk_seeds(as_sequences(rows), 3, Rng(0)),
        walk_seeds(as_sequences(rows), 50, Rng(1)),
    )
    assert seeds[0] == seeds[3] and len(set(seeds.tolist())) == 3
    assert windowed[0] == windowed[2] == seeds[0] != windowed[1]
    assert not set(seeds.tolist()) & set(other.tolist())
    trie = catalogue()
    graph = SidGraph.build(trie, unit_vectors(trie), 3)
    many = walk_seeds(as_sequences([[u % 97, u // 97] for u in range(4000)]), 50, Rng(0))
    walks = GraphWalks(graph, lambda users: torch.zeros(int(trie.layout.offsets[-1]), len(users)), many, 1, local_runtime())
    starts = walks._start(np.arange(4000), 5)
    expected = starts.size / trie.n_sids
    # Chi-square of uniform draws: its mean is U - 1, its standard deviation sqrt(2 (U - 1)).
    chi = float(((np.bincount(starts.ravel(), minlength=trie.n_sids) - expected) ** 2).sum() / expected)
    assert abs(chi - (trie.n_sids - 1)) < 5 * (2 * (trie.n_sids - 1)) ** 0.5


def test_a_graph_needs_an_edge():
    trie = catalogue()
    with pytest.raises(InputError, match="edges"):
        SidGraph.build(trie, unit_vectors(trie), 0)
