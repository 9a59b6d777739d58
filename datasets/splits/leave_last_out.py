"""Leave-last-out: each user's last event is the test target, the second last the validation target, the rest training.

The order of events with equal timestamps decides who the target is (on Beauty the last two events of 9,719 of 22,363
users share their day), and published files are grouped by item, so the tie rule is part of the protocol's name.
"""

from __future__ import annotations

import numpy as np

from sidbench.datasets.base import INVALID_TIME, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Split

MINIMUM_EVENTS = 3


def shuffle_ties(interactions: Interactions, rng: Rng) -> Interactions:
    """Events sorted by (user, time) as before, equal times of one user in a random order drawn from ``rng``.

    Events without a time (``INVALID_TIME``) are no ties: nothing but their file order is known, so it is kept.
    """
    keys = rng.numpy().random(len(interactions))
    keys[interactions.timestamp == INVALID_TIME] = 0.0  # lexsort is stable: equal keys keep file order
    return interactions.take(np.lexsort((keys, interactions.timestamp, interactions.user)))


def leave_last_out(interactions: Interactions, n_users: int, ties: str, rng: Rng) -> Split:
    """Split events sorted by (user, time, file order).

    Parameters
    ----------
    interactions: ``E`` events. n_users: number of users of the dataset, with or without events.
    ties: "shuffled" (primary protocol) puts events of one user with equal timestamps into a random order; "file" keeps
        the order of the source, for comparison with published tables.
    rng: source of the shuffle; unused with "file".

    Users with fewer than three events train only; ``dropped["users_under_3_events"]`` counts them, so that validation
    and test hold ``n_users - dropped`` events each. ``dropped["events_without_time"]`` appears when there are any.
    Raises ``InputError`` for another tie rule.
    """
    if ties not in ("shuffled", "file"):
        raise InputError("tie rule of leave_last_out", got=repr(ties), wanted="shuffled or file")
    events = shuffle_ties(interactions, rng) if ties == "shuffled" else interactions
    counts = np.bincount(events.user, minlength=n_users)
    from_end = np.cumsum(counts)[events.user] - 1 - np.arange(len(events))  # 0 for a user's last event
    evaluated = counts[events.user] >= MINIMUM_EVENTS
    test, validation = evaluated & (from_end == 0), evaluated & (from_end == 1)
    dropped = {f"users_under_{MINIMUM_EVENTS}_events": int(np.sum(counts < MINIMUM_EVENTS))}
    if timeless := int(np.sum(events.timestamp == INVALID_TIME)):
        dropped["events_without_time"] = timeless
    return Split(
        "leave_last_out", ties, events.take(~(test | validation)), events.take(validation), events.take(test), dropped
    )
