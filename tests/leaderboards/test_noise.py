"""What can be told apart: Holm by hand, bootstrap against closed forms and scikit-learn, and the rule of marks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_ind
from sklearn.metrics import roc_auc_score

from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.noise import (
    AUC_RESAMPLES,
    BEST,
    RESAMPLES,
    SECOND,
    Evidence,
    bootstrap,
    holm,
    marks,
    p_value,
)

RNG = Rng(3).child("test")
USERS = np.array([f"u{i:04}" for i in range(400)])


def wide(value: float, half_width: float) -> Evidence:
    return Evidence(value, (value,), half_width)


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


def test_marks_by_hand() -> None:
    # Half-widths .01: error of a difference sqrt(2) * .01 / 1.96 = .00722. .200 - .195: z = .69, p = .49.
    # .200 - .150: z = 6.9, separable; .149 too. So two share bold and only the better of the rest is second.
    rows = [wide(0.150, 0.01), wide(0.195, 0.01), wide(0.200, 0.01), wide(0.149, 0.01)]
    assert marks(rows, True) == [SECOND, BEST, BEST, ""]
    assert marks([wide(-r.value, 0.01) for r in rows], False) == [SECOND, BEST, BEST, ""]
    assert marks([wide(0.2, 0.3), wide(0.1, 0.3)], True) == [BEST, BEST]
    assert marks(rows[:1], True) == [""]
    assert marks([], True) == []


def test_holm_decides_a_borderline_row() -> None:
    # One comparison at z = 2.1 has p = .036 and separates; among three others of the same kind it needs .05 / 3.
    error = 0.01 * np.sqrt(2) / 1.96
    low = wide(0.2 - 2.1 * error, 0.01)
    assert p_value(wide(0.2, 0.01), low) == pytest.approx(2 * norm.sf(2.1))
    assert marks([wide(0.2, 0.01), low], True) == [BEST, SECOND]
    assert marks([wide(0.2, 0.01), low, low, low], True) == [BEST] * 4


def test_exact_numbers_are_ranked_and_equal_ones_share_the_mark() -> None:
    exact = [Evidence(v, (v,)) for v in (0.0, 0.0, 0.1, 0.1, 0.3)]
    assert marks(exact, False) == [BEST, BEST, SECOND, SECOND, ""]
    assert marks([Evidence(v, (v,)) for v in (0.9994, 1.0004, 1.2)], False, digits=3) == [BEST, SECOND, ""]
    assert marks([Evidence(v, (v,)) for v in (0.9994, 1.0004, 1.2)], False, digits=2) == [BEST, BEST, SECOND]


def test_seeds_without_intervals_are_a_pooled_t_test() -> None:
    a, b = (1.0, 1.2, 1.4), (1.5, 1.8)
    got = p_value(Evidence(float(np.mean(a)), a), Evidence(float(np.mean(b)), b))
    assert got == pytest.approx(ttest_ind(a, b).pvalue)
    assert p_value(Evidence(1.0, (1.0, 1.0)), Evidence(1.0, (1.0, 1.0))) == 1.0
    assert p_value(Evidence(1.0, (1.0, 1.0)), Evidence(2.0, (2.0,))) == 0.0


def test_pairing_tells_apart_what_intervals_cannot() -> None:
    noise = RNG.child("pair").numpy().random(len(USERS))
    columns = [{"user": USERS, "m": noise + shift} for shift in (0.0, 0.01)]
    rows = [Evidence(float(c["m"].mean()), (float(c["m"].mean()),), 0.03, draws["m"])
            for c, draws in zip(columns, bootstrap(columns, ["m"], RNG), strict=True)]
    assert marks(rows, True) == [SECOND, BEST]  # every user gains the same: no noise is left in the difference
    assert marks([wide(r.value, 0.03) for r in rows], True) == [BEST, BEST]


def test_bootstrap_error_of_a_paired_mean_is_the_textbook_one() -> None:
    generator = RNG.child("error").numpy()
    a, b = generator.random(400), generator.random(400) * 0.9
    # Rows may come in any order of users.
    runs = [{"user": USERS, "m": a}, {"user": USERS[::-1], "m": b[::-1]}]
    left, right = (d["m"] for d in bootstrap(runs, ["m"], RNG))
    assert np.std(left - right) == pytest.approx(np.std(a - b) / 20, rel=0.08)  # sd of 1000 draws: about 2 %
    error = float(np.std(left - right, ddof=1))
    p = p_value(Evidence(a.mean(), (), None, left), Evidence(b.mean(), (), None, right))
    assert p == pytest.approx(2 * norm.sf(abs(a.mean() - b.mean()) / error), rel=1e-6)


def test_auc_gauc_and_inflation_under_a_draw_are_those_of_the_resampled_rows() -> None:
    generator = RNG.child("auc").numpy()
    user = USERS[generator.integers(0, 40, 300)]
    label, score = generator.integers(0, 2, 300), np.round(generator.random(300), 1)
    found = bootstrap([{"user": user, "label": label, "score": score}], ["auc", "gauc", "item_recall_at_10"], RNG)[0]
    assert set(found) == {"auc", "gauc"}
    assert (len(found["auc"]), len(found["gauc"])) == (AUC_RESAMPLES, RESAMPLES)
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
        assert found["gauc"][i] == pytest.approx(total / weight, rel=1e-5)


def test_inflation_is_a_ratio_of_sums() -> None:
    columns = {"user": USERS, "sid_recall_at_10": np.ones(400), "item_recall_at_10": np.full(400, 0.5)}
    found = bootstrap([columns], ["inflation_recall_at_10", "item_ndcg_at_10"], RNG)[0]
    assert set(found) == {"inflation_recall_at_10"}
    assert np.allclose(found["inflation_recall_at_10"], 2.0)


def test_users_a_run_lacks_leave_its_mean_alone() -> None:
    half = {"user": USERS[:200], "m": np.full(200, 0.25)}
    both = bootstrap([{"user": USERS, "m": np.zeros(400)}, half], ["m"], RNG)
    assert np.allclose(both[1]["m"], 0.25)


def test_equal_rows_always_share_the_mark() -> None:
    columns = {"user": USERS, "m": np.arange(400) % 2}
    rows = [Evidence(0.5, (0.5,), 0.05, d["m"]) for d in bootstrap([columns] * 3, ["m"], RNG)]
    assert marks(rows, True) == [BEST] * 3
