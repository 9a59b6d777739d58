"""From splits to task data, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sidbench.benchmark.stages.tasks import retrieval_data
from sidbench.datasets.base import Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.leave_last_out import leave_last_out


def events(users: list[list[int]], times: list[int] | None = None) -> Interactions:
    """The items of each user in time order; rows are numbered against it, so that no order can come from them."""
    user = np.repeat(np.arange(len(users)), [len(u) for u in users]).astype(np.int32)
    item = np.array(sum(users, []), np.int32)
    time = np.arange(len(item)) if times is None else np.array(times)
    return Interactions(user, item, time.astype(np.int64), None, np.arange(len(item), dtype=np.int64)[::-1].copy())


def test_retrieval_data_by_hand() -> None:
    # Two events train only; a user without events stays in the index; the last user comes back to an item.
    split = leave_last_out(events([[5, 6, 7, 8], [1, 2], [], [9, 4, 9]]), 5, "file", Rng(0))
    data = retrieval_data(split, 5, 10)
    assert data.n_items == 10
    assert [data.train.of(u).tolist() for u in range(5)] == [[5, 6], [1, 2], [], [9], []]
    assert data.validation_user.tolist() == data.test_user.tolist() == [0, 3]
    assert data.validation_target.tolist() == [7, 4]
    assert data.test_history.indptr.tolist() == [0, 3, 5]
    assert data.test_history.items.tolist() == [5, 6, 7, 9, 4]  # the training sequence, then the validation event
    assert data.test_target.tolist() == [8, 9]


@pytest.mark.parametrize("seed", range(3))
def test_the_validation_event_comes_last_in_the_test_history_whatever_the_ties(seed: int) -> None:
    users = [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]]
    split = leave_last_out(events(users, [7] * 12), 3, "shuffled", Rng(seed))
    data = retrieval_data(split, 3, 12)
    for u, items in enumerate(users):
        history = data.test_history.of(u).tolist()
        assert history == [*data.train.of(u).tolist(), data.validation_target[u]]
        assert sorted([*history, data.test_target[u]]) == items


def test_without_a_test_event_there_is_nothing_to_evaluate() -> None:
    split = leave_last_out(events([[1, 2], [3]]), 2, "file", Rng(0))
    with pytest.raises(InputError, match="no user with at least 3 events"):
        retrieval_data(split, 2, 4)
