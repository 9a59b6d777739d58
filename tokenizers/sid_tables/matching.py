"""Which row of a SID table belongs to which item of a catalogue. No item and no row disappears in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.sid_tables.table import SidTable

IDENTITIES = ("auto", "item", "row")
MISSING = ("refuse", "share")
EXTRA = ("refuse", "keep")
_SHOWN = 3


@dataclass(frozen=True)
class Matched:
    """Rows of a table laid over a catalogue of ``N`` items.

    rows: int64 ``[N]`` row of each item, -1 where the table has none. by_row: rows were matched by number, not by key.
    extra: int64 rows of the table that belong to no item of the catalogue.
    """

    rows: np.ndarray
    by_row: bool
    extra: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """int64 items without a row."""
        return np.flatnonzero(self.rows < 0)


def match_rows(table: SidTable, item_keys: Sequence[str] | None, n_items: int, identity: str, where: str) -> Matched:
    """Match by item key or by row number.

    identity: "item" (the file's keys are item keys), "row" (they are catalogue row numbers, or there are none and rows
    stand in catalogue order), or "auto": whichever covers all keys of the file. Raises ``InputError`` when that is both
    with different results, or neither, and when ``identity`` does not fit the file.
    """
    if table.keys is None:
        if identity == "item":
            raise InputError(
                f"{where}: item keys",
                got="rows without keys",
                wanted="a key in every row",
                do="set keys=row when rows stand in catalogue order",
            )
        return _by_number(np.arange(table.n_items), n_items)
    numbers = _row_numbers(table.keys)
    if identity == "row":
        if numbers is None:
            bad = next(key for key in table.keys if not _is_number(key))
            raise InputError(f"{where}: row numbers", got=repr(bad), wanted=f"0..{n_items - 1}", do="set keys=item")
        return _by_number(numbers, n_items)
    keyed = None if item_keys is None else _by_key(table.keys, item_keys)
    if identity == "item":
        if keyed is None:
            raise InputError(
                f"{where}: item keys", got="features without item keys", wanted="a catalogue with keys", do="set keys=row"
            )
        return keyed
    in_range = numbers is not None and bool((numbers < n_items).all())
    if keyed is not None and not len(keyed.extra):
        if in_range and numbers is not None and not np.array_equal(_by_number(numbers, n_items).rows, keyed.rows):
            raise InputError(
                f"{where}: keys that could be item keys and row numbers",
                got=repr(table.keys[0]),
                wanted="one of the two",
                do="set keys=item or keys=row",
            )
        return keyed
    if in_range and numbers is not None:
        return _by_number(numbers, n_items)
    if keyed is not None:
        return keyed  # some keys are unknown; the caller says which
    raise InputError(
        f"{where}: keys that are no row numbers",
        got=repr(table.keys[0]),
        wanted=f"0..{n_items - 1}",
        do="use a catalogue with item keys",
    )


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 12 and (key == "0" or key[0] != "0")


def _row_numbers(keys: Sequence[str]) -> np.ndarray | None:
    return np.array([int(key) for key in keys], np.int64) if all(map(_is_number, keys)) else None


def _by_number(numbers: np.ndarray, n_items: int) -> Matched:
    rows = np.full(n_items, -1, np.int64)
    inside = numbers < n_items
    rows[numbers[inside]] = np.flatnonzero(inside)
    return Matched(rows, True, np.flatnonzero(~inside))


def _by_key(keys: Sequence[str], item_keys: Sequence[str]) -> Matched:
    place: Mapping[str, int] = {key: row for row, key in enumerate(keys)}
    rows = np.array([place.get(key, -1) for key in item_keys], np.int64)
    used = np.zeros(len(keys), bool)
    used[rows[rows >= 0]] = True
    return Matched(rows, False, np.flatnonzero(~used))


def check_matched(
    matched: Matched, table: SidTable, item_keys: Sequence[str] | None, where: str, *, missing: str, extra: str
) -> None:
    """Raise ``InputError`` for items without row or rows without item where the setting says "refuse", or no match."""

    def names(rows: np.ndarray, keys: Sequence[str] | None) -> str:
        shown = ", ".join(repr(keys[r]) if keys is not None else f"row {r}" for r in rows[:_SHOWN])
        return f"{len(rows)} (first: {shown})"

    n_items = len(matched.rows)
    if len(matched.missing) == n_items:
        raise InputError(
            f"{where}: no item of the catalogue",
            got=names(matched.extra, table.keys),
            wanted=f"items such as {names(np.arange(n_items), item_keys)}",
            do="use the item keys of this dataset, or its row numbers with keys=row",
        )
    if len(matched.extra) and matched.by_row:  # nobody could say which items these are
        raise InputError(
            f"{where}: rows beyond the catalogue",
            got=names(matched.extra, table.keys),
            wanted=f"rows 0..{n_items - 1}",
            do="check that it is the same dataset",
        )
    if len(matched.extra) and extra == "refuse":
        raise InputError(
            f"{where}: items that the catalogue lacks",
            got=names(matched.extra, table.keys),
            wanted="items of this dataset only",
            do="check that it is the same dataset; extra=keep accepts it",
        )
    if len(matched.missing) and missing == "refuse":
        raise InputError(
            f"{where}: items of the catalogue without a SID",
            got=names(matched.missing, item_keys),
            wanted=f"a SID for each of {n_items} items",
            do="complete the file; with missing=share these items get one SID together, which none of the others has",
        )
