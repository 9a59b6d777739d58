"""Walks of the planted transition model: sequences, times and ratings of all users."""

from __future__ import annotations

import numpy as np

from sidbench.datasets.base import Interactions
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.planted.transition_model import TransitionModel

MINIMUM_LENGTH = 5
FIRST_TIME = 1_325_376_000
"""2012-01-01 00:00 UTC."""
_DAY = 86_400
_START_DAYS, _MEAN_GAP_DAYS, _TIE_SHARE = 600, 30.0, 0.1
_UNTIED = 3  # events at the end of a sequence that share their time with nobody


def draw_events(transitions: TransitionModel, n_users: int, mean_length: float, rng: Rng) -> tuple[Interactions, np.ndarray]:
    """Let every user walk; returns (events, noisy bool ``[E]``), both in (user, time, step) order with row = 0..E-1.

    Lengths are 5 plus a geometric number with mean ``mean_length - 5``. Ratings: 4 or 5 with the model's like
    probability, else 1, 2 or 3. A tenth of the early steps happens at the same second as the step before; the last
    three events of a user never do, so validation and test targets and the items before them are the same under every
    tie rule, and the oracle of (user, last item) stays exact.
    """
    lengths = (
        MINIMUM_LENGTH + rng.child("lengths").numpy().geometric(1.0 / (mean_length - MINIMUM_LENGTH + 1.0), size=n_users) - 1
    )
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    user = np.repeat(np.arange(n_users, dtype=np.int32), lengths)
    item, noisy = np.empty(len(user), np.int32), np.empty(len(user), bool)
    generator, last = rng.child("walk").numpy(), np.full(n_users, -1, np.int32)
    for step in range(int(lengths.max())):
        active = np.flatnonzero(lengths > step)
        last[active], noisy[first[active] + step] = transitions.draw_next(active, last[active], generator)
        item[first[active] + step] = last[active]
    timestamp = _times(lengths, first, rng)
    draw = rng.child("ratings").numpy()
    liked = draw.random(len(user)) < transitions.like(user, item)
    rating = np.where(liked, draw.integers(4, 6, len(user)), draw.integers(1, 4, len(user))).astype(np.float32)
    return Interactions(user, item, timestamp, rating, np.arange(len(user), dtype=np.int64)), noisy


def _times(lengths: np.ndarray, first: np.ndarray, rng: Rng) -> np.ndarray:
    """int64 ``[E]`` unix seconds, not decreasing within a user."""
    draw, total = rng.child("times").numpy(), int(lengths.sum())
    step = np.arange(total) - np.repeat(first, lengths)
    gap = 1 + draw.exponential(_MEAN_GAP_DAYS * _DAY, total).astype(np.int64)
    may_tie = step < np.repeat(lengths, lengths) - _UNTIED
    gap[may_tie & (draw.random(total) < _TIE_SHARE)] = 0
    gap[first] = FIRST_TIME + draw.integers(0, _START_DAYS * _DAY, len(lengths))
    elapsed = np.cumsum(gap)
    before = np.concatenate([[0], elapsed])[first]
    return np.asarray(elapsed - np.repeat(before, lengths), np.int64)
