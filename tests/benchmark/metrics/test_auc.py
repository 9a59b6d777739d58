"""AUC and GAUC against scikit-learn, hand-worked rows, invariances and their rules for undefined input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sidbench.benchmark.metrics import auc as a
from sidbench.benchmark.metrics.strata import COLD, HEAD, TAIL
from sidbench.datasets.foundation.errors import InputError

# docs/metrics.md: user 7 (+.9 -.5 +.5), user 2 (-.8 +.1), user 5 (+.3)
USER = np.array([7, 7, 7, 2, 2, 5])
LABEL = np.array([1, 0, 1, 0, 1, 1], np.float32)
SCORE = np.array([0.9, 0.5, 0.5, 0.8, 0.1, 0.3], np.float32)


def rows(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random users, labels and coarse (much tied) scores."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 25, n), generator.integers(0, 2, n).astype(np.float32), generator.integers(0, 6, n) / 2


def test_worked_example_of_the_documentation() -> None:
    numbers = a.ranking_metrics(USER, LABEL, SCORE, None, np.random.default_rng(0))
    values = {name: m.value for name, m in numbers.metrics.items()}
    assert values == pytest.approx(
        {
            "auc": 0.3125,
            "gauc": 0.45,
            "gauc_click_weighted": 0.5,
            "gauc_unweighted": 0.375,
            "gauc_coverage_users": 2 / 3,
            "gauc_coverage_rows": 5 / 6,
        }
    )
    assert numbers.per_user["user"].tolist() == [2, 7]
    assert numbers.per_user["auc"] == pytest.approx([0, 0.75])
    assert numbers.counts == {"rows": 6, "positives": 4, "users": 3, "users_with_one_label": 1}
    assert (numbers.metrics["auc"].n, numbers.metrics["gauc"].n) == (6, 2)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000))
def test_parity_with_scikit_learn_under_ties(seed: int) -> None:
    user, label, score = rows(seed)
    assert a.auc(label, score) == pytest.approx(roc_auc_score(label, score))
    found = a.user_aucs(user, label, score)
    expected = {
        u: roc_auc_score(label[user == u], score[user == u]) for u in np.unique(user) if 0 < label[user == u].mean() < 1
    }
    assert found.user.tolist() == list(expected)
    assert found.auc == pytest.approx(list(expected.values()))
    assert found.rows.tolist() == [int((user == u).sum()) for u in expected]
    assert found.positives.tolist() == [int(label[user == u].sum()) for u in expected]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_row_weights_equal_repeated_rows(seed: int) -> None:
    _, label, score = rows(seed, 40)
    weights = np.random.default_rng(seed).integers(0, 4, 40)
    value = a.weighted_auc(label, score, weights[None, :])[0]
    repeated = np.repeat(label, weights)
    if 0 < repeated.mean() < 1:
        assert value == pytest.approx(roc_auc_score(repeated, np.repeat(score, weights)))


def test_constant_scores_give_one_half() -> None:
    user, label, _ = rows(1)
    numbers = a.ranking_metrics(user, label, np.zeros(len(user)), None, np.random.default_rng(0))
    for name in ("auc", "gauc", "gauc_click_weighted", "gauc_unweighted"):
        m = numbers.metrics[name]
        assert (m.value, m.low, m.high) == pytest.approx((0.5, 0.5, 0.5))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_gauc_ignores_monotone_transforms_per_user_and_row_order(seed: int) -> None:
    user, label, score = rows(seed)
    generator = np.random.default_rng(seed)
    slope, shift = generator.integers(1, 9, 25)[user], generator.integers(-9, 9, 25)[user]
    order = generator.permutation(len(user))
    before, after = (
        a.user_aucs(user, label, score),
        a.user_aucs(user[order], label[order], (np.exp(score) * slope + shift)[order]),
    )
    assert after.user.tolist() == before.user.tolist()
    assert after.auc == pytest.approx(before.auc)


def test_flipping_the_only_negative_excludes_the_user() -> None:
    flipped = LABEL.copy()
    flipped[1] = 1
    assert a.user_aucs(USER, LABEL, SCORE).user.tolist() == [2, 7]
    assert a.user_aucs(USER, flipped, SCORE).user.tolist() == [2]
    numbers = a.ranking_metrics(USER, flipped, SCORE, None, np.random.default_rng(0))
    assert numbers.metrics["gauc"].value == 0
    assert numbers.metrics["gauc_coverage_rows"].value == pytest.approx(2 / 6)


def test_strata_keep_only_their_rows() -> None:
    strata = np.array([HEAD, HEAD, HEAD, TAIL, COLD, COLD], np.int8)
    numbers = a.ranking_metrics(USER, LABEL, SCORE, strata, np.random.default_rng(0))
    assert numbers.metrics["auc_head"].value == pytest.approx(0.75)
    assert numbers.metrics["gauc_head"].n == 1
    assert numbers.metrics["auc_tail"].n == 3  # cold rows are tail rows too
    assert numbers.undefined["auc_cold"] == "2 positive of 2 rows; both labels are needed"
    assert numbers.undefined["auc_torso"] == "0 positive of 0 rows; both labels are needed"
    assert numbers.undefined["gauc_cold"] == "none of 2 users has both labels"
    assert set(numbers.metrics).isdisjoint(numbers.undefined)


def test_one_label_leaves_everything_undefined_but_coverage() -> None:
    numbers = a.ranking_metrics(USER, np.ones(6), SCORE, None, np.random.default_rng(0))
    assert set(numbers.metrics) == {"gauc_coverage_users", "gauc_coverage_rows"}
    assert set(numbers.undefined) == {"auc", "gauc", "gauc_click_weighted", "gauc_unweighted"}
    assert numbers.metrics["gauc_coverage_users"].value == 0


def test_interval_covers_the_sampling_noise_of_independent_rows() -> None:
    """With one row per user the bootstrap width must match the DeLong-type error sqrt((n+ + n- + 1)/(12 n+ n-))."""
    generator = np.random.default_rng(4)
    n = 3_000
    label = (generator.random(n) < 0.5).astype(np.float32)
    m = a.ranking_metrics(np.arange(n), label, generator.random(n), None, generator).metrics["auc"]
    plus = float(label.sum())
    half = 1.96 * np.sqrt((n + 1) / (12 * plus * (n - plus)))
    assert m.low is not None and m.high is not None
    assert (m.high - m.low) / 2 == pytest.approx(half, rel=0.25)
    assert m.low < m.value < m.high


def test_same_generator_state_same_interval() -> None:
    user, label, score = rows(3)
    first, second = (a.ranking_metrics(user, label, score, None, np.random.default_rng(9)).metrics for _ in range(2))
    assert first == second


def test_faults_are_named() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(InputError, match="ranking labels"):
        a.ranking_metrics(USER, LABEL * 2, SCORE, None, generator)
    with pytest.raises(InputError, match="1 NaN or infinite"):
        a.ranking_metrics(USER, LABEL, np.where(SCORE > 0.85, np.nan, SCORE), None, generator)
    with pytest.raises(InputError, match="ranking rows"):
        a.ranking_metrics(USER[:5], LABEL, SCORE, None, generator)
    with pytest.raises(InputError, match="item strata"):
        a.ranking_metrics(USER, LABEL, SCORE, np.zeros(2, np.int8), generator)
