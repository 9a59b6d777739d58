"""Ranking rows and item fields: hand-worked cases and an independent slow oracle."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.datasets.base import INVALID_TIME, Catalog, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Split
from sidbench.datasets.splits.rows import item_fields, ranking_rows


def make(user: list[int], time: list[int], item: list[int], rating: list[float] | None) -> Interactions:
    order = np.lexsort((np.arange(len(user)), time, user))
    rated = None if rating is None else np.array(rating, np.float32)[order]
    return Interactions(
        np.array(user, np.int32)[order],
        np.array(item, np.int32)[order],
        np.array(time, np.int64)[order],
        rated,
        np.arange(len(user), dtype=np.int64),
    )


def by_part(x: Interactions, part: np.ndarray) -> Split:
    return Split("test", "file", x.take(part == 0), x.take(part == 1), x.take(part == 2))


def test_hand_worked() -> None:
    day = 86_400
    #          user 0: train, train (tied), validation, test     user 1: only a test event
    x = make([0, 0, 0, 0, 1], [day, day, 2 * day, 3 * day, 59 * day], [4, 5, 6, 7, 4], [5, 3, 4, 3.5, 1])
    rows = ranking_rows(by_part(x, np.array([0, 0, 1, 2, 2])), n_users=2, history_length=3)
    train, validation, test = rows["train"], rows["validation"], rows["test"]
    assert train.history.tolist() == [[-1, -1, -1], [-1, -1, -1]]  # the tied event is not strictly earlier
    assert validation.history.tolist() == [[5, 4, -1]]
    assert test.history.tolist() == [[6, 5, 4], [-1, -1, -1]]  # the validation event is known at serving time
    assert train.label.tolist() == [1, 0]
    assert validation.label.tolist() == [1]
    assert test.label.tolist() == [1, 0]
    assert test.user.tolist() == [0, 2]  # user 1 has no training row: out of vocabulary
    assert train.day_of_week.tolist() == [4, 4]  # 1970-01-02 was a Friday
    assert test.month.tolist() == [0, 2]  # 1970-03-01
    assert test.row.tolist() == [3, 4]
    for column, dtype in (
        ("user", "int32"),
        ("label", "float32"),
        ("history", "int32"),
        ("row", "int64"),
        ("month", "int32"),
        ("day_of_week", "int32"),
        ("item", "int32"),
    ):
        assert getattr(test, column).dtype == dtype


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 9), st.integers(0, 2), st.integers(1, 5)),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_against_a_slow_oracle(records: list[tuple[int, int, int, int, int]], length: int) -> None:
    records.sort(key=lambda r: (r[0], r[1]))
    user, time, item, part, rating = (list(column) for column in zip(*records, strict=True))
    time = [1_400_000_000 + 40_000 * t for t in time]
    rows = ranking_rows(by_part(make(user, time, item, [float(r) for r in rating]), np.array(part)), 4, length)
    seen = {u for u, p in zip(user, part, strict=True) if p == 0}
    for k, name in enumerate(("train", "validation", "test")):
        for i, row in enumerate(rows[name].row.tolist()):
            assert part[row] == k
            earlier = [item[j] for j in range(len(user)) if user[j] == user[row] and time[j] < time[row]]
            expected = (earlier[::-1] + [-1] * length)[:length]
            assert rows[name].history[i].tolist() == expected
            moment = datetime.fromtimestamp(time[row], UTC)
            assert rows[name].day_of_week[i] == moment.weekday()
            assert rows[name].month[i] == moment.month - 1
            assert rows[name].user[i] == (user[row] if user[row] in seen else 4)
            assert rows[name].label[i] == (rating[row] > 3)


def test_history_does_not_depend_on_the_order_of_ties_in_a_part() -> None:
    x = make([0] * 5, [1, 1, 1, 2, 3], [0, 1, 2, 3, 4], [5] * 5)
    part = np.array([0, 0, 0, 1, 2])
    shuffled = by_part(x, part)
    shuffled = Split("test", "shuffled", shuffled.train.take(np.array([2, 0, 1])), shuffled.validation, shuffled.test)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(
            ranking_rows(shuffled, 1)[name].history, ranking_rows(by_part(x, part), 1)[name].history
        )


def test_missing_ratings_and_times_are_refused() -> None:
    with pytest.raises(InputError, match="no ratings"):
        ranking_rows(by_part(make([0, 0], [1, 2], [0, 1], None), np.array([0, 2])), 1)
    with pytest.raises(InputError, match="events without a time"):
        ranking_rows(by_part(make([0, 0], [INVALID_TIME, 2], [0, 1], [1, 2]), np.array([0, 2])), 1)


def test_item_fields_hand_worked() -> None:
    catalog = Catalog(
        keys=("a", "b", "c", "d", "e"),
        text={"title": ("",) * 5, "brand": ("Zed", "", "Acme", "Zed", "")},
        categories=(("Beauty", "Hair", "Sets"), ("Beauty", "Nails", "Sets"), ("Beauty",), (), ("Beauty", "Hair")),
        price=np.array([1.0, 2.0, np.nan, 3.0, 100.0], np.float32),
    )
    fields, sizes = item_fields(catalog)
    assert fields["category"].tolist() == [3, 4, 1, 0, 2]  # equal leaf names under different parents differ
    assert fields["category_level_2"].tolist() == [1, 2, 0, 0, 1]
    assert fields["brand"].tolist() == [2, 0, 1, 2, 0]
    assert fields["price_bucket"].tolist() == [1, 4, 0, 7, 10]
    assert sizes == {"category": 5, "category_level_2": 3, "brand": 3, "price_bucket": 11}
    assert all(codes.dtype == np.int32 for codes in fields.values())


def test_deciles_hold_equal_shares_and_absent_fields_are_left_out() -> None:
    price = np.random.default_rng(0).permutation(1000).astype(np.float32)
    fields, sizes = item_fields(Catalog(keys=tuple(map(str, range(1000))), price=price))
    assert set(fields) == {"price_bucket"}
    assert np.bincount(fields["price_bucket"], minlength=sizes["price_bucket"])[1:].tolist() == [100] * 10
    assert item_fields(Catalog(keys=("a",))) == ({}, {})
