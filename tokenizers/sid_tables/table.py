"""``SidTable``, the value every reader gives and every writer takes, and the checks all of them share.

A code is a whole number from 0; -1 (``PAD``) marks a position an item does not use, and rows may be shorter than others
(their end is PAD). An item with no code at all is no row of a SID table: it is refused, never kept as a row of PAD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sidbench.datasets.foundation.errors import InputError

PAD = -1  # that of tokenizers.base, which imports torch
MAX_FILE_BYTES = 1 << 30  # of one file after decompression
MAX_ITEMS = 1 << 26
MAX_POSITIONS = 64
MAX_CODES = 1 << 24  # codes of one position
_SHOWN = 3


@dataclass(frozen=True)
class SidTable:
    """Codes of ``M`` items as a file holds them.

    codes: int32 ``[M, L]``, PAD where unused. sizes: int32 ``[L]`` codes of each position. keys: ``M`` distinct item
    keys (or row numbers as text), ``None`` when row ``i`` is item ``i`` of the catalogue. sizes_stated: the file says
    them; otherwise they are the largest code plus one. ordered: whether positions are residual, ``None`` where the file
    does not say. weights: float32 ``[M, L]`` or ``None``. counts: what was repaired ("short_rows").
    """

    codes: np.ndarray
    sizes: np.ndarray
    keys: tuple[str, ...] | None = None
    sizes_stated: bool = False
    ordered: bool | None = None
    weights: np.ndarray | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        return len(self.codes)

    @property
    def code_length(self) -> int:
        return int(self.codes.shape[1])

    def with_sizes(self, sizes: Sequence[int], where: str) -> SidTable:
        """The same table with stated codebook sizes. Raises ``InputError`` when a code does not fit."""
        checked = _checked_sizes(sizes, self.codes, where)
        return replace(self, sizes=checked, sizes_stated=True)


def from_rows(rows: Sequence[object], keys: Sequence[str] | None, where: str) -> SidTable:
    """A table from one list of codes an item; short rows end in PAD and are counted.

    Raises ``InputError`` naming the first row that is no list of whole numbers, or whatever ``from_matrix`` refuses.
    """
    if not rows:
        raise _empty(where)
    lists: list[list[int]] = []
    for number, row in enumerate(rows):
        if not isinstance(row, (list, tuple)):
            raise InputError(
                f"{where}, {_name(keys, number)}: no list of codes", got=type(row).__name__, wanted="a list of whole numbers"
            )
        for code in row:
            if type(code) is not int:
                raise InputError(
                    f"{where}, {_name(keys, number)}: code that is no whole number",
                    got=repr(code)[:80],
                    wanted=_RANGE,
                    do="export the codes as integers",
                )
            if not PAD <= code < MAX_CODES:
                raise _out_of_range(where, _name(keys, number), code)
        lists.append(list(row))
    length = max(map(len, lists))
    if length > MAX_POSITIONS:
        raise _too_long(where, length)
    if len(rows) > MAX_ITEMS:
        raise _too_many(where, len(rows))
    codes = np.full((len(rows), length), PAD, np.int32)
    for number, given in enumerate(lists):
        codes[number, : len(given)] = given
    short = sum(len(given) < length for given in lists)
    return from_matrix(codes, keys, where, counts={"short_rows": short} if short else {})


def from_matrix(
    codes: np.ndarray,
    keys: Sequence[str] | None,
    where: str,
    *,
    sizes: Sequence[int] | None = None,
    ordered: bool | None = None,
    weights: np.ndarray | None = None,
    counts: Mapping[str, int] | None = None,
) -> SidTable:
    """A checked table from integers ``[M, L]``.

    Raises ``InputError`` for an empty table, other types than integers, codes outside -1..``MAX_CODES`` - 1, a position
    nobody uses, items without any code, sizes smaller than the codes, repeated or missing keys, weights that do not fit.
    """
    if codes.ndim != 2:
        raise InputError(f"{where}: codes", got=f"shape {codes.shape}", wanted="two axes, items and positions")
    if not codes.size:
        raise _empty(where)
    if codes.dtype.kind not in "iu":
        raise InputError(
            f"{where}: codes", got=f"values of type {codes.dtype}", wanted=_RANGE, do="export the codes as integers"
        )
    if len(codes) > MAX_ITEMS:
        raise _too_many(where, len(codes))
    if codes.shape[1] > MAX_POSITIONS:
        raise _too_long(where, codes.shape[1])
    _check_keys(keys, len(codes), where)
    low, high = int(codes.min()), int(codes.max())
    if low < PAD or high >= MAX_CODES:
        row, position = np.argwhere((codes == low) if low < PAD else (codes == high))[0]
        raise _out_of_range(where, f"{_name(keys, int(row))}, position {position}", low if low < PAD else high)
    table = codes.astype(np.int32)
    bare = np.flatnonzero((table == PAD).all(axis=1))
    if len(bare):
        raise InputError(
            f"{where}: items without any code",
            got=f"{len(bare)} (first: {_name(keys, int(bare[0]))})",
            wanted="at least one code an item",
            do="leave these items out of the file; then tokenizer.missing says what becomes of them",
        )
    unused = np.flatnonzero((table == PAD).all(axis=0))
    if len(unused):
        raise InputError(
            f"{where}: positions that no item uses",
            got=unused.tolist()[:_SHOWN],
            wanted="a code of some item at every position",
            do="leave these positions out",
        )
    checked = table.max(axis=0) + 1 if sizes is None else _checked_sizes(sizes, table, where)
    if weights is not None:
        if weights.shape != table.shape or weights.dtype.kind != "f" or not np.isfinite(weights).all():
            raise InputError(
                f"{where}: weights",
                got=f"{weights.dtype} of shape {weights.shape}",
                wanted=f"finite numbers of shape {table.shape}, one a code",
            )
        weights = np.where(table == PAD, np.float32(0), weights.astype(np.float32))
    return SidTable(
        table,
        checked.astype(np.int32),
        None if keys is None else tuple(keys),
        sizes is not None,
        ordered,
        weights,
        dict(counts or {}),
    )


_RANGE = f"whole numbers 0..{MAX_CODES - 1}, or -1 for a position the item does not use"


def _check_keys(keys: Sequence[str] | None, n_items: int, where: str) -> None:
    if keys is None:
        return
    if len(keys) != n_items:
        raise InputError(f"{where}: item keys", got=f"{len(keys)} keys for {n_items} rows", wanted="one a row")
    try:
        "".join(keys).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: item key that is no text",
            got=repr(error.object[error.start : error.end]),
            wanted="whole characters",
            do="export the keys again",
        ) from error
    if "" in keys:
        raise InputError(f"{where}: item without key", got=f"row {keys.index('') + 1}", wanted="one key a row")
    if len(set(keys)) < n_items:
        seen: set[str] = set()
        again = list(dict.fromkeys(k for k in keys if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
        raise InputError(
            f"{where}: items that stand there twice",
            got=f"{len(again)} (first: {again[0]!r})",
            wanted="one row an item",
            do="remove all but one row of each",
        )


def _checked_sizes(sizes: Sequence[int], codes: np.ndarray, where: str) -> np.ndarray:
    if len(sizes) != codes.shape[1]:
        raise InputError(
            f"{where}: codebook sizes", got=f"{len(sizes)} sizes for {codes.shape[1]} positions", wanted="one a position"
        )
    if any(type(k) is not int or not 1 <= k <= MAX_CODES for k in sizes):
        raise InputError(f"{where}: codebook sizes", got=list(sizes)[:MAX_POSITIONS], wanted=f"whole numbers 1..{MAX_CODES}")
    largest = codes.max(axis=0)
    small = np.flatnonzero(largest >= np.asarray(sizes))
    if len(small):
        p = int(small[0])
        raise InputError(
            f"{where}: codebook size of position {p}",
            got=f"{sizes[p]}, with a code {largest[p]} in the table",
            wanted=f"at least {largest[p] + 1}",
        )
    return np.asarray(sizes, np.int32)


def looks_offset(table: SidTable) -> bool:
    """Whether codes seem to count on from position to position (position p holding ``p*K..p*K+K-1``): each smallest code
    lies above the largest of the position before. Such a table is valid, but its codebook sizes are not what they seem."""
    if table.code_length < 2:
        return False
    low = np.where(table.codes == PAD, MAX_CODES, table.codes).min(axis=0)
    return bool((low[1:] > table.codes.max(axis=0)[:-1]).all())


def _name(keys: Sequence[str] | None, row: int) -> str:
    return f"row {row + 1}" if keys is None or row >= len(keys) else f"item {keys[row]!r}"


def _empty(where: str) -> InputError:
    return InputError(f"{where}: no codes", got="an empty table", wanted="one row an item")


def _too_long(where: str, length: int) -> InputError:
    return InputError(
        f"{where}: SIDs too long",
        got=f"{length} positions",
        wanted=f"at most {MAX_POSITIONS}",
        do="check that rows are items and columns are positions",
    )


def _too_many(where: str, n_items: int) -> InputError:
    return InputError(f"{where}: too many rows", got=f"{n_items:,}", wanted=f"at most {MAX_ITEMS:,}")


def _out_of_range(where: str, who: str, code: int) -> InputError:
    return InputError(f"{where}, {who}: code out of range", got=str(code)[:40], wanted=_RANGE)
