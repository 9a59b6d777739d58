"""Which rows can be told apart, their ranks and marks: by hand, against scipy, and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp, ttest_ind
from scipy.stats import t as student

from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.statistics.groups import BEST, SECOND, Evidence, marks, p_value, ranks

RNG = Rng(3).child("test")


def wide(value: float, half_width: float) -> Evidence:
    return Evidence(value, (value,), half_width)


def of_users(values: np.ndarray) -> Evidence:
    mean = float(values.mean())
    return Evidence(mean, (mean,), 0.5, (values - mean) / len(values))


def test_ranks_and_marks_by_hand() -> None:
    # Half-widths .01: error of a difference sqrt(2) * .01 / 1.96 = .00722. .200 - .195: z = .69, p = .49; .195 - .150:
    # z = 6.2; .150 - .149: z = .14. So two rows share rank 1, and two have two better rows: rank 3, the next one.
    rows = [wide(0.150, 0.01), wide(0.195, 0.01), wide(0.200, 0.01), wide(0.149, 0.01)]
    assert ranks(rows, True) == [3, 1, 1, 3]
    assert marks(ranks(rows, True)) == [SECOND, BEST, BEST, SECOND]
    assert ranks([wide(-r.value, 0.01) for r in rows], False) == [3, 1, 1, 3]
    assert ranks([wide(0.2, 0.3), wide(0.1, 0.3)], True) == [1, 1]
    assert marks(ranks(rows[:1], True)) == [""]
    assert ranks([], True) == [] and marks([]) == []


def test_holm_over_all_pairs_decides_a_borderline_row() -> None:
    # One comparison at z = 2.1 has p = .036 and separates; among the six pairs of four rows it needs .05 / 6.
    error = 0.01 * np.sqrt(2) / 1.96
    low = wide(0.2 - 2.1 * error, 0.01)
    assert p_value(wide(0.2, 0.01), low) == pytest.approx(2 * norm.sf(2.1))
    assert ranks([wide(0.2, 0.01), low], True) == [1, 2]
    assert ranks([wide(0.2, 0.01), low, low, low], True) == [1] * 4


def test_exact_numbers_are_ranked_and_equal_ones_share_rank_and_mark() -> None:
    exact = [Evidence(v, (v,)) for v in (0.0, 0.0, 0.1, 0.1, 0.3)]
    assert ranks(exact, False) == [1, 1, 3, 3, 5]
    assert marks(ranks(exact, False)) == [BEST, BEST, SECOND, SECOND, ""]
    near = [Evidence(v, (v,)) for v in (0.9994, 1.0004, 1.2)]
    assert ranks(near, False, digits=3) == [1, 2, 3]
    assert ranks(near, False, digits=2) == [1, 1, 3]


def test_seeds_without_intervals_are_a_pooled_t_test() -> None:
    a, b = (1.0, 1.2, 1.4), (1.5, 1.8)
    got = p_value(Evidence(float(np.mean(a)), a), Evidence(float(np.mean(b)), b))
    assert got == pytest.approx(ttest_ind(a, b).pvalue)
    assert p_value(Evidence(1.0, (1.0, 1.0)), Evidence(1.0, (1.0, 1.0))) == 1.0
    assert p_value(Evidence(1.0, (1.0, 1.0)), Evidence(2.0, (2.0,))) == 0.0


def test_means_of_users_are_a_paired_t_test() -> None:
    generator = RNG.child("paired").numpy()
    a = generator.random(60)
    b = a + generator.normal(0.02, 0.1, 60)
    assert p_value(of_users(a), of_users(b)) == pytest.approx(ttest_1samp(a - b, 0).pvalue)


def test_seeds_of_rows_that_have_several_add_to_the_doubt() -> None:
    """Worked out with Welch's formula: users' variance of a paired t-test, that of three seeds over three each."""
    generator = RNG.child("both").numpy()
    a, b = generator.random(50), generator.random(50)
    seeds = ((0.50, 0.53, 0.56), (0.44, 0.46, 0.45))
    left, right = (Evidence(float(np.mean(s)), s, 0.5, (v - v.mean()) / 50) for s, v in zip(seeds, (a, b), strict=True))
    parts = [(float(np.var(a - b, ddof=1)) / 50, 49), *((float(np.var(s, ddof=1)) / 3, 2) for s in seeds)]
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / f for v, f in parts)
    assert p_value(left, right) == pytest.approx(2 * student.sf((left.value - right.value) / np.sqrt(variance), freedom))
    alone = Evidence(left.value, seeds[0][1:2], 0.5, left.influence)
    assert p_value(alone, right) < p_value(left, right)  # one seed says nothing of training, and claims nothing


def test_equal_methods_are_told_apart_as_rarely_as_promised() -> None:
    """Two rows of one method, three trainings each that move all users' numbers alike: users alone would tell one pair
    in five apart at 5 %."""
    generator, found, by_users = RNG.child("type one").numpy(), 0, 0
    for _ in range(400):
        rows = []
        users = generator.normal(0, 1, 300)
        for _ in range(2):
            shift = generator.normal(0, 0.03, 3)
            own = users + generator.normal(0, 0.25, 300)  # users' part of the error: about .02
            values = tuple(float(own.mean() + s) for s in shift)
            rows.append(Evidence(float(np.mean(values)), values, 0.1, (own - own.mean()) / 300))
        found += p_value(*rows) <= 0.05
        by_users += p_value(*(Evidence(r.value, r.seeds[:1], 0.1, r.influence) for r in rows)) <= 0.05
    assert found / 400 <= 0.075 < 0.15 < by_users / 400


def test_pairing_tells_apart_what_intervals_cannot() -> None:
    noise = RNG.child("pair").numpy().random(400)
    rows = [of_users(noise), of_users(noise + 0.01)]
    assert ranks(rows, True) == [2, 1]  # every user gains the same: no noise is left in the difference
    assert ranks([wide(r.value, 0.03) for r in rows], True) == [1, 1]


def test_one_user_tells_nothing_apart() -> None:
    rows = [Evidence(v, (v,), None, np.zeros(1)) for v in (0.0, 1.0)]
    assert p_value(*rows) == 1.0 and ranks(rows, True) == [1, 1]


COLUMN = st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 0.3)), min_size=2, max_size=7)


@settings(max_examples=60)
@given(COLUMN, st.randoms(use_true_random=False))
def test_ranks_are_consistent(column: list[tuple[float, float]], random: object) -> None:
    rows = [wide(value, width) for value, width in column]
    found = ranks(rows, True)
    best = max(r.value for r in rows)
    assert all(rank == 1 for rank, r in zip(found, rows, strict=True) if r.value == best)  # nothing beats the best
    assert all(1 <= rank <= 1 + sum(o.value > r.value for o in rows) for rank, r in zip(found, rows, strict=True))
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert ranks([rows[i] for i in order], True) == [found[i] for i in order]
    marked = marks(found)
    assert all((mark == BEST) == (rank == 1) for mark, rank in zip(marked, found, strict=True))
    assert len({rank for rank, mark in zip(found, marked, strict=True) if mark == SECOND}) <= 1


@settings(max_examples=30)
@given(COLUMN)
def test_equal_rows_always_share_their_rank(column: list[tuple[float, float]]) -> None:
    rows = [wide(value, 0.05) for value, _ in column] * 2
    found = ranks(rows, True)
    assert found[: len(column)] == found[len(column) :]
