"""Rows for click/like prediction: label, time features, history of strictly earlier events, and item side fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sidbench.datasets.base import INVALID_TIME, Catalog, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Split

LIKED_ABOVE = 3.0
PRICE_BUCKETS = 10
_SECONDS_PER_DAY = 86_400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


@dataclass(frozen=True)
class EventRows:
    """Columns of ranking rows, one per event of a part, in the part's order.

    user: int32 ``[R]``, ``n_users`` for users without training rows. item: int32 ``[R]``. label: float32 ``[R]``, 1
    where rating > 3. day_of_week: int32 ``[R]``, 0 Monday .. 6 Sunday. month: int32 ``[R]``, 0 January .. 11 December;
    both in UTC.
    history: int32 ``[R, H]`` items of strictly earlier events of the same user, newest first, -1 = none.
    row: int64 ``[R]`` identity of the event in the dataset.
    """

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    day_of_week: np.ndarray
    month: np.ndarray
    history: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


def ranking_rows(split: Split, n_users: int, history_length: int = 20) -> dict[str, EventRows]:
    """Rows of "train", "validation" and "test".

    The history of a row holds events of *all* parts: whatever the user did at a strictly earlier time is known when the
    row is served, also if it happened after the split's cut. Events at the row's own time are never in it, whatever the
    tie rule, since nobody knows which came first. True (raw) users own histories, also those mapped to ``n_users``.
    Raises ``InputError`` when ratings or times are missing.
    """
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    for name, part in parts.items():
        if part.rating is None:
            raise InputError(
                f"ranking rows of the {name} part",
                got="no ratings",
                wanted="a rating per event",
                do="leave the ranking task out for this dataset",
            )
        if np.any(part.timestamp == INVALID_TIME):
            raise InputError(
                f"ranking rows of the {name} part",
                got="events without a time",
                wanted="a time for every event",
                do="leave the ranking task out for this dataset",
            )
    histories = _histories(Interactions.concatenate(*parts.values()), history_length)
    known = np.zeros(n_users, bool)
    known[split.train.user] = True
    rows, begin = {}, 0
    for name, part in parts.items():
        rating = np.zeros(0, np.float32) if part.rating is None else part.rating
        days = part.timestamp // _SECONDS_PER_DAY
        months = part.timestamp.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12
        rows[name] = EventRows(
            user=np.where(known[part.user], part.user, n_users).astype(np.int32),
            item=part.item.astype(np.int32),
            label=(rating > LIKED_ABOVE).astype(np.float32),
            day_of_week=((days + _EPOCH_WEEKDAY) % 7).astype(np.int32),
            month=months.astype(np.int32),
            history=histories[begin : begin + len(part)],
            row=part.row.astype(np.int64),
        )
        begin += len(part)
    return rows


def _histories(events: Interactions, length: int) -> np.ndarray:
    """int32 ``[E, length]`` in the order of ``events``; equal earlier times are listed by descending ``row``."""
    order = np.lexsort((events.row, events.timestamp, events.user))
    user, time, item = events.user[order], events.timestamp[order], events.item[order]
    position = np.arange(len(order))
    new_user = np.concatenate([[True], user[1:] != user[:-1]])
    new_time = new_user | np.concatenate([[True], time[1:] != time[:-1]])
    first_of_user = np.maximum.accumulate(np.where(new_user, position, 0))
    first_of_time = np.maximum.accumulate(np.where(new_time, position, 0))
    source = first_of_time[:, None] - 1 - np.arange(length)[None, :]
    history = np.where(source >= first_of_user[:, None], item[np.maximum(source, 0)], -1)
    unsorted = np.empty(history.shape, np.int32)
    unsorted[order] = history
    return unsorted


def item_fields(catalog: Catalog) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Categorical side fields of items: name -> int32 ``[N]`` codes (0 = unknown), and name -> number of values with 0.

    category: the whole path, since leaf names repeat under different parents. category_level_2: the path's first two
    nodes; unknown for paths of one node. brand. price_bucket: 1..10, deciles of the known prices of the catalogue.
    Fields that the catalogue lacks for all items are left out.
    """
    fields: dict[str, np.ndarray] = {}
    if catalog.categories is not None:
        fields["category"] = _codes("\x1f".join(path) for path in catalog.categories)
        upper = ("\x1f".join(path[:2]) if len(path) > 1 else "" for path in catalog.categories)
        fields["category_level_2"] = _codes(upper)
    if "brand" in catalog.text:
        fields["brand"] = _codes(catalog.text["brand"])
    sizes = {name: int(codes.max(initial=0)) + 1 for name, codes in fields.items()}
    if catalog.price is not None:
        known = np.isfinite(catalog.price)
        bucket = np.zeros(len(catalog), np.int32)
        if known.any():
            edges = np.quantile(catalog.price[known], np.arange(1, PRICE_BUCKETS) / PRICE_BUCKETS)
            bucket[known] = 1 + np.searchsorted(edges, catalog.price[known], side="right")
        fields["price_bucket"], sizes["price_bucket"] = bucket, PRICE_BUCKETS + 1
    return fields, sizes


def _codes(values: Iterable[str]) -> np.ndarray:
    """int32 codes by sorted value from 1; the empty string is 0."""
    column = list(values)
    code = {value: i for i, value in enumerate(sorted(set(column) - {""}), start=1)}
    return np.array([code.get(value, 0) for value in column], np.int32)
