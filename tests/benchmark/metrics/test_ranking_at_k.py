"""Tie-aware Recall and NDCG: hand-worked, Monte Carlo, torchmetrics, conservation, bounds, summaries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_normalized_dcg

from sidbench.benchmark.metrics import ranking_at_k as r
from sidbench.benchmark.metrics.strata import COLD, HEAD, TAIL, TORSO
from sidbench.benchmark.metrics.strata import NAMES as STRATA_NAMES
from sidbench.datasets.foundation.errors import InputError

# R@50, R@100, N@50, N@100 of the eight retrieval rows on Beauty in Table 2 of the MMQ-v2 paper.
PUBLISHED = {
    "RQ-VAE": (0.1213, 0.2398, 0.0803, 0.1304),
    "OPQ": (0.1117, 0.2189, 0.0802, 0.1302),
    "RQ-KMeans": (0.1385, 0.2398, 0.0843, 0.1507),
    "LETTER": (0.1513, 0.2492, 0.0937, 0.1453),
    "DAS": (0.1503, 0.2403, 0.0933, 0.1445),
    "RQ-VAE++": (0.1683, 0.2991, 0.0943, 0.1507),
    "MM-RQ-VAE": (0.1674, 0.2596, 0.0915, 0.1322),
    "ADA-SID": (0.1855, 0.3675, 0.0996, 0.1784),
}


@dataclass(frozen=True)
class Ranks:
    better: np.ndarray
    tied: np.ndarray
    sid_better: np.ndarray
    sid_tied: np.ndarray
    masked_better: np.ndarray
    masked_tied: np.ndarray
    depth: np.ndarray
    sid_depth: np.ndarray


def ranks(better: np.ndarray, tied: np.ndarray, n_items: int = 1000) -> Ranks:
    one, depth = np.ones_like(tied), np.full_like(tied, n_items)
    return Ranks(better, tied, better // 2, one, np.maximum(better - 1, 0), tied, depth, depth)


def intervals(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Better and tied for every item as the target of one score vector."""
    return (scores[None, :] > scores[:, None]).sum(axis=1), (scores[None, :] == scores[:, None]).sum(axis=1)


def test_worked_example_of_the_documentation() -> None:
    p, g = np.array([3]), np.array([4])
    assert r.recall_at_k(p, g, 5)[0] == 0.5
    assert r.ndcg_at_k(p, g, 5)[0] == pytest.approx((1 / np.log2(5) + 1 / np.log2(6)) / 4)
    assert r.ndcg_at_k(p, g, 5)[0] == pytest.approx(0.2044, abs=5e-5)
    assert r.optimistic_recall_at_k(p, g, 5)[0] == 1
    assert r.pessimistic_recall_at_k(p, g, 5)[0] == 0
    assert r.pessimistic_recall_at_k(p, g, 7)[0] == 1
    assert r.recall_at_k(np.array([2]), g, 5)[0] == 0.75


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_expectation_equals_random_orders(k: int) -> None:
    """10^4 random orders inside groups; the exact value lies within three standard errors (plus a hair for zero)."""
    generator, n_draws = np.random.default_rng(k), 10_000
    scores = np.array([5.0, 4, 4, 4, 3, 2, 2, 1, 1, 1])
    better, tied = intervals(scores)
    noise = generator.random((n_draws, len(scores)))
    order = np.lexsort((noise, np.broadcast_to(-scores, noise.shape)), axis=1)
    rank = np.argsort(order, axis=1) + 1
    hit = rank <= k
    for sample, exact in (
        (hit * 1.0, r.recall_at_k(better, tied, k)),
        (hit / np.log2(rank + 1), r.ndcg_at_k(better, tied, k)),
    ):
        error = np.abs(sample.mean(axis=0) - exact)
        assert (error <= 3 * sample.std(axis=0) / np.sqrt(n_draws) + 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 30))
def test_recall_over_all_possible_targets_sums_to_k(scores: list[int], k: int) -> None:
    better, tied = intervals(np.array(scores))
    assert r.recall_at_k(better, tied, k).sum() == pytest.approx(min(k, len(scores)))
    discounts = 1 / np.log2(np.arange(2, min(k, len(scores)) + 2))
    assert r.ndcg_at_k(better, tied, k).sum() == pytest.approx(discounts.sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 25), st.integers(1, 30), st.integers(0, 500))
def test_without_ties_equals_torchmetrics(n_items: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permutation(n_items).astype(np.float32)
    target = int(generator.integers(n_items))
    better, tied = intervals(scores)
    relevance = torch.arange(n_items) == target
    hit = retrieval_hit_rate(torch.from_numpy(scores), relevance, top_k=k)
    gain = retrieval_normalized_dcg(torch.from_numpy(scores), relevance, top_k=k)
    assert r.recall_at_k(better, tied, k)[target] == pytest.approx(float(hit))
    assert r.ndcg_at_k(better, tied, k)[target] == pytest.approx(float(gain), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 150), st.integers(1, 60)), min_size=1, max_size=40))
def test_order_of_variants_and_bounds_on_random_tables(pairs: list[tuple[int, int]]) -> None:
    better, tied = np.array(pairs).T
    values: dict[str, float] = {}
    for k in r.CUTOFFS:
        recall = r.recall_at_k(better, tied, k)
        assert (r.pessimistic_recall_at_k(better, tied, k) <= recall).all()
        assert (recall <= r.optimistic_recall_at_k(better, tied, k)).all()
        values |= {f"item_recall_at_{k}": recall.mean(), f"item_ndcg_at_{k}": r.ndcg_at_k(better, tied, k).mean()}
    assert r.bound_violations(values) == ()


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_beauty_rows_break_the_bounds(method: str) -> None:
    names = ("recall_at_50", "recall_at_100", "ndcg_at_50", "ndcg_at_100")
    row = dict(zip(names, PUBLISHED[method], strict=True))
    assert r.bound_violations(row, tolerance=2e-4) == ("ndcg_at_50 -> ndcg_at_100 rises more than recall allows",)


def test_every_kind_of_violation_is_named() -> None:
    good = {"item_recall_at_5": 0.2, "item_ndcg_at_5": 0.1, "item_recall_at_10": 0.3, "item_ndcg_at_10": 0.13}
    assert r.bound_violations(good) == ()
    assert r.bound_violations(good | {"item_ndcg_at_10": 0.11}) == (
        "item_ndcg_at_5 -> item_ndcg_at_10 rises less than recall demands",
    )
    assert r.bound_violations(good | {"item_recall_at_10": 0.19})[0] == "item_recall_at_5 > item_recall_at_10"
    assert r.bound_violations({"item_recall_at_5_head": 0.2, "item_ndcg_at_5_head": 0.3}) == (
        "item_ndcg_at_5_head > item_recall_at_5_head",
    )
    assert r.bound_violations({"inflation_recall_at_5": 2.0, "auc": 0.7}) == ()


def test_summaries_carry_n_intervals_strata_and_inflation() -> None:
    generator = np.random.default_rng(0)
    n = 400
    table = ranks(generator.integers(0, 40, n), generator.integers(1, 4, n))
    strata = generator.choice([HEAD, TORSO, TAIL, COLD], n).astype(np.int8)
    numbers = r.retrieval_metrics(table, strata, np.random.default_rng(1))
    assert not numbers.undefined
    mean = numbers.metrics["item_recall_at_10"]
    column = numbers.per_user["item_recall_at_10"]
    assert column.dtype == np.float32
    assert mean.value == pytest.approx(column.mean(), rel=1e-5)
    assert mean.n == n
    # Percentile bootstrap of a mean: about 1.96 standard errors each side.
    half = 1.96 * column.std() / np.sqrt(n)
    assert mean.low == pytest.approx(mean.value - half, abs=0.15 * half)
    assert mean.high == pytest.approx(mean.value + half, abs=0.15 * half)
    tail = numbers.metrics["item_ndcg_at_10_tail"]
    inside = (strata == TAIL) | (strata == COLD)
    assert tail.n == inside.sum()
    assert tail.value == pytest.approx(numbers.per_user["item_ndcg_at_10"][inside].mean(), rel=1e-5)
    assert (numbers.per_user["in_tail"] == inside).all()
    inflation = numbers.metrics["inflation_recall_at_10"]
    assert inflation.value == pytest.approx(numbers.metrics["sid_recall_at_10"].value / mean.value, rel=1e-5)
    assert inflation.low is not None
    assert inflation.low < inflation.value < (inflation.high or 0)
    assert r.bound_violations({name: m.value for name, m in numbers.metrics.items()}) == ()
    again = r.retrieval_metrics(table, strata, np.random.default_rng(1))
    assert again.metrics == numbers.metrics


def test_no_collisions_make_all_variants_agree() -> None:
    better = np.array([0, 4, 9, 200])
    one = np.ones(4, np.int64)
    numbers = r.retrieval_metrics(
        Ranks(better, one, better, one, better, one, 900 * one, 900 * one), None, np.random.default_rng(0)
    )
    for k in r.CUTOFFS:
        same = {
            numbers.metrics[f"{v}_recall_at_{k}"].value for v in ("item", "sid", "optimistic", "pessimistic", "masked_item")
        }
        assert same == {float((better < k).mean())}
        assert numbers.metrics[f"inflation_recall_at_{k}"].value == 1


def test_undefined_numbers_are_absent_with_a_reason() -> None:
    miss = ranks(np.full(5, 999), np.ones(5, np.int64))
    numbers = r.retrieval_metrics(miss, np.full(5, HEAD, np.int8), np.random.default_rng(0))
    assert numbers.undefined["inflation_recall_at_10"] == "item-level recall is 0"
    assert numbers.undefined["item_recall_at_10_cold"] == "no target in this stratum"
    assert numbers.metrics["item_recall_at_10_head"].value == 0
    assert set(numbers.metrics).isdisjoint(numbers.undefined)


def beam_ranks() -> Ranks:
    """Two users, N = 1000 items in 600 SIDs; lists of 60 and 50 items; the second target is outside its list."""
    return Ranks(
        better=np.array([4, 53]),
        tied=np.array([2, 947]),
        sid_better=np.array([3, 40]),
        sid_tied=np.array([1, 560]),
        masked_better=np.array([4, 50]),
        masked_tied=np.array([2, 940]),
        depth=np.array([60, 50]),
        sid_depth=np.array([45, 40]),
    )


def test_metrics_beyond_the_list_of_any_user_are_left_out_with_the_reason() -> None:
    numbers = r.retrieval_metrics(beam_ranks(), np.array([HEAD, TAIL], np.int8), np.random.default_rng(0))
    for family in (
        "item_recall",
        "item_ndcg",
        "masked_item_recall",
        "masked_item_ndcg",
        "optimistic_recall",
        "pessimistic_recall",
        "inflation_recall",
    ):
        assert numbers.undefined[f"{family}_at_100"] == "beam covers " + ("40 SIDs" if "inflation" in family else "50 items")
        assert (f"{family}_at_50" in numbers.metrics) == ("inflation" not in family)  # 50 items, but 40 SIDs only
    for family in ("sid_recall", "sid_ndcg"):
        assert {f"{family}_at_50", f"{family}_at_100"} <= numbers.undefined.keys()
        assert f"{family}_at_10" in numbers.metrics
    assert numbers.metrics["item_recall_at_50"].value == 0.5
    assert set(numbers.per_user).isdisjoint(numbers.undefined)
    assert set(numbers.metrics).isdisjoint(numbers.undefined)
    full = r.retrieval_metrics(ranks(np.array([4, 53]), np.array([2, 1])), None, np.random.default_rng(0))
    assert numbers.metrics.keys() | numbers.undefined.keys() >= full.metrics.keys()


def test_a_list_shorter_than_ten_leaves_out_the_strata_too() -> None:
    table = replace(beam_ranks(), depth=np.array([60, 3]), sid_depth=np.array([60, 3]))
    numbers = r.retrieval_metrics(table, np.array([HEAD, TAIL], np.int8), np.random.default_rng(0))
    assert numbers.metrics == {}
    assert numbers.undefined["item_recall_at_10_head"] == "beam covers 3 items"
    assert set(numbers.per_user) == {f"in_{name}" for name in STRATA_NAMES}


def test_a_list_of_the_whole_catalogue_reaches_every_cut_off() -> None:
    table = ranks(np.array([0, 6]), np.array([1, 1]), n_items=7)
    numbers = r.retrieval_metrics(table, None, np.random.default_rng(0))
    assert not numbers.undefined
    assert numbers.metrics["item_recall_at_100"].value == 1
    one_short = replace(table, depth=np.array([7, 6]))
    assert "item_recall_at_100" in r.beyond_depth(one_short)
    assert "item_recall_at_5" not in r.beyond_depth(one_short)


def test_one_user_has_no_interval() -> None:
    numbers = r.retrieval_metrics(ranks(np.array([0]), np.array([1])), None, np.random.default_rng(0))
    assert numbers.metrics["item_recall_at_5"].low is None


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_user_order_does_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = ranks(generator.integers(0, 20, 30), generator.integers(1, 4, 30))
    move = generator.permutation(30)
    moved = Ranks(*(getattr(table, f)[move] for f in Ranks.__dataclass_fields__))
    for name, column in r.per_user_metrics(table).items():
        assert (column[move] == r.per_user_metrics(moved)[name]).all()


def test_impossible_ranks_are_refused() -> None:
    good = ranks(np.array([0, 1]), np.array([1, 2]))
    generator = np.random.default_rng(0)
    for fault in (
        {"tied": np.array([1, 0])},
        {"better": np.array([-1, 0])},
        {"better": np.array([0.5, 1.0])},
        {"masked_tied": np.array([1])},
        {"depth": np.array([5])},
        {"sid_depth": np.array([5.0, 5.0])},
    ):
        with pytest.raises(InputError, match="ranks"):
            r.retrieval_metrics(replace(good, **fault), None, generator)
    with pytest.raises(InputError, match="target strata"):
        r.retrieval_metrics(good, np.zeros(3, np.int8), generator)
    with pytest.raises(InputError, match="no evaluated user"):
        r.retrieval_metrics(ranks(np.zeros(0, np.int64), np.zeros(0, np.int64)), None, generator)
