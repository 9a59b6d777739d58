"""Chronological 90/10 splits: one cut for everybody (``global_time``), or one per user (``per_user_time``).

The global cut is what a deployed ranker faces. It fails where users rate in one burst (ML-100K: 7,114 of 10,000 test
rows would come from unseen users), and there the per-user cut is used and named.
"""

from __future__ import annotations

import numpy as np

from sidbench.datasets.base import INVALID_TIME, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Split


def global_time(interactions: Interactions, test_share: float = 0.1, validation_share: float = 0.1) -> Split:
    """Events after the time by which ``1 - test_share`` of all events have happened are the test part.

    The cut is the smallest timestamp ``t`` with at least that share of events at or before ``t``; rows on the cut
    belong to the earlier part, so the later part is never larger than its share. The last ``validation_share`` of the
    earlier part, cut by the same rule, is the validation part. Within a user the given order is kept.
    Raises ``InputError`` for shares outside (0, 1), missing times, or when too many equal times leave a part empty.
    """
    _check_shares(test_share, validation_share)
    timeless = int(np.sum(interactions.timestamp == INVALID_TIME))
    if timeless:
        raise InputError(
            "global_time split",
            got=f"{timeless} events without a time",
            wanted="a time for every event",
            do="use leave_last_out, or drop these events while reading",
        )
    time = interactions.timestamp
    test_cut = _cut(time, test_share, "test")
    validation_cut = _cut(time[time <= test_cut], validation_share, "validation")
    return Split(
        "global_time",
        "ties_to_training",
        interactions.take(time <= validation_cut),
        interactions.take((time > validation_cut) & (time <= test_cut)),
        interactions.take(time > test_cut),
    )


def per_user_time(interactions: Interactions, n_users: int, test_share: float = 0.1, validation_share: float = 0.1) -> Split:
    """The last ``ceil(test_share * n)`` of each user's ``n`` events are test rows, the same of the rest validation.

    Ties keep file order. Every user with an event keeps at least one training event, so nobody with two or more is
    unknown at test; ``dropped["users_without_test_event"]`` counts users whose only event trains.
    On ML-100K this gives 10,439 test rows. Raises ``InputError`` for shares outside (0, 1).
    """
    _check_shares(test_share, validation_share)
    counts = np.bincount(interactions.user, minlength=n_users)
    from_end = np.cumsum(counts)[interactions.user] - 1 - np.arange(len(interactions))
    n_test = _last_of(counts, test_share)
    n_validation = _last_of(counts - n_test, validation_share)
    test = from_end < n_test[interactions.user]
    validation = ~test & (from_end < (n_test + n_validation)[interactions.user])
    return Split(
        "per_user_time",
        "file",
        interactions.take(~(test | validation)),
        interactions.take(validation),
        interactions.take(test),
        {"users_without_test_event": int(np.sum(n_test == 0))},
    )


def _check_shares(*shares: float) -> None:
    for share in shares:
        if not 0.0 < share < 1.0:
            raise InputError("share of a chronological split", got=share, wanted="0 < share < 1")


def _cut(time: np.ndarray, later_share: float, part: str) -> int:
    rank = min(max(len(time) - int(round(later_share * len(time), 6)), 1), len(time)) - 1
    cut = int(np.partition(time, rank)[rank])
    if cut == time.max():
        raise InputError(
            f"global_time split leaves no {part} events",
            got=f"{int(np.sum(time == cut))} of {len(time)} events at the last time {cut}",
            wanted=f"at most {later_share:.0%} of events on the last time",
            do="use leave_last_out or per_user_time, or a source with finer times",
        )
    return cut


def _last_of(counts: np.ndarray, share: float) -> np.ndarray:
    """int64 per user: ``ceil(share * count)``, but never the whole of a user's events."""
    wanted = np.ceil(np.round(share * counts, 6)).astype(np.int64)
    return np.minimum(wanted, np.maximum(counts - 1, 0))
