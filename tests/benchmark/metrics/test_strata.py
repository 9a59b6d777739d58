"""Popularity quartiles: ties by item index, cold items inside the tail."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.metrics.auc import user_aucs
from sidbench.benchmark.metrics.strata import COLD, HEAD, NAMES, TAIL, TORSO, item_strata, split_stratum, stratum_mask


def test_quartiles_of_items_with_ties_by_index() -> None:
    assert item_strata(np.full(8, 5)).tolist() == [HEAD] * 2 + [TORSO] * 4 + [TAIL] * 2
    assert item_strata(np.array([1, 9, 5, 5])).tolist() == [TAIL, HEAD, TORSO, TORSO]


def test_worked_example_of_the_documentation() -> None:
    labels = item_strata(np.array([9, 5, 5, 1, 0, 0, 0, 0]))
    assert labels.dtype == np.int8
    assert labels.tolist() == [HEAD, HEAD, TORSO, TORSO, COLD, COLD, COLD, COLD]
    assert stratum_mask(labels, "tail").tolist() == [False] * 4 + [True] * 4


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_strata_partition_items_by_count(counts: list[int]) -> None:
    array = np.array(counts)
    labels = item_strata(array)
    head, torso, tail, cold = (stratum_mask(labels, name) for name in NAMES)
    assert (head.astype(int) + torso + tail == 1).all()
    assert (cold == (array == 0)).all()
    assert not (cold & ~tail).any()
    assert head.sum() <= len(counts) // 4 <= tail.sum()
    for upper, lower in ((head, torso), (torso, tail)):
        if upper.any() and lower.any():
            assert array[upper].min() >= array[lower].max()


@pytest.mark.data
def test_beauty_global_time_sizes() -> None:
    root = os.environ.get("SIDBENCH_DATA")
    if not root:
        pytest.skip("SIDBENCH_DATA is not set")
    path = Path(root) / "beauty" / "reviews_Beauty_5.json.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    item = np.unique([row["asin"] for row in rows], return_inverse=True)[1].reshape(-1)
    user = np.unique([row["reviewerID"] for row in rows], return_inverse=True)[1].reshape(-1)
    label = np.array([row["overall"] > 3 for row in rows], float)
    train = np.array([row["unixReviewTime"] for row in rows]) <= 1_399_939_200  # 2014-05-13
    counts = np.bincount(item[train], minlength=12_101)
    labels = item_strata(counts)
    head, tail, cold = (stratum_mask(labels, name) for name in ("head", "tail", "cold"))
    assert (train.sum(), (~train).sum()) == (178_674, 19_828)
    assert (counts[tail].min(), counts[tail].max(), counts[head].min(), counts[head].max()) == (0, 5, 14, 403)
    assert (cold.sum(), cold[item[~train]].sum()) == (140, 3_165)
    # Row counts depend on how equal counts are split at the quartile edge; measured elsewhere: 8,588 and 6,742.
    assert head[item[~train]].sum() == pytest.approx(8_588, rel=0.005)
    assert tail[item[~train]].sum() == pytest.approx(6_742, rel=0.005)
    covered = user_aucs(user[~train], label[~train], np.zeros(int((~train).sum())))
    assert (len(covered.user), covered.rows.sum(), np.median(covered.rows)) == (1_617, 8_129, 4)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("auc_tail", ("auc", "tail")),
        ("item_recall_at_10_cold", ("item_recall_at_10", "cold")),
        ("auc", ("auc", "")),
        ("auc_rare", ("auc_rare", "")),
        ("head", ("head", "")),
        ("_head", ("_head", "")),
    ],
)
def test_a_metric_is_split_from_its_stratum(name: str, parts: tuple[str, str]) -> None:
    assert split_stratum(name) == parts
