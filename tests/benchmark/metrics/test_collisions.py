"""Collision numbers against the worked example, their definitions and each other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.metrics import collisions as c
from sidbench.datasets.foundation.errors import InputError


def test_worked_example_of_the_documentation() -> None:
    sizes = c.group_sizes(np.array([[0, 0], [0, 1], [1, 1], [1, 1]], np.int32))
    assert sizes.tolist() == [1, 1, 2, 2]
    assert c.collision_rate(sizes) == 0.25
    assert c.frac_unique(sizes) == 0.75
    assert c.items_in_collision(sizes) == 0.5
    assert c.max_group(sizes) == 2
    assert c.expected_group(sizes) == 1.5
    assert c.expected_group_traffic(sizes, np.array([4, 3, 2, 1])) == pytest.approx(1.3)


def test_no_traffic_means_no_number() -> None:
    assert c.expected_group_traffic(np.array([1, 1]), np.zeros(2, np.int64)) is None


def test_pad_distinguishes_items() -> None:
    assert c.group_sizes(np.array([[3, -1], [3, 0], [3, -1]], np.int32)).tolist() == [2, 1, 2]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2)), min_size=1, max_size=40))
def test_definitions_on_random_tables(rows: list[tuple[int, int]]) -> None:
    sizes, groups, n = c.group_sizes(np.array(rows, np.int32)), Counter(rows), len(rows)
    assert sizes.tolist() == [groups[row] for row in rows]
    assert c.collision_rate(sizes) == (n - len(groups)) / n
    assert c.frac_unique(sizes) + c.collision_rate(sizes) == pytest.approx(1)
    assert c.expected_group(sizes) == pytest.approx(sum(g * g for g in groups.values()) / n)
    assert c.expected_group_traffic(sizes, np.ones(n)) == pytest.approx(c.expected_group(sizes))


def test_empty_table_is_refused() -> None:
    with pytest.raises(InputError, match="codes"):
        c.group_sizes(np.zeros((0, 2), np.int32))
