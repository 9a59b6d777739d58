"""Windows: every target once per epoch, fixed shapes, histories covered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.blocks.windows import (
    NO_ITEM,
    TrainingWindows,
    bucket_lengths,
    check_histories,
    count_truncated,
    history_batches,
    take_sequences,
)


def numbered(lengths: list[int]) -> Sequences:
    """Sequences whose events are all different, so that an event can be recognised anywhere."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(indptr, np.arange(indptr[-1], dtype=np.int32))


LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=30).filter(lambda x: max(x) >= 2)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 60), st.integers(0, 3))
def test_every_target_appears_exactly_once_per_epoch_with_its_own_past(lengths, max_length, positions, epoch):
    sequences = numbered(lengths)
    windows = TrainingWindows(sequences, max_length, positions, Rng(1))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    seen = []
    for index in range(windows.steps_per_epoch):
        batch = windows.batch(epoch, index)
        assert batch.items.shape[1] in bucket_lengths(max_length)
        assert ((batch.items != NO_ITEM).sum(axis=1) == batch.length).all()
        inputs = batch.items.reshape(-1)[batch.labelled]
        assert (inputs == batch.targets - 1).all()  # the item just before, of the same user
        assert (owner[inputs] == owner[batch.targets]).all()
        seen.append(batch.targets)
    expected = np.setdiff1d(sequences.items, sequences.indptr[:-1])
    assert np.array_equal(np.sort(np.concatenate(seen)), expected)
    assert windows.n_targets == len(expected)
    assert windows.n_without_target == sum(n < 2 for n in lengths)
    assert windows.n_truncated == sum(n - 1 > max_length for n in lengths)


def test_long_sequence_is_cut_from_its_end():
    windows = TrainingWindows(numbered([8]), 3, 3, Rng(0))
    rows = sorted(tuple(windows.batch(0, i).items[0]) for i in range(windows.steps_per_epoch))
    assert rows == [(0, NO_ITEM), (1, 2, 3), (4, 5, 6)]  # the oldest window holds the remainder


def test_batches_are_a_pure_function_of_epoch_and_index_and_differ_between_epochs():
    sequences = numbered([5] * 40)
    a, b = (TrainingWindows(sequences, 10, 20, Rng(3)) for _ in range(2))
    later = b.batch(1, 0)
    assert np.array_equal(a.batch(0, 2).items, b.batch(0, 2).items)
    assert np.array_equal(later.items, a.batch(1, 0).items)
    assert not np.array_equal(a.batch(0, 0).items, a.batch(1, 0).items)
    assert len({a.batch(0, i).items.shape for i in range(a.steps_per_epoch)}) == 1


def test_no_target_is_an_error():
    with pytest.raises(InputError, match="none with two items"):
        TrainingWindows(numbered([1, 0]), 5, 10, Rng(0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 60))
def test_history_batches_cover_every_user_with_the_newest_items(lengths, max_length, positions):
    sequences = numbered(lengths)
    users = []
    for rows, items, length in history_batches(sequences, max_length, positions):
        users += rows.tolist()
        for user, row, n in zip(rows, items, length, strict=True):
            assert row[:n].tolist() == sequences.of(user)[-max_length:].tolist()
            assert (row[n:] == NO_ITEM).all()
    assert sorted(users) == list(range(len(lengths)))
    assert count_truncated(sequences, max_length) == sum(n > max_length for n in lengths)


def test_take_sequences_keeps_order_and_repeats():
    taken = take_sequences(numbered([2, 0, 3]), np.array([2, 1, 0, 2]))
    assert [taken.of(u).tolist() for u in range(4)] == [[2, 3, 4], [], [0, 1], [2, 3, 4]]


def test_histories_are_checked():
    with pytest.raises(InputError, match="row 1"):
        check_histories(numbered([1, 0]), np.zeros(2, np.int32), 5)
    with pytest.raises(InputError, match="one per history"):
        check_histories(numbered([1]), np.zeros(2, np.int32), 5)
    with pytest.raises(InputError, match="targets"):
        check_histories(numbered([1]), np.array([7], np.int32), 5)
