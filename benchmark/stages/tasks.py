"""From splits to the data that retrievers and rankers see."""

from __future__ import annotations

import numpy as np

from sidbench.datasets.base import Dataset, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Sequences, Split
from sidbench.datasets.splits.rows import item_fields, ranking_rows
from sidbench.recommenders.base import RankingData, RetrievalData


def ranking_data(split: Split, dataset: Dataset) -> RankingData:
    """Rows of every part with the catalogue's side fields."""
    fields, sizes = item_fields(dataset.catalog)
    return RankingData(dataset.n_users, dataset.n_items, ranking_rows(split, dataset.n_users), fields, sizes)


def retrieval_data(split: Split, n_users: int, n_items: int) -> RetrievalData:
    """Training sequences and one (history, target) pair per evaluated user.

    The test history of a user is the training sequence followed by the validation event, in time order.
    Raises ``InputError`` when no user has a test event.
    """
    if not len(split.test):
        raise InputError(
            "retrieval split",
            got="no user with at least 3 events",
            wanted="at least one",
            do="use a data set with longer histories",
        )
    test_user = split.test.user.astype(np.int64)
    known = Interactions.concatenate(split.train, split.validation)
    # Stable by user: the validation event of a user comes after the training events, as concatenated.
    order = np.argsort(known.user, kind="stable")
    everything = Sequences.from_interactions(known.take(order), n_users)
    lengths = everything.lengths[test_user]
    starts = everything.indptr[test_user]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(starts, lengths)
    return RetrievalData(
        n_items=n_items,
        train=Sequences.from_interactions(split.train, n_users),
        validation_user=split.validation.user.astype(np.int64),
        validation_target=split.validation.item,
        test_user=test_user,
        test_history=Sequences(offsets, everything.items[position]),
        test_target=split.test.item,
    )
