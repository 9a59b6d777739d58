"""The value every split produces, and training sequences in compressed-row form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sidbench.datasets.base import Interactions


@dataclass(frozen=True)
class Split:
    """Training, validation and test views of one dataset under one protocol.

    protocol: "leave_last_out" or "global_time". tie_rule: how events of one user with equal timestamps were ordered.
    dropped: counts of everything left out ("users_under_3_events": 12).
    """

    protocol: str
    tie_rule: str
    train: Interactions
    validation: Interactions
    test: Interactions
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Sequences:
    """Item sequences of users in time order.

    indptr: int64 ``[U + 1]``; items: int32 ``[E]``; user ``u`` saw ``items[indptr[u]:indptr[u + 1]]``, oldest first.
    """

    indptr: np.ndarray
    items: np.ndarray

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 ``[U]``."""
        return np.diff(self.indptr)

    def of(self, user: int) -> np.ndarray:
        """int32 sequence of one user."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @staticmethod
    def from_interactions(events: Interactions, n_users: int) -> Sequences:
        """Group events (already sorted by user and time) into sequences; users without events get empty ones."""
        counts = np.bincount(events.user, minlength=n_users)
        return Sequences(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), events.item.astype(np.int32))

    def adjacent_pairs(self, window: int = 1) -> np.ndarray:
        """int32 ``[P, 2]`` ordered pairs of items at most ``window`` steps apart in one user's sequence."""
        owner = np.repeat(np.arange(self.n_users), self.lengths)
        pairs = []
        for gap in range(1, window + 1):
            same = owner[gap:] == owner[:-gap]
            pairs.append(np.stack([self.items[:-gap][same], self.items[gap:][same]], axis=1))
        return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int32)
