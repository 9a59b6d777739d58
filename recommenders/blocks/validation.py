"""The users whose validation targets select the epoch of a retriever."""

from __future__ import annotations

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.blocks.windows import check_histories, take_sequences


def validation_subset(data: RetrievalData, n_users: int, rng: Rng) -> tuple[Sequences, np.ndarray]:
    """Training histories and validation targets int32 ``[V]`` of at most ``n_users`` users, drawn once by ``rng``: the
    same ones in every epoch, and for every retriever that is given the same ``rng``.

    Raises ``InputError`` for training items outside the catalogue, no validation user, another number of targets than
    users, users without a training sequence, and targets outside the catalogue.
    """
    items, users = data.train.items, data.validation_user
    if len(items) and (items.min() < 0 or items.max() >= data.n_items):
        raise InputError(
            "training items",
            got=f"{items.min()}..{items.max()}",
            wanted=f"0..{data.n_items - 1}",
            do="check the split and the size of the catalogue",
        )
    if not len(users):
        raise InputError(
            "validation users",
            got="none",
            wanted="at least one, since validation selects the epoch",
            do="check the split; users need three events",
        )
    if len(users) != len(data.validation_target):
        raise InputError("validation targets", got=len(data.validation_target), wanted=f"one per user ({len(users)})")
    if users.min() < 0 or users.max() >= data.train.n_users:
        raise InputError("validation users", got=f"{users.min()}..{users.max()}", wanted=f"0..{data.train.n_users - 1}")
    chosen = rng.child("validation").numpy().permutation(len(users))[:n_users]
    histories, targets = take_sequences(data.train, users[chosen]), data.validation_target[chosen]
    check_histories(histories, targets, data.n_items)
    return histories, targets
