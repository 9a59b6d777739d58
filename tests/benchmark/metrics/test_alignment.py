"""Alignment with categories, behaviour and embeddings: hand-worked numbers, chance levels, oracles, planted truth."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from sidbench.benchmark.metrics import alignment
from sidbench.datasets.foundation.errors import InputError

PARTS = np.array([[0, 0], [0, 1], [1, 1], [1, 1]], np.int32)  # the page's running example
COUNTS = np.array([4, 3, 2, 1])


# -- categories --------------------------------------------------------------------------------------------------------
def test_the_page_s_example_of_category_agreement() -> None:
    labels = alignment.leaf_labels((("a",), ("a",), ("b",), ("b",)), 4)
    assert labels is not None
    found = alignment.agreement(PARTS, True, labels)
    assert found.nmi == pytest.approx([1.0, 0.8]) and found.ami[0] == pytest.approx(1) and found.best == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=2, max_size=60))
def test_mutual_information_equals_scikit_learn(rows: list[tuple[int, int]]) -> None:
    codes, labels = np.array([[a] for a, _ in rows], np.int32), np.array([b for _, b in rows])
    found = alignment.agreement(codes, True, labels)
    if len(set(labels)) == 1 or len(set(codes[:, 0].tolist())) == 1:
        assert found.ami[0] == pytest.approx(0, abs=1e-9)
        return
    assert found.nmi[0] == pytest.approx(normalized_mutual_info_score(labels, codes[:, 0]), abs=1e-9)
    if len(set(labels)) < len(labels) or len(set(codes[:, 0].tolist())) < len(codes):
        assert found.ami[0] == pytest.approx(adjusted_mutual_info_score(labels, codes[:, 0]), abs=1e-6)


def test_expected_information_of_many_items_equals_scikit_learn_and_permutations() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.zipf(1.4, 4000) % 300, generator.integers(0, 60, 4000)
    found = alignment.agreement(left[:, None].astype(np.int32), True, right)
    assert found.ami[0] == pytest.approx(adjusted_mutual_info_score(right, left), abs=1e-9)
    shuffles = [normalized_mutual_info_score(right, generator.permutation(left)) for _ in range(20)]
    assert found.chance[0] == pytest.approx(np.mean(shuffles), abs=4 * np.std(shuffles) / np.sqrt(20) + 1e-4)
    assert abs(found.ami[0]) < 0.01 < found.nmi[0]  # random codes: nothing but chance


def test_unordered_sids_use_positions_and_leave_pad_out() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, -1]], np.int32)
    found = alignment.agreement(codes, False, np.array([0, 0, 1, 1]))
    assert found.nmi[0] == pytest.approx(1)
    assert found.nmi[1] == pytest.approx(normalized_mutual_info_score([0, 0, 1], [0, 1, 0]))


def test_labels_are_whole_paths_and_items_without_one_are_left_out() -> None:
    labels = alignment.leaf_labels((("x", "sets"), ("y", "sets"), (), ("x", "sets")), 4)
    assert labels is not None and labels.tolist() == [0, 1, -1, 0]
    assert alignment.leaf_labels((("x",), ("x",)), 2) is None
    assert alignment.leaf_labels(None, 2) is None
    with pytest.raises(InputError, match="one an item"):
        alignment.leaf_labels((("x",),), 2)


# -- behaviour ---------------------------------------------------------------------------------------------------------
def test_the_page_s_example_of_the_lift() -> None:
    found = alignment.matches(PARTS, True, np.array([[0, 1], [1, 2]]), COUNTS)
    assert found is not None and found.n_pairs == 2
    assert found.random[0] == pytest.approx((0.49 + 0.09 - 0.30) / 0.70)
    assert found.lifts()[0] == pytest.approx(1.25)


def exact_random_match(codes: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> float:
    """All pairs of different items, first end by count, second by count among ``ends``."""
    hit = total = 0.0
    for a in range(len(codes)):
        for b in range(len(codes)):
            if a != b and ends[b]:
                weight = float(counts[a] * counts[b])
                total += weight
                hit += weight * bool((codes[a] == codes[b]).all())
    return hit / total


def test_random_matches_equal_enumeration_also_for_rare_ends() -> None:
    generator = np.random.default_rng(1)
    codes, counts = generator.integers(0, 3, (30, 2)).astype(np.int32), generator.integers(0, 9, 30)
    pairs = generator.integers(0, 30, (200, 2))
    rare = counts <= 4
    for ends in (None, rare):
        found = alignment.matches(codes, True, pairs, counts, ends)
        assert found is not None
        among = np.ones(30, bool) if ends is None else rare
        assert found.random[1] == pytest.approx(exact_random_match(codes, counts, among))
    tally = [(codes[a] == codes[b]).all() for x, y in pairs if x != y for a, b in ((x, y), (y, x)) if rare[b]]
    assert found is not None and found.adjacent[1] == pytest.approx(np.mean(tally)) and found.n_pairs == len(tally)


def test_random_codes_have_lift_one_and_planted_ones_their_own() -> None:
    generator = np.random.default_rng(2)
    world = generator.integers(0, 10, 2000)
    members = [np.flatnonzero(world == w) for w in range(10)]
    first = generator.integers(0, 2000, 40_000)
    pairs = np.array([[a, generator.choice(members[world[a]])] for a in first])
    counts = np.bincount(pairs.ravel(), minlength=2000)
    noise = alignment.matches(generator.integers(0, 16, (2000, 2)).astype(np.int32), False, pairs, counts)
    truth = alignment.matches(world[:, None].astype(np.int32), True, pairs, counts)
    assert noise is not None and truth is not None
    assert noise.lifts() == pytest.approx(1, abs=0.05)
    assert truth.adjacent[0] == 1 and truth.lifts()[0] == pytest.approx(10, rel=0.05)


def test_undefined_lifts_are_nan_and_no_pairs_is_none() -> None:
    distinct = np.arange(4, dtype=np.int32)[:, None]
    found = alignment.matches(distinct, True, np.array([[0, 1]]), COUNTS)
    assert found is not None and np.isnan(found.lifts()[0]) and found.random[0] == 0
    assert alignment.matches(distinct, True, np.array([[1, 1]]), COUNTS) is None
    assert alignment.matches(distinct, True, np.array([[0, 1]]), np.zeros(4)) is None
    assert alignment.matches(distinct, True, np.array([[0, 1]]), COUNTS, np.zeros(4, bool)) is None


# -- neighbourhoods ----------------------------------------------------------------------------------------------------
def test_the_page_s_example_of_neighbours() -> None:
    line = np.array([[0.0], [1.0], [5.0], [6.0]])
    first = alignment.neighbour_overlap(PARTS[:, :1], line, True, np.array([0]), k=1)
    assert first == pytest.approx([1.0])
    flat = alignment.neighbour_overlap(np.zeros((4, 1), np.int32), line, True, np.array([0]), k=1)
    assert flat == pytest.approx([1 / 3])


def brute_overlap(codes: np.ndarray, e: np.ndarray, ordered: bool, query: int, k: int) -> float:
    """Average over every set of k neighbours that some order of ties allows, on both sides."""
    others = [i for i in range(len(e)) if i != query]

    def like(i: int) -> int:
        same = [a == b and (ordered or a >= 0) for a, b in zip(codes[i], codes[query], strict=True)]
        return (same + [False]).index(False) if ordered else sum(same)

    def choices(score: dict[int, float]) -> list[frozenset[int]]:
        edge = sorted(score.values(), reverse=True)[k - 1]
        sure = [i for i in others if score[i] > edge]
        tied = [i for i in others if score[i] == edge]
        return [frozenset((*sure, *rest)) for rest in combinations(tied, k - len(sure))]

    near = choices({i: -float(((e[i] - e[query]) ** 2).sum()) for i in others})
    alike = choices({i: like(i) for i in others})
    return float(np.mean([len(a & b) / k for a in near for b in alike]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_overlap_is_the_exact_expectation_over_ties(seed: int, ordered: bool) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(-1, 2, (9, 3)).astype(np.int32)
    e = generator.integers(0, 3, (9, 2)).astype(np.float32)  # many equal distances
    found = alignment.neighbour_overlap(codes, e, ordered, np.arange(9), k=3)
    assert found is not None
    assert found == pytest.approx([brute_overlap(codes, e, ordered, q, 3) for q in range(9)], abs=1e-6)


def test_random_codes_reach_the_chance_level_and_identity_reaches_one() -> None:
    generator = np.random.default_rng(4)
    n = 3000
    e = generator.standard_normal((n, 8)).astype(np.float32)
    sample = alignment.query_sample(n)
    assert len(sample) == 2000 and np.array_equal(sample, alignment.query_sample(n))
    chance = alignment.neighbour_overlap(generator.integers(0, 50, (n, 4)).astype(np.int32), e, False, sample)
    assert chance is not None and chance.mean() == pytest.approx(20 / (n - 1), rel=0.2)
    groups = np.repeat(np.arange(n // 21 + 1), 21)[: n // 21 * 21]
    far = (100.0 * groups[:, None] + generator.random((len(groups), 1))).astype(np.float32)
    exact = alignment.neighbour_overlap(groups[:, None].astype(np.int32), far, True, np.arange(0, len(groups), 50))
    assert exact == pytest.approx(1)


def test_equal_vectors_tie_at_any_scale() -> None:
    e = np.repeat(np.random.default_rng(5).standard_normal((1, 384)).astype(np.float32) * 30, 50, axis=0)
    codes = np.arange(50, dtype=np.int32)[:, None]
    found = alignment.neighbour_overlap(codes, e, True, np.arange(50), k=20)
    assert found == pytest.approx(20 / 49)


def test_too_few_items_have_no_neighbourhood() -> None:
    assert alignment.neighbour_overlap(np.zeros((21, 1), np.int32), np.zeros((21, 2)), True, np.arange(21)) is None


# -- activity ----------------------------------------------------------------------------------------------------------
def test_activity_by_quartile() -> None:
    codes = np.array([[0, -1, -1], [0, -1, -1], [0, 1, -1], [0, 1, -1], [1, 1, -1], [1, 1, -1], [1, 0, -1], [1, 0, -1]])
    weights = np.where(codes >= 0, np.array([1.0, 0.5, 0.0]), 0)
    counts = np.arange(8)
    found = alignment.activity(codes, weights, counts)
    assert found is not None
    assert found.active.tolist() == [1, 2, 2, 2]
    assert found.weight is not None and found.weight.tolist() == [1, 0.75, 0.75, 0.75]
    assert found.dead == pytest.approx(1 / 3)
    assert found.spearman == pytest.approx(spearmanr((codes >= 0).sum(1), counts).statistic)


def test_activity_is_absent_without_pad_and_its_correlation_without_variation() -> None:
    assert alignment.activity(np.zeros((8, 2), int), None, np.arange(8)) is None
    found = alignment.activity(np.tile([0, -1], (8, 1)), None, np.arange(8))
    assert found is not None and found.spearman is None and found.weight is None
