"""Splits: hand-worked cases, properties, and the published counts on real data."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.datasets.base import INVALID_TIME, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Split
from sidbench.datasets.splits.global_time import global_time, per_user_time
from sidbench.datasets.splits.intersect import shared_training
from sidbench.datasets.splits.leave_last_out import leave_last_out

RNG = Rng(0)


def make(user: list[int], time: list[int], item: list[int] | None = None, rating: list[float] | None = None) -> Interactions:
    """Events sorted by (user, time, list order), numbered in sorted order."""
    order = np.lexsort((np.arange(len(user)), time, user))
    items = np.arange(len(user)) if item is None else np.array(item)
    rated = np.full(len(user), 5.0) if rating is None else np.array(rating)
    return Interactions(
        np.array(user, np.int32)[order],
        items.astype(np.int32)[order],
        np.array(time, np.int64)[order],
        rated.astype(np.float32)[order],
        np.arange(len(user), dtype=np.int64),
    )


@st.composite
def events(draw: st.DrawFn, min_size: int = 1) -> tuple[Interactions, int]:
    n_users = draw(st.integers(1, 6))
    pairs = draw(st.lists(st.tuples(st.integers(0, n_users - 1), st.integers(0, 8)), min_size=min_size, max_size=40))
    return make([u for u, _ in pairs], [t for _, t in pairs]), n_users


def parts(split: Split) -> list[Interactions]:
    return [split.train, split.validation, split.test]


def assert_partition(split: Split, whole: Interactions) -> None:
    """Every event lands in exactly one part, unchanged, and parts stay sorted by user and time."""
    together = Interactions.concatenate(*parts(split))
    assert sorted(together.row.tolist()) == whole.row.tolist()
    back = np.argsort(together.row)
    for name in ("user", "item", "timestamp", "rating"):
        np.testing.assert_array_equal(getattr(together, name)[back], getattr(whole, name))
    for part in parts(split):
        assert np.all(np.diff(part.user) >= 0)
        assert not np.any((np.diff(part.user) == 0) & (np.diff(part.timestamp) < 0))


class TestLeaveLastOut:
    def test_hand_worked(self) -> None:
        # user 0: items 10 11 12 13; user 1: two events; user 2: none; user 3: three events
        x = make([0, 0, 0, 0, 1, 1, 3, 3, 3], [1, 2, 3, 4, 1, 2, 7, 8, 9], [10, 11, 12, 13, 20, 21, 30, 31, 32])
        split = leave_last_out(x, 4, "file", RNG)
        assert split.train.item.tolist() == [10, 11, 20, 21, 30]
        assert split.validation.item.tolist() == [12, 31]
        assert split.test.item.tolist() == [13, 32]
        assert dict(split.dropped) == {"users_under_3_events": 2}
        assert (split.protocol, split.tie_rule) == ("leave_last_out", "file")

    @given(events(), st.sampled_from(["file", "shuffled"]), st.integers(0, 5))
    @settings(max_examples=60, deadline=None)
    def test_partition_and_no_later_leak(self, case: tuple[Interactions, int], ties: str, seed: int) -> None:
        x, n_users = case
        split = leave_last_out(x, n_users, ties, Rng(seed))
        assert_partition(split, x)
        n_evaluated = n_users - split.dropped["users_under_3_events"]
        assert len(split.validation) == len(split.test) == n_evaluated
        np.testing.assert_array_equal(split.validation.user, split.test.user)
        assert np.all(split.validation.timestamp <= split.test.timestamp)
        for user, time in zip(split.validation.user, split.validation.timestamp, strict=True):
            mine = split.train.user == user
            assert mine.any()
            assert np.all(split.train.timestamp[mine] <= time)

    def test_shuffle_is_seeded_and_uniform_over_tied_events(self) -> None:
        x = make([0] * 4, [1, 5, 5, 5])
        tests = [leave_last_out(x, 1, "shuffled", Rng(s)).test.row[0] for s in range(600)]
        assert tests == [leave_last_out(x, 1, "shuffled", Rng(s)).test.row[0] for s in range(600)]
        counts = np.bincount(tests, minlength=4)
        assert counts[0] == 0  # never across different times
        assert np.all(np.abs(counts[1:] - 200) < 5 * np.sqrt(600 / 3 * 2 / 3))
        assert leave_last_out(x, 1, "file", RNG).test.row[0] == 3

    def test_shuffle_changes_nothing_without_ties(self) -> None:
        x = make([0, 0, 0, 1, 1, 1, 1], [1, 2, 3, 1, 2, 3, 4])
        a, b = leave_last_out(x, 2, "file", RNG), leave_last_out(x, 2, "shuffled", RNG)
        for one, other in zip(parts(a), parts(b), strict=True):
            assert one.row.tolist() == other.row.tolist()

    def test_events_without_a_time_keep_their_order_and_are_counted(self) -> None:
        x = make([0] * 6, [INVALID_TIME] * 6)
        split = leave_last_out(x, 1, "shuffled", Rng(3))
        assert Interactions.concatenate(*parts(split)).row.tolist() == list(range(6))
        assert split.dropped["events_without_time"] == 6

    def test_unknown_tie_rule(self) -> None:
        with pytest.raises(InputError, match="shuffled or file"):
            leave_last_out(make([0], [1]), 1, "random", RNG)


class TestGlobalTime:
    def test_hand_worked_with_ties_to_training(self) -> None:
        # 90 % of 40 events are reached at the 36th, time 35; the 37th shares that time and stays with the earlier part.
        # 90 % of those 37 (33.3) are reached at the 34th, time 33.
        split = global_time(make([0] * 40, [*range(35), 35, 35, 36, 37, 38]))
        assert split.test.timestamp.tolist() == [36, 37, 38]
        assert split.validation.timestamp.tolist() == [34, 35, 35]
        assert split.train.timestamp.tolist() == list(range(34))

    def test_shares(self) -> None:
        split = global_time(make([0] * 100, list(range(100))))
        assert [len(p) for p in parts(split)] == [81, 9, 10]
        assert (split.protocol, split.tie_rule) == ("global_time", "ties_to_training")

    @given(events(min_size=12), st.sampled_from([0.1, 0.2, 0.34]))
    @settings(max_examples=60, deadline=None)
    def test_partition_and_strict_cuts(self, case: tuple[Interactions, int], share: float) -> None:
        x, _ = case
        try:
            split = global_time(x, share, share)
        except InputError as error:
            assert "leaves no" in str(error)  # too many equal times are a legal outcome here
            return
        assert_partition(split, x)
        assert split.train.timestamp.max() < split.validation.timestamp.min()
        assert split.validation.timestamp.max() < split.test.timestamp.min()
        assert len(split.test) <= share * len(x) + 1e-9
        # the cut is the smallest one allowed: one time earlier would hold too little for the earlier part
        earlier = x.timestamp < max(split.train.timestamp.max(), split.validation.timestamp.max())
        assert earlier.sum() < (1 - share) * len(x) + 1e-9

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="leaves no test events"):
            global_time(make([0] * 10, [1] * 8 + [2] * 2))
        with pytest.raises(InputError, match="1 events without a time"):
            global_time(make([0, 0], [INVALID_TIME, 3]))
        with pytest.raises(InputError, match="0 < share < 1"):
            global_time(make([0, 0], [2, 3]), test_share=1.0)


class TestPerUserTime:
    def test_hand_worked_rounding(self) -> None:
        lengths = [1, 2, 3, 10, 11, 20, 21]
        user = [u for u, n in enumerate(lengths) for _ in range(n)]
        split = per_user_time(make(user, list(range(len(user)))), len(lengths) + 1)
        assert np.bincount(split.test.user, minlength=7).tolist() == [0, 1, 1, 1, 2, 2, 3]
        assert np.bincount(split.validation.user, minlength=7).tolist() == [0, 0, 1, 1, 1, 2, 2]
        assert np.bincount(split.train.user, minlength=7).tolist() == [1, 1, 1, 8, 8, 16, 16]
        assert split.dropped["users_without_test_event"] == 2
        assert split.protocol == "per_user_time"

    @given(events())
    @settings(max_examples=60, deadline=None)
    def test_partition_and_order(self, case: tuple[Interactions, int]) -> None:
        x, n_users = case
        split = per_user_time(x, n_users)
        assert_partition(split, x)
        assert set(split.train.user.tolist()) == set(x.user.tolist())
        for user in range(n_users):
            rows = [p.row[p.user == user].tolist() for p in parts(split)]
            assert rows[0] + rows[1] + rows[2] == x.row[x.user == user].tolist()


class TestSharedTraining:
    def test_hand_worked(self) -> None:
        x = make([0] * 10 + [1] * 10, [*range(10), *range(100, 110)])
        last, cut = leave_last_out(x, 2, "file", RNG), global_time(x)
        shared = shared_training(last, cut)
        # global: events 18, 19 are test, 17 (10 % of 18, rounded down) validation; leave-last-out holds out 8 9 18 19
        assert shared.row.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16]
        assert shared_training(last).row.tolist() == last.train.row.tolist()

    @given(events(min_size=10), st.integers(0, 3))
    @settings(max_examples=40, deadline=None)
    def test_holds_no_held_out_event_and_keeps_the_first_order(self, case: tuple[Interactions, int], seed: int) -> None:
        x, n_users = case
        first, second = leave_last_out(x, n_users, "shuffled", Rng(seed)), per_user_time(x, n_users)
        expected = set(first.train.row.tolist()) & set(second.train.row.tolist())
        if not expected:
            with pytest.raises(InputError, match="no event is training data"):
                shared_training(first, second)
            return
        shared = shared_training(first, second)
        assert shared.row.tolist() == [r for r in first.train.row.tolist() if r in expected]

    def test_without_splits(self) -> None:
        with pytest.raises(InputError, match="no split"):
            shared_training()


def read_beauty() -> tuple[Interactions, int]:
    path = Path(os.environ["SIDBENCH_DATA"]) / "beauty" / "reviews_Beauty_5.json.gz"
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
    _, user = np.unique([r["reviewerID"] for r in records], return_inverse=True)
    _, item = np.unique([r["asin"] for r in records], return_inverse=True)
    return make(user.tolist(), [r["unixReviewTime"] for r in records], item.tolist(), [r["overall"] for r in records]), int(
        user.max()
    ) + 1


@pytest.mark.data
def test_beauty_counts_of_the_specification() -> None:
    x, n_users = read_beauty()
    split = global_time(x)
    assert (len(split.train) + len(split.validation), len(split.test)) == (178_674, 19_828)
    cut = max(split.train.timestamp.max(), split.validation.timestamp.max())
    assert np.datetime64(int(cut), "s") == np.datetime64("2014-05-13")
    assert (len(split.train), len(split.validation)) == (161_023, 17_651)
    earlier = Interactions.concatenate(split.train, split.validation)
    assert np.mean(earlier.rating > 3) == pytest.approx(0.774, abs=5e-4)
    assert np.mean(split.test.rating > 3) == pytest.approx(0.806, abs=5e-4)
    assert len(np.unique(split.test.user)) == 6_110
    assert np.sum(~np.isin(split.test.user, earlier.user)) == 4_395
    assert np.sum(~np.isin(split.test.item, earlier.item)) == 3_165

    file, shuffled = (leave_last_out(x, n_users, ties, RNG) for ties in ("file", "shuffled"))
    for protocol in (file, shuffled):
        assert (len(protocol.train), len(protocol.validation), len(protocol.test)) == (153_776, 22_363, 22_363)
    tied = file.validation.timestamp == file.test.timestamp
    assert tied.sum() == 9_719
    np.testing.assert_array_equal(file.test.timestamp, shuffled.test.timestamp)
    moved = file.test.row != shuffled.test.row
    assert not np.any(moved & ~tied)
    assert 0.4 < np.mean(moved[tied]) < 0.8
    shared = shared_training(shuffled, split)
    assert not np.isin(shared.row, np.concatenate([p.row for s in (shuffled, split) for p in parts(s)[1:]])).any()


@pytest.mark.data
def test_ml_100k_counts_of_the_specification() -> None:
    table = np.loadtxt(Path(os.environ["SIDBENCH_DATA"]) / "ml-100k" / "u.data", dtype=np.int64)
    x = make((table[:, 0] - 1).tolist(), table[:, 3].tolist(), (table[:, 1] - 1).tolist(), table[:, 2].tolist())
    test = per_user_time(x, 943).test
    assert len(test) == 10_439
    rows, liked = np.bincount(test.user, minlength=943), np.bincount(test.user, test.rating > 3, minlength=943)
    both = (liked > 0) & (liked < rows)
    assert (both.sum(), rows[both].sum()) == (710, 9_059)
    cut = global_time(x)
    assert len(np.unique(cut.test.user)) == 166
