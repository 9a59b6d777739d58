"""Training data shared by several protocols, so that nothing learned from behaviour sees a task's held-out events."""

from __future__ import annotations

import numpy as np

from sidbench.datasets.base import Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Split


def shared_training(*splits: Split) -> Interactions:
    """Events (identified by ``row``) that are training data in every one of ``splits``, all of the same dataset.

    They come sorted by (user, time) in the order of the first split, so its tie rule holds; list the protocol whose
    sequences matter (retrieval) first. Raises ``InputError`` without a split, or when nothing is shared.
    """
    if not splits:
        raise InputError("shared training data", got="no split", wanted="at least one")
    first, *others = splits
    keep = np.ones(len(first.train), bool)
    for other in others:
        keep &= np.isin(first.train.row, other.train.row)
    if not keep.any():
        raise InputError(
            "shared training data",
            got="no event is training data in all of " + ", ".join(s.protocol for s in splits),
            wanted="at least one",
            do="run the tasks separately or enlarge the dataset",
        )
    return first.train.take(keep)
