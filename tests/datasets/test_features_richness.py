"""Richness proxies against hand-computed values, and Spearman against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sidbench.datasets.features.richness import item_richness, spearman
from sidbench.datasets.foundation.errors import InputError

COUNTS = np.array([0, 1, 3, 7])
NORMS = np.array([99.0, 1.0, 2.0, 5.0])
BEHAVIOUR = NORMS[:, None] * np.array([[0.6, 0.8]])


def test_norm_follows_eqs_12_and_13_with_percentiles_over_trained_items() -> None:
    found = item_richness(BEHAVIOUR, COUNTS, "norm")
    # Percentiles of (1, 2, 5): 1 + 0.02 * 1 and 2 + 0.98 * 3; the untrained norm of 99 plays no part.
    low, high = 1.02, 4.94
    assert found.notes["N_min"] == pytest.approx(low) and found.notes["N_max"] == pytest.approx(high)
    np.testing.assert_allclose(found.values, [0.0, 0.0, (2 - low) / (high - low), 1.0], rtol=1e-6)
    assert found.values.dtype == np.float32 and found.proxy == "norm"
    assert found.notes["spearman_norm_count"] == pytest.approx(1.0)
    assert found.notes["richness_q50"] == pytest.approx((2 - low) / (high - low))


def test_log_count_is_the_logarithm_of_the_count_between_its_percentiles() -> None:
    found = item_richness(None, COUNTS, "log_count")  # log 2, log 4, log 8: equal steps
    np.testing.assert_allclose(found.values, [0, 0, 0.5, 1], atol=1e-6)


def test_one_item_far_above_the_others_does_not_set_the_scale_of_log_count() -> None:
    counts = np.array([1, 3] * 200 + [10**6])
    np.testing.assert_allclose(item_richness(None, counts, "log_count").values[:2], [0, 1], atol=1e-6)


def test_equal_counts_are_all_rich() -> None:
    assert item_richness(None, np.array([0, 4, 4]), "log_count").values.tolist() == [0, 1, 1]


def test_norm_centred_measures_from_the_mean_of_trained_items() -> None:
    behaviour = np.array([[50.0, 0.0], [0.0, 0.0], [3.0, 0.0], [9.0, 0.0]])  # mean of trained: 4; distances 4, 1, 5
    found = item_richness(behaviour, COUNTS, "norm_centred")
    low, high = 1 + 0.02 * 3, 4 + 0.98 * 1
    np.testing.assert_allclose(found.values, [0, (4 - low) / (high - low), 0, 1], rtol=1e-6)


def test_proj_uses_the_count_weighted_mean_or_the_given_direction() -> None:
    behaviour = np.array([[7.0, 7.0], [0.0, 2.0], [1.0, 0.0], [4.0, 0.0]])
    # Weighted mean of trained rows is proportional to (0*1 + 1*3 + 4*7, 2*1) = (31, 2).
    signal = behaviour @ np.array([31.0, 2.0]) / np.hypot(31, 2)
    low, high = np.percentile(signal[1:], (1, 99))
    wanted = np.where(COUNTS > 0, np.clip((signal - low) / (high - low), 0, 1), 0)
    np.testing.assert_allclose(item_richness(behaviour, COUNTS, "proj").values, wanted, rtol=1e-6)
    upward = item_richness(behaviour, COUNTS, "proj", direction=np.array([0.0, 3.0]))
    assert upward.values.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_auto_trusts_the_norm_only_where_it_follows_the_count() -> None:
    follows = item_richness(BEHAVIOUR, COUNTS)
    assert follows.proxy == "norm"
    against = item_richness(BEHAVIOUR[[0, 3, 2, 1]], COUNTS)
    assert against.proxy == "log_count" and against.notes["spearman_norm_count"] == pytest.approx(-1.0)
    np.testing.assert_allclose(against.values, [0, 0, 0.5, 1], atol=1e-6)
    assert {"norm_q50", "log_count_q50", "richness_q50"} <= set(follows.notes) & set(against.notes)


def test_auto_without_or_with_constant_embeddings_is_log_count() -> None:
    assert item_richness(None, COUNTS).proxy == "log_count"
    constant = item_richness(np.ones((4, 2)), COUNTS)
    assert constant.proxy == "log_count" and "spearman_norm_count" not in constant.notes
    assert np.isfinite(list(constant.notes.values())).all()


@pytest.mark.parametrize("proxy", ["norm", "log_count", "norm_centred", "proj", "auto"])
def test_untrained_items_get_zero_and_everything_stays_in_range(proxy: str) -> None:
    draw = np.random.default_rng(1)
    counts = draw.poisson(1.0, 200)
    found = item_richness(draw.normal(size=(200, 8)), counts, proxy)
    assert (found.values[counts == 0] == 0).all() and found.values.min() >= 0 and found.values.max() == 1
    assert found.values[counts > 0].std() > 0.05


def test_unavailable_embeddings_set_no_constants() -> None:
    available = np.array([True, True, True, False])
    found = item_richness(np.where(available[:, None], BEHAVIOUR, np.nan), COUNTS, "norm", available=available)
    assert found.values.tolist() == [0.0, 0.0, 1.0, 0.0]


def test_no_trained_item_gives_zeros() -> None:
    assert not item_richness(BEHAVIOUR, np.zeros(4, int)).values.any()


@pytest.mark.parametrize(
    ("behaviour", "proxy", "message"),
    [
        (BEHAVIOUR, "size", "richness proxy; got 'size'; wanted one of auto, norm, log_count, norm_centred, proj"),
        (None, "norm", "richness proxy norm; got no behaviour embeddings"),
        (np.ones((4, 2)), "norm", "no difference between the items with training interactions"),
        (BEHAVIOUR[:3], "norm", r"got shape \(3, 2\); wanted \(4, dimensions\)"),
        (np.where(NORMS[:, None] == 2, np.inf, BEHAVIOUR), "auto", r"in 1 of 4 rows \(first: item 2\)"),
    ],
)
def test_unusable_input_is_refused(behaviour: np.ndarray | None, proxy: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        item_richness(behaviour, COUNTS, proxy)


def test_a_direction_of_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"richness direction; got shape \(3,\)"):
        item_richness(BEHAVIOUR, COUNTS, "proj", direction=np.ones(3))


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=2, max_size=30))
def test_spearman_agrees_with_scipy_ties_included(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, float).T
    ours = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-12)
