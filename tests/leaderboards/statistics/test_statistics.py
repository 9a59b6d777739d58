"""Intervals and tests against hand-worked numbers and independent oracles (scipy, scikit-learn, brute force)."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import permutation_test, skew, t
from sklearn.metrics import roc_auc_score

from sidbench.benchmark.metrics.catalogue import named
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.statistics.bca import acceleration, bca_interval
from sidbench.leaderboards.statistics.contributions import Auc, Ratio, auc_components, contributions
from sidbench.leaderboards.statistics.holm import holm
from sidbench.leaderboards.statistics.paired import align, differences
from sidbench.leaderboards.statistics.permutation import EXACT_USERS, FLIPS, sign_flip_tests
from sidbench.leaderboards.statistics.resampling import RESAMPLES, bootstrap
from sidbench.leaderboards.statistics.seeds import seed_test, smallest_p, t_interval

RNG = Rng(3).child("test")
USERS = np.array([f"u{i:04}" for i in range(400)])


def ranking(n_users: int = 40, n_rows: int = 300, name: str = "rows") -> dict[str, np.ndarray]:
    generator = RNG.child(name).numpy()
    return {
        "user": USERS[generator.integers(0, n_users, n_rows)],
        "label": generator.integers(0, 2, n_rows),
        "score": np.round(generator.random(n_rows), 1),
        "row": np.arange(n_rows),
    }


# -- Holm -------------------------------------------------------------------------------------------------------------
def test_holm_by_hand() -> None:
    # Sorted .01 .03 .04, times 3 2 1: .03 .06 .04, made monotone: .03 .06 .06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])


# -- contributions ----------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 5)), min_size=2, max_size=12))
def test_the_closed_jackknife_is_leaving_each_user_out(parts: list[tuple[float, float]]) -> None:
    above, below = np.array(parts).T
    ratio = Ratio(above, below)
    left_out = [np.delete(above, u).sum() / np.delete(below, u).sum() for u in range(len(parts))]
    assert np.allclose(ratio.jackknife(), ratio.value - np.array(left_out))
    assert abs(ratio.influence().sum()) < 1e-9


def test_a_ratio_without_denominator_is_undefined_not_zero() -> None:
    ratio = Ratio(np.zeros(3), np.zeros(3))
    assert np.isnan(ratio.value) and np.isnan(ratio.influence()).all()


def test_auc_components_by_hand_and_their_mean_is_the_auc() -> None:
    label, score = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1, 0.95])
    # Positives beat: .9 two of three; .5 one and a tie, 1.5 of 3. Negatives are beaten by: .5: 1 + .5 of 2; .1: 2; .95: 0.
    assert auc_components(label, score) == pytest.approx([2 / 3, 1 / 2, 3 / 4, 1, 0])
    columns = ranking()
    found = contributions(columns, named("auc"), np.unique(columns["user"]))
    assert isinstance(found, Auc)
    assert found.value == pytest.approx(roc_auc_score(columns["label"], columns["score"]))
    assert abs(found.influence().sum()) < 1e-12
    assert np.isnan(auc_components(np.ones(3, int), np.arange(3.0))).all()


def test_delongs_error_of_an_auc_is_that_of_the_bootstrap_over_users() -> None:
    columns = ranking(120, 900)
    draws = bootstrap([columns], [named("auc")], RNG)[0]["auc"]
    found = contributions(columns, named("auc"), np.unique(columns["user"]))
    assert found is not None
    assert np.sqrt((found.influence() ** 2).sum()) == pytest.approx(np.std(draws), rel=0.1)


# -- bootstrap --------------------------------------------------------------------------------------------------------
def test_bootstrap_error_of_a_paired_mean_is_the_textbook_one() -> None:
    generator = RNG.child("error").numpy()
    a, b = generator.random(400), generator.random(400) * 0.9
    # Rows may come in any order of users.
    runs = [{"user": USERS, "m": a}, {"user": USERS[::-1], "m": b[::-1]}]
    left, right = (d["m"] for d in bootstrap(runs, [named("m")], RNG))
    assert np.std(left - right) == pytest.approx(np.std(a - b) / 20, rel=0.08)  # sd of 1000 draws: about 2 %


def test_auc_gauc_and_inflation_under_a_draw_are_those_of_the_resampled_rows() -> None:
    columns = ranking()
    user, label, score = columns["user"], columns["label"], columns["score"]
    found = bootstrap([columns], [named(n) for n in ("auc", "gauc", "item_recall_at_10")], RNG)[0]
    assert set(found) == {"auc", "gauc"}
    assert (len(found["auc"]), len(found["gauc"])) == (RESAMPLES, RESAMPLES)
    keys, owner = np.unique(user, return_inverse=True)
    again = RNG.numpy()  # the draws, made a second time
    for i in range(3):
        count = np.bincount(again.integers(0, len(keys), len(keys)), minlength=len(keys))
        times = count[owner]
        assert found["auc"][i] == pytest.approx(roc_auc_score(np.repeat(label, times), np.repeat(score, times)))
        total = weight = 0.0
        for u in range(len(keys)):
            rows = owner == u
            if len(set(label[rows])) == 2:
                total += count[u] * rows.sum() * roc_auc_score(label[rows], score[rows])
                weight += count[u] * rows.sum()
        assert found["gauc"][i] == pytest.approx(total / weight, rel=1e-9)


def test_inflation_is_a_ratio_of_sums() -> None:
    columns = {"user": USERS, "sid_recall_at_10": np.ones(400), "item_recall_at_10": np.full(400, 0.5)}
    found = bootstrap([columns], [named(n) for n in ("inflation_recall_at_10", "item_ndcg_at_10")], RNG)[0]
    assert set(found) == {"inflation_recall_at_10"}
    assert np.allclose(found["inflation_recall_at_10"], 2.0)


def test_users_a_run_lacks_leave_its_mean_alone() -> None:
    half = {"user": USERS[:200], "m": np.full(200, 0.25)}
    both = bootstrap([{"user": USERS, "m": np.zeros(400)}, half], [named("m")], RNG)
    assert np.allclose(both[1]["m"], 0.25)


# -- BCa --------------------------------------------------------------------------------------------------------------
def test_the_acceleration_of_a_mean_is_its_skewness_over_six_roots_of_n() -> None:
    sample = RNG.child("skew").numpy().exponential(size=60)
    jackknife = Ratio(sample, np.ones(60)).jackknife()
    assert acceleration(jackknife) == pytest.approx(skew(sample) / (6 * np.sqrt(60)))
    assert acceleration(np.full(5, 2.0)) == 0.0


@pytest.mark.parametrize("kind", ["mean", "ratio"])
def test_bca_is_scipys(kind: str) -> None:
    generator = RNG.child("bca", kind).numpy()
    above, below = generator.exponential(size=80), generator.exponential(size=80) + 0.2
    if kind == "mean":
        below = np.ones(80)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(x.sum(axis=axis) / y.sum(axis=axis))

    theirs = scipy_bootstrap(
        (above, below),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=4_000,
        method="BCa",
        rng=np.random.default_rng(1),
    )
    ratio = Ratio(above, below)
    ours = bca_interval(ratio.value, theirs.bootstrap_distribution, acceleration(ratio.jackknife()))
    assert ours is not None
    # The same draws: what is left is how quantiles between two draws are read.
    assert ours == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), rel=2e-3)


def test_bca_moves_with_skew_and_says_when_there_is_no_interval() -> None:
    draws = RNG.child("moved").numpy().normal(size=4_000)
    plain, skewed = bca_interval(0.0, draws, 0.0), bca_interval(0.0, draws, 0.1)
    assert plain is not None and skewed is not None
    assert skewed[0] > plain[0] and skewed[1] > plain[1]
    assert bca_interval(0.5, np.full(10, 0.5), 0.0) == (0.5, 0.5)
    assert bca_interval(0.7, np.array([0.1, 0.2, 0.3]), 0.0) is None  # all draws below the value: no bias correction
    assert bca_interval(0.1, np.array([0.1, np.nan, 0.2]), 0.0) is None
    assert bca_interval(float("nan"), draws, 0.0) is None


def test_bca_covers_a_skewed_mean_about_as_often_as_it_says() -> None:
    """300 samples of 50 exponentials; binomial sd of the share is 1.3 %, so a sound 95 % interval stays above 90 %."""
    generator, inside = RNG.child("coverage").numpy(), 0
    for _ in range(300):
        sample = generator.exponential(size=50)
        draws = sample[generator.integers(0, 50, (400, 50))].mean(axis=1)
        ends = bca_interval(float(sample.mean()), draws, acceleration(Ratio(sample, np.ones(50)).jackknife()))
        assert ends is not None
        inside += ends[0] <= 1.0 <= ends[1]
    assert 0.90 <= inside / 300 <= 0.985


# -- permutation ------------------------------------------------------------------------------------------------------
def test_sign_flips_by_hand() -> None:
    # Contributions 1, 2, 3: of 8 patterns only +++ and --- reach 6, so p = 2/8; users without a difference change nothing.
    for extra in (0, 5):
        test = sign_flip_tests(np.array([[1.0], [2.0], [3.0], *[[0.0]] * extra]), RNG)[0]
        assert (test.p, test.exact, test.smallest) == (0.25, True, 0.25)
    assert sign_flip_tests(np.zeros((4, 1)), RNG)[0] == (1.0, True, 1.0)


@pytest.mark.parametrize("n", [10, 60])
def test_sign_flips_are_scipys_paired_permutation_test(n: int) -> None:
    generator = RNG.child("flips", n).numpy()
    a = generator.random(n)
    b = a + generator.normal(0.1, 0.3, n)
    theirs = permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=9_999 if n > EXACT_USERS else np.inf,
        vectorized=True,
        rng=5,
    )
    ours = sign_flip_tests((a - b)[:, None], RNG)[0]
    assert ours.exact == (n <= EXACT_USERS)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-12 if ours.exact else 4 * np.sqrt(theirs.pvalue / FLIPS))


@settings(max_examples=30)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=10), st.permutations(range(10)))
def test_sign_flips_do_not_depend_on_sides_or_order_of_users(values: list[float], order: list[int]) -> None:
    column = np.array(values)
    shuffled = column[[i for i in order if i < len(column)]]
    p = [sign_flip_tests(c[:, None], RNG)[0].p for c in (column, -column, shuffled)]
    assert p[0] == pytest.approx(p[1]) and p[0] == pytest.approx(p[2]) and 0 < p[0] <= 1


def test_drawn_sign_flips_never_give_zero_and_hold_their_level() -> None:
    generator = RNG.child("level").numpy()
    sure = sign_flip_tests(np.ones((40, 1)), RNG)[0]
    assert sure.p == sure.smallest == 1 / (FLIPS + 1)
    none = generator.normal(size=(40, 300))  # 300 tests without any difference
    rejected = np.mean([test.p <= 0.05 for test in sign_flip_tests(none, RNG)])
    assert 0.01 <= rejected <= 0.10


# -- seeds ------------------------------------------------------------------------------------------------------------
def test_three_against_three_seeds_reach_one_in_ten() -> None:
    test = seed_test([1.0, 1.1, 1.2], [2.0, 2.1, 2.2])
    assert test is not None and test.exact
    assert (test.p, test.smallest) == (pytest.approx(0.1), pytest.approx(0.1))  # 2 of 20 splits
    assert test.difference == pytest.approx(-1.0)
    assert (smallest_p(1, 1), smallest_p(5, 5), smallest_p(1, 3)) == (1.0, 2 / 252, 1 / 4)
    assert seed_test([], [1.0]) is None


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 4), (5, 3)])
def test_seed_test_is_scipys_permutation_test(n: int, m: int) -> None:
    generator = RNG.child("seeds", n, m).numpy()
    left, right = generator.normal(size=n), generator.normal(1.0, size=m)
    # scipy doubles the smaller tail, which is not the same for unequal sides; the absolute statistic is.
    theirs = permutation_test(
        (left, right),
        lambda x, y, axis: np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis)),
        alternative="greater",
        n_resamples=np.inf,
        vectorized=True,
    )
    ours = seed_test(left.tolist(), right.tolist())
    assert ours is not None and ours.p == pytest.approx(theirs.pvalue) and ours.p >= ours.smallest - 1e-12


def test_many_seeds_are_drawn_not_enumerated() -> None:
    left, right = list(np.arange(12.0)), list(np.arange(12.0) + 100)
    test = seed_test(left, right, RNG)
    assert test is not None and not test.exact and test.p == test.smallest == pytest.approx(1e-4)
    assert seed_test(left, right, RNG) == test


def test_t_interval_is_students() -> None:
    values = [1.0, 1.4, 1.9]
    low, high = t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / np.sqrt(3))
    assert t_interval(values) == pytest.approx((low, high))
    assert t_interval([1.0]) is None
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


# -- pairs of rows ----------------------------------------------------------------------------------------------------
def retrieval(values: np.ndarray, order: np.ndarray | None = None) -> dict[str, np.ndarray]:
    order = np.arange(len(values)) if order is None else order
    return {"user": USERS[: len(values)][order], "target": np.char.add("i", USERS[: len(values)])[order], "m": values[order]}


def test_rows_are_paired_by_user_and_target_whatever_their_order() -> None:
    left, right = np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0])
    for order in map(np.array, permutations(range(4))):
        found = differences(align("retrieval", [retrieval(left)], [retrieval(right, order)]), [named("m")], RNG)[0]
        assert (found.better, found.worse, found.equal, found.n_users) == (2, 0, 2, 4)
        assert found.difference == pytest.approx(0.5) and found.test.p == 0.5  # two users: 2 of 4 patterns


def test_other_targets_are_refused_and_left_out_only_on_request() -> None:
    left, right = retrieval(np.ones(4)), retrieval(np.zeros(4))
    right["target"] = right["target"].copy()
    right["target"][0] = "other"
    with pytest.raises(InputError, match="2 results that not all runs have"):
        align("retrieval", [left], [right])
    paired = align("retrieval", [left], [right], partial=True)
    assert len(paired.users) == 3 and paired.left_out == 2
    with pytest.raises(InputError, match="no user and item in common"):
        align("retrieval", [left], [{**right, "user": np.char.add("x", right["user"])}], partial=True)
    with pytest.raises(InputError, match="repeated"):
        align("retrieval", [{**left, "user": np.repeat("u", 4), "target": np.repeat("t", 4)}], [right])
    with pytest.raises(InputError, match="no column target"):
        align("retrieval", [{"user": left["user"]}], [right])
    rows = ranking()
    with pytest.raises(InputError, match="labels"):
        align("ranking", [rows], [{**rows, "label": 1 - rows["label"]}])


def test_paired_differences_swap_sign_and_nothing_else_with_the_sides() -> None:
    a, b = ranking(name="one"), ranking(name="one")
    b["score"] = np.clip(b["score"] + 0.2 * (b["label"] - 0.5), 0, 1)
    there = differences(align("ranking", [a], [b]), [named(n) for n in ("auc", "gauc")], RNG)
    back = differences(align("ranking", [b], [a]), [named(n) for n in ("auc", "gauc")], RNG)
    for x, y in zip(there, back, strict=True):
        assert x.difference == pytest.approx(-y.difference) and x.test.p == y.test.p
        assert x.low is not None and y.high is not None and x.low == pytest.approx(-y.high, abs=2e-3)
        assert x.difference < 0 and x.test.p < 0.05
    assert (there[1].better, there[1].worse) == (back[1].worse, back[1].better)
    assert there[0].better is None  # one user has no AUC over rows of others


def test_seeds_of_a_row_are_averaged_per_user_before_users_are_compared() -> None:
    one, two = np.array([1.0, 0, 1, 0]), np.array([0.0, 1, 0, 1])
    same = align("retrieval", [retrieval(one), retrieval(two)], [retrieval(two), retrieval(one)])
    found = differences(same, [named("m")], RNG)[0]
    assert (found.difference, found.better, found.worse, found.equal, found.test.p) == (0.0, 0, 0, 4, 1.0)


def test_one_user_has_a_difference_but_no_interval_and_no_verdict() -> None:
    found = differences(align("retrieval", [retrieval(np.ones(1))], [retrieval(np.zeros(1))]), [named("m")], RNG)[0]
    assert (found.difference, found.low, found.high, found.test.p, found.n_users) == (1.0, None, None, 1.0, 1)


def test_metrics_that_a_side_lacks_or_that_are_undefined_are_left_out() -> None:
    rows = ranking()
    ones = {**rows, "label": np.ones(300, int)}
    assert differences(align("ranking", [ones], [ones]), [named(n) for n in ("auc", "gauc", "m")], RNG) == []


def test_the_inflation_test_exchanges_both_sums() -> None:
    """Brute force: swap (sid, item) pairs of each user and count ratio differences at least as large in |numerator|."""
    generator = RNG.child("inflation").numpy()
    sides = [
        {"user": USERS[:8], "target": USERS[:8], "sid_recall_at_10": s, "item_recall_at_10": i}
        for s, i in ((generator.random(8) + 1, generator.random(8) + 0.5) for _ in range(2))
    ]
    found = differences(align("retrieval", sides[:1], sides[1:]), [named("inflation_recall_at_10")], RNG)[0]
    s, i = ([side[f"{view}_recall_at_10"] for side in sides] for view in ("sid", "item"))
    pooled = (s[0] + s[1]).sum() / (i[0] + i[1]).sum()
    statistics = []
    for bits in range(256):
        swap = (bits >> np.arange(8)) & 1 == 1
        upper, lower = (
            np.where(swap, s[1], s[0]) - np.where(swap, s[0], s[1]),
            np.where(swap, i[1], i[0]) - np.where(swap, i[0], i[1]),
        )
        statistics.append(abs((upper - pooled * lower).sum()))
    assert found.test.p == pytest.approx(np.mean(np.array(statistics) >= statistics[0] - 1e-12))
    assert found.difference == pytest.approx(s[0].sum() / i[0].sum() - s[1].sum() / i[1].sum())
