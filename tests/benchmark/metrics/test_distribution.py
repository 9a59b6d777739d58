"""Entropies, utilisation, concentration and prefixes against hand-worked numbers, scipy and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from sidbench.benchmark.metrics import distribution as d
from sidbench.datasets.foundation.errors import InputError

# Four items; position 1 is even, position 2 has counts 1 and 3 (the example of docs/metrics.md).
CODES = np.array([[0, 0], [0, 1], [1, 1], [1, 1]], np.int32)
SIZES = np.array([2, 2], np.int32)


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, length = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    sizes = np.array(draw(st.lists(st.integers(1, 5), min_size=length, max_size=length)), np.int32)
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(-1, sizes, (n, length)).astype(np.int32), sizes


def test_uniform_codes_reach_every_best_value() -> None:
    codes = np.tile(np.arange(7, dtype=np.int32), 3)[:, None]
    sizes = np.array([7], np.int32)
    assert d.position_entropies(codes, sizes)[0] == pytest.approx(np.log(7))
    assert d.perplexity_shares(codes, sizes)[0] == pytest.approx(1)
    assert d.utilisations(codes, sizes)[0] == 1
    assert d.gini(d.code_counts(codes, sizes)[0]) == pytest.approx(0)
    assert d.count_spreads(codes, sizes)[0] == 0


def test_a_constant_code_reaches_every_worst_value() -> None:
    codes, sizes = np.full((9, 1), 2, np.int32), np.array([5], np.int32)
    assert d.position_entropies(codes, sizes)[0] == 0
    assert d.utilisations(codes, sizes)[0] == pytest.approx(1 / 5)
    assert d.gini(d.code_counts(codes, sizes)[0]) == pytest.approx(1 - 1 / 5)
    assert d.joint_entropy(codes) == 0


def test_worked_example_of_the_documentation() -> None:
    counts = d.code_counts(CODES, SIZES)
    assert d.position_entropies(CODES, SIZES) == pytest.approx([0.6931, 0.5623], abs=5e-5)
    assert d.position_entropies(CODES, SIZES, np.array([4, 3, 2, 1])) == pytest.approx([0.6109, 0.6730], abs=5e-5)
    assert d.joint_entropy(CODES) == pytest.approx(1.5 * np.log(2))
    assert d.perplexity_shares(CODES, SIZES) == pytest.approx([1, 1.7548 / 2], abs=5e-5)
    assert [d.gini(n) for n in counts] == pytest.approx([0, 0.25])
    assert [d.top_share(n) for n in counts] == pytest.approx([0.5, 0.75])
    assert d.count_spreads(CODES, SIZES) == pytest.approx([0, 1])
    assert d.prefix_counts(CODES).tolist() == [2, 3]
    assert d.branching(CODES) == pytest.approx([2, 1.5])
    assert d.path_densities(CODES, SIZES) == pytest.approx([1, 0.75])
    assert d.conditional_entropies(CODES) == pytest.approx([0.6931, 0.3466], abs=5e-5)


def test_miller_madow_adds_half_the_symbols_per_item() -> None:
    corrected = d.conditional_entropies(CODES, miller_madow=True)
    first = np.log(2) + 1 / 8
    assert corrected == pytest.approx([first, 1.5 * np.log(2) + 2 / 8 - first])


def test_pad_is_excluded_or_one_more_class() -> None:
    codes, sizes = np.array([[0], [1], [-1], [-1]], np.int32), np.array([4], np.int32)
    assert d.position_entropies(codes, sizes)[0] == pytest.approx(np.log(2))
    assert d.position_entropies(codes, sizes, pad_as_code=True)[0] == pytest.approx(1.5 * np.log(2))
    assert d.utilisations(codes, sizes)[0] == pytest.approx(0.5)
    assert d.prefix_counts(codes).tolist() == [3]


def test_a_position_nobody_uses_is_zero_everywhere() -> None:
    codes, sizes = np.full((3, 1), -1, np.int32), np.array([4], np.int32)
    for function in (d.position_entropies, d.perplexity_shares, d.utilisations):
        assert function(codes, sizes).tolist() == [0]
    assert d.gini(d.code_counts(codes, sizes)[0]) == 0
    assert d.top_share(d.code_counts(codes, sizes)[0]) == 0


def test_top_share_takes_a_hundredth_rounded_up() -> None:
    counts = np.arange(1.0, 151.0)  # K = 150: the two most frequent codes
    assert d.top_share(counts) == pytest.approx((150 + 149) / counts.sum())


def test_hourglass_index() -> None:
    assert d.hourglass_index(np.array([4.0, 2.0, 3.0])) == pytest.approx(1.5)
    assert d.hourglass_index(np.array([4.0, 3.5, 1.0, 3.0])) == pytest.approx(2.5)
    assert d.hourglass_index(np.array([4.0, 2.0])) is None


def test_prefix_ids_survive_huge_codebooks() -> None:
    top = np.iinfo(np.int32).max - 1
    codes = np.array([[top, top, top]] * 2 + [[top, top, 0], [0, top, top]], np.int32)
    assert [len(np.unique(i)) for i in d.prefix_ids(codes)] == [2, 2, 3]


@settings(deadline=None, max_examples=40)
@given(tables())
def test_entropy_equals_scipy_and_respects_bounds(table: tuple[np.ndarray, np.ndarray]) -> None:
    codes, sizes = table
    for n, h in zip(d.code_counts(codes, sizes), d.position_entropies(codes, sizes), strict=True):
        assert h == pytest.approx(scipy_entropy(n) if n.any() else 0.0, abs=1e-12)
        assert 0 <= h <= np.log(len(n)) + 1e-12
        assert -1e-12 <= d.gini(n) <= 1 - 1 / len(n) + 1e-12
    assert d.joint_entropy(codes) <= np.log(len(codes)) + 1e-12
    assert d.conditional_entropies(codes).sum() == pytest.approx(d.joint_entropy(codes))
    assert d.conditional_entropies(codes).min() >= -1e-12
    assert (d.path_densities(codes, sizes) <= 1 + 1e-12).all()
    assert d.prefix_counts(codes).tolist() == [len(np.unique(codes[:, : p + 1], axis=0)) for p in range(len(sizes))]


@settings(deadline=None, max_examples=40)
@given(tables(), st.integers(0, 2**32 - 1))
def test_item_order_and_code_names_do_not_matter(table: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    codes, sizes = table
    generator = np.random.default_rng(seed)
    renamed = codes[generator.permutation(len(codes))]
    for p, size in enumerate(sizes):
        names = np.append(generator.permutation(size), -1)
        renamed[:, p] = names[renamed[:, p]]
    assert d.position_entropies(renamed, sizes) == pytest.approx(d.position_entropies(codes, sizes))
    assert d.joint_entropy(renamed) == pytest.approx(d.joint_entropy(codes))
    assert d.branching(renamed) == pytest.approx(d.branching(codes))


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match="both at least 1"):
        d.code_counts(np.zeros((0, 2), np.int32), SIZES)
    with pytest.raises(InputError, match="one size per position"):
        d.code_counts(CODES, np.array([2], np.int32))
    with pytest.raises(InputError, match="maximum"):
        d.code_counts(CODES, np.array([2, 1], np.int32))
