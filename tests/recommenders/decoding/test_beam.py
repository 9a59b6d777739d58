"""Beam search and its ranks against exhaustive scoring of every SID, with models that are plain tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidbench.benchmark.metrics.ranking_at_k import ndcg_at_k, recall_at_k, retrieval_metrics
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, make_sids
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.decoding.beam import LOWEST, beam_search
from sidbench.recommenders.decoding.ranks import invalid_rate, rank_by_beam
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import PAD, SemanticIds

RUNTIME = local_runtime()
Conditional = Callable[[int, tuple[int, ...]], np.ndarray]


class TableSession:
    """A session that looks ``log P(. | prefix, user)`` up in ``conditional(user, prefix) -> [classes]``.

    It follows ``parent`` and ``classes`` as a model with caches must, and so tests them.
    """

    def __init__(self, users: list[int], conditional: Conditional) -> None:
        self._users, self._conditional = users, conditional
        self._prefix: list[list[tuple[int, ...]]] = [[()] for _ in users]

    def step(self, parent: Tensor | None, classes: Tensor | None) -> Tensor:
        if parent is not None and classes is not None:
            self._prefix = [
                [self._prefix[b][j] + (c,) for j, c in zip(row, chosen, strict=True)]
                for b, (row, chosen) in enumerate(zip(parent.tolist(), classes.tolist(), strict=True))
            ]
        return torch.from_numpy(
            np.stack(
                [
                    np.stack([self._conditional(u, q) for q in prefixes])
                    for u, prefixes in zip(self._users, self._prefix, strict=True)
                ]
            ).astype(np.float32)
        )


def random_tables(classes: np.ndarray, seed: int, grid: bool = False, spread: float = 1.0) -> Conditional:
    """Normalised random conditionals; with ``grid``, sums of multiples of 1/4, so that many hypotheses tie exactly."""

    @cache
    def conditional(user: int, prefix: tuple[int, ...]) -> np.ndarray:
        generator = np.random.default_rng([seed, user, len(prefix), *prefix])
        n = int(classes[len(prefix)])
        if grid:
            return -generator.integers(1, 4, n) / 4
        logits = spread * generator.normal(size=n)
        return logits - np.logaddexp.reduce(logits)

    return conditional


def exhaustive(trie: SidTrie, conditional: Conditional, user: int) -> np.ndarray:
    """float32 ``[U]`` score of every SID, summed in the order of decoding."""
    scores = np.zeros(trie.n_sids, np.float32)
    for s, row in enumerate(trie.classes.tolist()):
        for p, c in enumerate(row):
            scores[s] = np.float32(scores[s] + np.float32(conditional(user, tuple(row[:p]))[c]))
    return scores


def brute(scores: np.ndarray, of_item: np.ndarray, history: list[int], target: int) -> list[int]:
    """better, tied, sid_better, sid_tied, masked_better, masked_tied by loops over items."""
    item = scores[of_item]
    kept = np.array([i == target or i not in history for i in range(len(item))])
    t = item[target]
    return [int(x.sum()) for x in (item > t, item == t, scores > t, scores == t, (item > t) & kept, (item == t) & kept)]


def as_lists(ranks: TargetRanks) -> list[list[int]]:
    return np.stack(
        [ranks.better, ranks.tied, ranks.sid_better, ranks.sid_tied, ranks.masked_better, ranks.masked_tied], axis=1
    ).tolist()


def random_sids(seed: int, n_items: int, sizes: list[int], low: int) -> SemanticIds:
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.integers(low, k, n_items) for k in sizes], axis=1)
    return SemanticIds(codes.astype(np.int32), np.array(sizes, np.int32), False)


CASES = st.tuples(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from([0, PAD]),
    st.booleans(),
)


def world(case: tuple[int, int, list[int], int, bool]) -> tuple[SidTrie, Conditional]:
    seed, n_items, sizes, low, grid = case
    trie = SidTrie.of(random_sids(seed, n_items, sizes, low), RUNTIME)
    return trie, random_tables(trie.layout.classes, seed, grid)


@settings(max_examples=50, deadline=None)
@given(CASES, st.integers(0, 5))
def test_full_width_equals_exhaustive_scoring(case, extra) -> None:
    trie, conditional = world(case)
    beam = beam_search(TableSession([0, 1, 2], conditional), trie, trie.n_sids + extra)
    for b in range(3):
        scores = exhaustive(trie, conditional, b)
        order = np.argsort(-scores, kind="stable")  # ties by SID order
        assert beam.sid[b, : trie.n_sids].tolist() == order.tolist()
        assert np.array_equal(beam.score[b, : trie.n_sids].numpy(), scores[order])
    assert beam.sid.shape == beam.score.shape == (3, trie.n_sids + extra)
    assert (beam.sid[:, trie.n_sids :] == -1).all()
    assert torch.isneginf(beam.score[:, trie.n_sids :]).all()
    assert torch.isneginf(beam.bound).all()
    assert not beam.cut.any()


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(1, 12))
def test_narrow_beam_equals_a_plain_search_and_its_bound_holds(case, width) -> None:
    trie, conditional = world(case)
    beam = beam_search(TableSession([0, 1], conditional), trie, width)
    distinct = list(map(tuple, trie.classes.tolist()))
    for b in range(2):
        alive: dict[tuple[int, ...], np.float32] = {(): np.float32(0)}
        for p in range(trie.length):
            grown = {
                d[: p + 1]: np.float32(alive[d[:p]] + np.float32(conditional(b, d[:p])[d[p]]))
                for d in distinct
                if d[:p] in alive
            }
            alive = dict(sorted(grown.items(), key=lambda e: (-e[1], e[0]))[:width])
        found = beam.sid[b][beam.sid[b] >= 0].tolist()
        assert [distinct[s] for s in found] == list(alive)
        assert beam.score[b, : len(found)].tolist() == [float(v) for v in alive.values()]
        assert len(set(found)) == len(found) == min(width, trie.n_sids)
        outside = np.delete(exhaustive(trie, conditional, b), found)
        assert (outside <= beam.bound[b].item()).all()


@settings(max_examples=30, deadline=None)
@given(CASES)
def test_probabilities_of_the_catalogue_sum_to_at_most_one(case) -> None:
    trie, conditional = world((*case[:4], False))
    beam = beam_search(TableSession([0], conditional), trie, trie.n_sids)
    assert beam.score.double().exp().sum().item() <= 1 + 1e-5


def test_scores_are_not_renormalised_over_the_allowed_children() -> None:
    # The second SID sits alone in its branch: after renormalising it would win with 0.4 against 0.6 * 0.5.
    trie = SidTrie.of(SemanticIds(np.array([[0, 0], [0, 1], [1, 1]], np.int32), np.array([2, 2], np.int32), False), RUNTIME)
    tables = {(): [0.6, 0.4], (0,): [0.5, 0.5], (1,): [0.9, 0.1]}
    beam = beam_search(TableSession([0], lambda _, q: np.log(tables[q])), trie, 3)
    assert beam.sid.tolist() == [[0, 1, 2]]
    assert beam.score.exp().tolist()[0] == pytest.approx([0.3, 0.3, 0.04])


def test_free_search_reports_what_is_no_sid() -> None:
    # SIDs (0, 0) and (1, 1) of the four pairs: .7*.9 = .63, .7*.1 = .07 (none), .3*.8 = .24 (none), .3*.2 = .06.
    trie = SidTrie.of(SemanticIds(np.array([[0, 0], [1, 1]], np.int32), np.array([2, 2], np.int32), False), RUNTIME)
    tables = {(): [0.7, 0.3], (0,): [0.9, 0.1], (1,): [0.8, 0.2]}

    def session(users: np.ndarray) -> TableSession:
        return TableSession(users.tolist(), lambda _, q: np.log(tables[q]))

    beam = beam_search(session(np.zeros(1, int)), trie, 6, constrained=False)
    assert beam.sid.tolist() == [[0, -1, -1, 1, -1, -1]]
    assert beam.score.exp().tolist()[0] == pytest.approx([0.63, 0.24, 0.07, 0.06, 0, 0])
    rows = [np.arange(2), np.arange(2, 5)]
    assert invalid_rate(rows, session, trie, 1, RUNTIME) == 0
    assert invalid_rate(rows, session, trie, 2, RUNTIME) == 0.5
    assert invalid_rate(rows, session, trie, 3, RUNTIME) == pytest.approx(2 / 3)
    assert invalid_rate(rows, session, trie, 50, RUNTIME) == 0.5
    with pytest.raises(InputError, match="no user"):
        invalid_rate([], session, trie, 2, RUNTIME)


@settings(max_examples=30, deadline=None)
@given(CASES, st.integers(1, 9))
def test_free_search_equals_a_search_over_the_full_product(case, width) -> None:
    trie, conditional = world(case)
    sizes = trie.layout.classes
    every = np.stack(np.meshgrid(*(np.arange(c) for c in sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    codes = np.where(every == trie.layout.sizes, PAD, every)  # a catalogue of all tuples makes every hypothesis valid
    whole = SidTrie.of(SemanticIds(codes.astype(np.int32), trie.layout.sizes, False), RUNTIME)
    free = beam_search(TableSession([0, 1], conditional), trie, width, constrained=False)
    bound = beam_search(TableSession([0, 1], conditional), whole, width)
    assert torch.equal(free.score, bound.score)
    translated = torch.where(
        bound.sid >= 0, trie.find(whole.classes[bound.sid.clamp_min(0)].view(-1, len(sizes))).view(bound.sid.shape), -1
    )
    assert torch.equal(free.sid, translated)


def test_impossible_codes_come_last_and_tie() -> None:
    trie = SidTrie.of(SemanticIds(np.array([[0], [1], [2]], np.int32), np.array([3], np.int32), False), RUNTIME)
    beam = beam_search(TableSession([0], lambda *_: np.array([-np.inf, 0, -np.inf])), trie, 3)
    assert beam.sid.tolist() == [[1, 0, 2]]
    assert beam.score.tolist() == [[0, LOWEST, LOWEST]]


def test_broken_sessions_and_settings_are_named() -> None:
    trie = SidTrie.of(make_sids(), RUNTIME)
    with pytest.raises(StageError, match="position 0.*NaN"):
        beam_search(TableSession([0], lambda *_: np.full(4, np.nan)), trie, 2)
    with pytest.raises(StageError, match=r"position 1.*\(1, 2, 4\), wanted \(1, 2, 3\)"):
        beam_search(TableSession([0], lambda *_: np.zeros(4)), trie, 2)
    for width in (0, -1):
        with pytest.raises(InputError, match="width"):
            beam_search(TableSession([0], lambda *_: np.zeros(4)), trie, width)


# Ranks


def rank(
    trie: SidTrie,
    conditional: Conditional,
    histories: list[list[int]],
    targets: np.ndarray,
    width: int,
    cover: int,
    size: int = 4,
) -> tuple[TargetRanks, dict[str, float]]:
    def batches() -> Iterator[np.ndarray]:
        order = np.random.default_rng(len(targets)).permutation(len(targets))
        return (order[i : i + size] for i in range(0, len(order), size))

    return rank_by_beam(
        batches(),
        lambda rows: TableSession(rows.tolist(), conditional),
        as_sequences(histories),
        targets,
        trie,
        width,
        cover,
        RUNTIME,
    )


def users(seed: int, n_items: int, n_users: int = 4) -> tuple[list[list[int]], np.ndarray]:
    generator = np.random.default_rng(seed)
    histories = [generator.integers(n_items, size=generator.integers(1, 7)).tolist() for _ in range(n_users)]
    return histories, generator.integers(n_items, size=n_users).astype(np.int32)


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(0, 5))
def test_full_width_ranks_equal_brute_force(case, extra) -> None:
    trie, conditional = world(case)
    histories, targets = users(case[0], trie.n_items)
    ranks, notes = rank(trie, conditional, histories, targets, trie.n_sids + extra, 10)
    scores = [exhaustive(trie, conditional, u) for u in range(len(targets))]
    assert as_lists(ranks) == [brute(s, trie.of_item, h, t) for s, h, t in zip(scores, histories, targets, strict=True)]
    assert ranks.score.tolist() == [s[trie.of_item[t]] for s, t in zip(scores, targets, strict=True)]
    assert (ranks.depth == trie.n_items).all()
    assert (ranks.sid_depth == trie.n_sids).all()
    assert notes["beam_proven_items"] == notes["beam_covered_items"] == trie.n_items
    assert notes["beam_targets_found"] == 1


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(1, 8), st.integers(1, 12))
def test_ranks_of_a_narrow_beam_are_those_of_its_list(case, width, cover) -> None:
    """The list's own ranks by loops, the interval of everything else, and widening as far as asked."""
    trie, conditional = world(case)
    histories, targets = users(case[0], trie.n_items)
    ranks, notes = rank(trie, conditional, histories, targets, width, cover)
    n, n_sids = trie.n_items, trie.n_sids
    widened = 0
    for u, (history, target) in enumerate(zip(histories, targets.tolist(), strict=True)):
        gone = {i for i in history if i != target}
        beams = min(width, n_sids)
        while True:
            beam = beam_search(TableSession([u], conditional), trie, beams)
            listed = dict(zip(beam.sid[0].tolist(), beam.score[0].tolist(), strict=True))
            if beam.cut[0]:
                listed = {s: v for s, v in listed.items() if v > min(listed.values())}
            items = [i for i in range(n) if trie.of_item[i] in listed]
            free = [i for i in items if i not in gone]
            if len(free) >= cover or beams == n_sids:
                break
            beams = min(2 * beams, n_sids)
        widened += beams > min(width, n_sids)
        complete = len(listed) == n_sids
        assert ranks.depth[u] == (n if complete else len(free))
        assert ranks.sid_depth[u] == len(listed)
        score = {i: listed[trie.of_item[i]] for i in items}
        if target in score:
            t = score[target]
            wanted = [
                sum(v > t for v in score.values()),
                sum(v == t for v in score.values()),
                sum(v > t for v in listed.values()),
                sum(v == t for v in listed.values()),
                sum(score[i] > t for i in free),
                sum(score[i] == t for i in free),
            ]
            assert ranks.score[u] == np.float32(t)
        else:
            wanted = [len(items), n - len(items), len(listed), n_sids - len(listed), len(free), n - len(gone) - len(free)]
            assert np.isnan(ranks.score[u])
        assert as_lists(ranks)[u] == wanted
    assert notes["beam_widened_users"] == widened
    assert notes["invalid_rate"] == 0
    assert notes["beam_covered_items"] == ranks.depth.min()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_proven_items_have_the_ranks_of_exhaustive_scoring(seed, width) -> None:
    """Items scored above the bound of the search are ranked exactly, whatever the width."""
    trie = SidTrie.of(random_sids(seed, 25, [3, 3, 3], 0), RUNTIME)
    conditional = random_tables(trie.layout.classes, seed, spread=3.0)
    histories, _ = users(seed, trie.n_items, 1)
    bound = beam_search(TableSession([0], conditional), trie, min(width, trie.n_sids)).bound.item()
    exact = exhaustive(trie, conditional, 0)
    above = np.flatnonzero(exact[trie.of_item] > bound)
    for target in above:
        ranks, notes = rank(trie, conditional, histories, np.array([target]), width, 1)
        assert notes["beam_proven_items"] >= len(above)
        assert as_lists(ranks) == [brute(exact, trie.of_item, histories[0], int(target))]


@settings(max_examples=20, deadline=None)
@given(CASES, st.integers(1, 8))
def test_item_order_does_not_matter(case, width) -> None:
    seed, n_items, sizes, low, grid = case
    sids = random_sids(seed, n_items, sizes, low)
    trie = SidTrie.of(sids, RUNTIME)
    conditional = random_tables(trie.layout.classes, seed, grid)
    histories, targets = users(seed, n_items)
    move = np.random.default_rng(seed).permutation(n_items)  # new number of each item
    codes = np.empty_like(sids.codes)
    codes[move] = sids.codes
    moved = SidTrie.of(SemanticIds(codes, sids.sizes, False), RUNTIME)
    before, _ = rank(trie, conditional, histories, targets, width, 5)
    after, _ = rank(moved, conditional, [move[h].tolist() for h in histories], move[targets], width, 5)
    for name in TargetRanks.__dataclass_fields__:
        assert np.array_equal(getattr(before, name), getattr(after, name), equal_nan=True)


def test_shared_sids_expand_to_all_their_items_in_any_order() -> None:
    """Recall and NDCG from the intervals equal the mean over random lists in which each group is shuffled."""
    sids = SemanticIds(np.array([[0], [0], [0], [1], [2], [2]], np.int32), np.array([3], np.int32), False)
    trie = SidTrie.of(sids, RUNTIME)
    ranks, _ = rank(trie, lambda *_: np.log([0.3, 0.5, 0.2]), [[3]] * 6, np.arange(6), 3, 6)
    assert ranks.better.tolist() == [1, 1, 1, 0, 4, 4]
    assert ranks.tied.tolist() == [3, 3, 3, 1, 2, 2]
    assert ranks.sid_better.tolist() == [1, 1, 1, 0, 2, 2]
    assert ranks.masked_better.tolist() == [0, 0, 0, 0, 3, 3]
    generator, hits, gains = np.random.default_rng(0), np.zeros(6), np.zeros(6)
    draws = 4000
    for _ in range(draws):
        order = np.concatenate([[3], generator.permutation([0, 1, 2]), generator.permutation([4, 5])])[:3]
        hits[order] += 1
        gains[order] += 1 / np.log2(np.arange(2, 5))
    assert recall_at_k(ranks.better, ranks.tied, 3) == pytest.approx(hits / draws, abs=0.03)
    assert ndcg_at_k(ranks.better, ranks.tied, 3) == pytest.approx(gains / draws, abs=0.03)


def test_all_items_one_sid_and_one_item() -> None:
    for n_items in (1, 7):
        trie = SidTrie.of(SemanticIds(np.zeros((n_items, 3), np.int32), np.ones(3, np.int32), False), RUNTIME)
        ranks, notes = rank(trie, lambda *_: np.zeros(1), [[0]] * n_items, np.arange(n_items), 50, 50)
        assert (ranks.better == 0).all()
        assert (ranks.tied == n_items).all()
        assert (ranks.sid_tied == 1).all()
        assert (ranks.masked_tied == n_items - (np.arange(n_items) > 0)).all()
        assert (ranks.depth == n_items).all()
        assert notes["beam_width"] == notes["beam_widest"] == 1


def test_a_block_of_equal_scores_cut_by_the_beam_is_not_vouched_for() -> None:
    # Scores a = -1, b = c = d = -2: a beam of two would hold b by SID order alone.
    trie = SidTrie.of(SemanticIds(np.array([[0], [1], [2], [3]], np.int32), np.array([4], np.int32), False), RUNTIME)
    scores = np.array([-1.0, -2.0, -2.0, -2.0])
    ranks, _ = rank(trie, lambda *_: scores, [[0]] * 4, np.arange(4), 2, 1)
    # User 0 has his history's only item as target, so it counts; the others are decoded at width 4.
    assert ranks.depth.tolist() == [1, 4, 4, 4]
    assert as_lists(ranks)[1:] == [[1, 3, 1, 3, 0, 3]] * 3
    ranks, _ = rank(trie, lambda *_: scores, [[3]] * 4, np.arange(4), 2, 1)
    assert ranks.depth.tolist() == [1, 1, 1, 1]
    assert as_lists(ranks) == [[0, 1, 0, 1, 0, 1], [1, 3, 1, 3, 1, 2], [1, 3, 1, 3, 1, 2], [1, 3, 1, 3, 1, 3]]


def test_widening_reaches_the_cut_off_and_metrics_stop_there() -> None:
    sids = random_sids(3, 200, [6, 6, 6], 0)
    trie = SidTrie.of(sids, RUNTIME)
    conditional = random_tables(trie.layout.classes, 3)
    histories, targets = users(3, 200, 12)
    ranks, notes = rank(trie, conditional, histories, targets, 4, 10)
    assert ranks.depth.min() >= 10
    assert ranks.depth.max() < 50
    assert notes["beam_width"] == 4
    assert notes["beam_widest"] in (8, 16, 32)
    assert 6 < notes["beam_widened_users"] <= 12  # four SIDs may hold ten items
    numbers = retrieval_metrics(ranks, None, np.random.default_rng(0))
    assert "item_recall_at_10" in numbers.metrics
    assert numbers.undefined["item_recall_at_50"] == f"beam covers {ranks.depth.min()} items"
    every, _ = rank(trie, conditional, histories, targets, trie.n_sids, 10)
    assert not {name for name in retrieval_metrics(every, None, np.random.default_rng(0)).undefined if "item" in name}


def test_left_out_rows_and_bad_settings_are_refused() -> None:
    trie = SidTrie.of(make_sids(), RUNTIME)
    conditional = random_tables(trie.layout.classes, 0)

    def attempt(rows: list[np.ndarray], width: int, cover: int) -> None:
        rank_by_beam(
            rows,
            lambda r: TableSession(r.tolist(), conditional),
            as_sequences([[1], [2]]),
            np.array([0, 1]),
            trie,
            width,
            cover,
            RUNTIME,
        )

    with pytest.raises(InputError, match="1 of 2 rows"):
        attempt([np.array([1])], 4, 2)
    for width, cover in ((0, 2), (4, 0)):
        with pytest.raises(InputError, match="at least 1"):
            attempt([np.arange(2)], width, cover)
