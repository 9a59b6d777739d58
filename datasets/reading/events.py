"""From raw event columns to ``Interactions``: repairs counted, k-core filter, index by sorted key, published order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from sidbench.datasets.base import DatasetCard, DatasetInfo, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.lines import line_of_row

EVENT_SCHEMA = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}


@dataclass(frozen=True)
class IndexedEvents:
    """Events over 0-based indices; ``user_keys[u]`` and ``item_keys[i]`` are the raw keys, ``counts`` all repairs."""

    interactions: Interactions
    user_keys: tuple[str, ...]
    item_keys: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)
    filters: tuple[str, ...] = ()


def check_events(table: pl.DataFrame, source: Path | str) -> pl.DataFrame:
    """Check columns user, item, timestamp and, where there is one, rating (row = record of ``source``).

    A rating column of nulls only is dropped.
    source: the file the table came from, or the name of a stream, whose records are then counted instead of lines.

    Raises ``InputError`` naming file and line of the first missing user, item or time, of a time before 1970, and of
    a rating that is missing (while others have one) or not finite.
    """

    def fail(bad: np.ndarray, what: str, wanted: str) -> None:
        row = int(np.flatnonzero(bad)[0])
        place = f"line {line_of_row(source, row)}" if isinstance(source, Path) else f"record {row + 1}"
        raise InputError(
            f"{source}, {place}: {what}",
            got=f"{int(bad.sum())} such lines",
            wanted=wanted,
            do="repair or remove these lines",
        )

    for name in ("user", "item", "timestamp"):
        missing = table[name].is_null() if name == "timestamp" else table[name].fill_null("") == ""
        if missing.any():
            fail(missing.to_numpy(), f"{name} missing", f"a {name} in every line")
    before = (table["timestamp"] < 0).to_numpy()
    if before.any():
        fail(before, "time before 1970", "unix seconds")
    if "rating" not in table.columns:
        return table
    rating = table["rating"]
    if rating.null_count() == table.height:
        return table.drop("rating")
    if rating.null_count():
        fail(rating.is_null().to_numpy(), "rating missing", "a rating in every line, or in none")
    infinite = ~np.isfinite(rating.to_numpy())
    if infinite.any():
        fail(infinite, "rating not finite", "finite ratings")
    return table


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """bool ``[E]``: the largest subset of events in which every user and every item has at least ``k`` of them.

    user, item: int ``[E]``, 0-based. Removing a user can push items below ``k`` and the reverse, hence the fixed point;
    it is unique, whatever the order of removals.
    """
    kept = np.arange(len(user))
    while len(kept):
        users, items = np.bincount(user[kept]), np.bincount(item[kept])
        enough = (users[user[kept]] >= k) & (items[item[kept]] >= k)
        if enough.all():
            break
        kept = kept[enough]
    mask = np.zeros(len(user), bool)
    mask[kept] = True
    return mask


def _ranks(column: pl.Series, numeric: bool) -> tuple[np.ndarray, list[str]]:
    """int64 ``[E]`` rank of every key among the sorted distinct keys, and these keys."""
    if numeric:
        column = column.cast(pl.Int64)
    keys = column.unique().sort()  # bytes order of UTF-8 = code point order = Python's str order
    return column.rank("dense").to_numpy().astype(np.int64) - 1, keys.cast(pl.String).to_list()


def _compress(codes: np.ndarray, keys: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    used = np.flatnonzero(np.bincount(codes, minlength=len(keys)))
    position = np.zeros(len(keys), np.int32)
    position[used] = np.arange(len(used), dtype=np.int32)
    return position[codes], tuple(keys[i] for i in used)


def index_events(
    table: pl.DataFrame, *, min_events: int = 0, max_users: int = 0, numeric_keys: bool = False
) -> IndexedEvents:
    """Index checked event columns (row order = file order).

    Steps: exact duplicate lines dropped; of a repeated (user, item) pair the earliest event kept (file order among
    equal times); k-core filter with k = ``min_events``; the first ``max_users`` users in key order (0 = all); indices
    = ranks of the sorted keys still in use (as integers when ``numeric_keys``); events sorted by (user, time, file
    order), which is the order of the published files. ``row`` = rank of the event in the file among the events kept.

    Raises ``InputError`` when nothing is left.
    """
    user, user_keys = _ranks(table["user"], numeric_keys)
    item, item_keys = _ranks(table["item"], numeric_keys)
    time = table["timestamp"].to_numpy().astype(np.int64)
    rating = table["rating"].to_numpy().astype(np.float32) if "rating" in table.columns else None
    line = np.arange(len(user))

    # Of each pair the first in (time, file order) leads its run.
    order = np.lexsort((line, time, item, user))
    same = np.zeros(len(user), bool)
    same[1:] = (user[order][1:] == user[order][:-1]) & (item[order][1:] == item[order][:-1])
    repeats = order[same]
    copies = table.height - table.n_unique() if len(repeats) else 0
    keep = np.ones(len(user), bool)
    keep[repeats] = False
    counts = {"lines_read": len(user), "duplicate_lines_dropped": copies, "duplicate_pairs_dropped": len(repeats) - copies}
    filters = ["of every (user, item) pair the earliest event"]

    rows = line[keep]
    if min_events > 1:
        rows = rows[k_core(user[rows], item[rows], min_events)]
        counts["events_dropped_by_k_core"] = int(keep.sum()) - len(rows)
        filters.append(f"{min_events}-core of users and items")
    if max_users:
        wanted = np.unique(user[rows])[:max_users]
        inside = np.isin(user[rows], wanted)
        counts["events_dropped_by_max_users"] = int((~inside).sum())
        rows = rows[inside]
        filters.append(f"first {max_users} users by key")
    if not len(rows):
        raise InputError(
            "no interaction left",
            got=f"{len(user):,} lines and filters: {'; '.join(filters)}",
            wanted="at least one",
            do="lower k_core",
        )

    users, used_users = _compress(user[rows], user_keys)
    items, used_items = _compress(item[rows], item_keys)
    final = np.lexsort((rows, time[rows], users))
    interactions = Interactions(
        users[final],
        items[final],
        time[rows][final],
        None if rating is None else rating[rows][final],
        final.astype(np.int64),
    )
    counts |= {"users": len(used_users), "items": len(used_items), "interactions": len(rows)}
    return IndexedEvents(interactions, used_users, used_items, counts, tuple(filters))


def make_card(
    name: str,
    info: DatasetInfo,
    events: IndexedEvents,
    *,
    subset: bool,
    absent: Mapping[str, str],
    files: Mapping[str, str],
    counts: Mapping[str, int],
    notes: tuple[str, ...] = (),
) -> DatasetCard:
    """The card, with a note for every published statistic that the data miss (not for a ``subset`` asked for)."""
    found = events.counts | dict(counts)
    wrong = [
        f"{key} {found[key]:,} (published {value:,})"
        for key, value in info.published.items()
        if found.get(key) != value and not subset
    ]
    found["published_mismatches"] = len(wrong)
    warning = (f"WARNING: differs from the published statistics: {', '.join(wrong)}",) if wrong else ()
    return DatasetCard(
        name=name,
        source=info.source,
        licence=info.licence,
        citation=info.citation,
        counts=found,
        filters=events.filters,
        absent=dict(absent),
        files=dict(files),
        notes=warning + info.notes + notes,
    )
