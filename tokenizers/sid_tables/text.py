"""JSON, JSON lines, csv and tsv: ``{"item": codes}``, ``[codes, …]``, one object a line, or columns item, c0, c1, …

Text files may be gzipped. An empty cell at the end of a csv row, or a missing one, is PAD.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.lines import read_blocks, read_lines
from sidbench.tokenizers.sid_tables.table import MAX_FILE_BYTES, MAX_POSITIONS, PAD, SidTable, from_rows

ITEM_COLUMNS = ("item", "item_id", "itemid", "asin", "parent_asin", "key", "id")
_WHOLE = re.compile(r"-?[0-9]{1,12}")
_CODE_COLUMN = re.compile(r"(c|code|level|position|sid|token)[_ ]?[0-9]+", re.IGNORECASE)


def read_text(path: Path) -> str:
    """The file as UTF-8 text. Raises ``InputError`` for damage, other bytes, or more than ``MAX_FILE_BYTES``."""
    blocks = read_blocks(path, max_bytes=MAX_FILE_BYTES, max_line_bytes=MAX_FILE_BYTES)
    try:
        return b"".join(block for _, block in blocks).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text", got=str(error), wanted="a text file", do="name the right format with format="
        ) from error


def load_json(text: str, where: str) -> Any:
    """Parsed JSON. Raises ``InputError`` for malformed text, NaN, too deep nesting, and keys that repeat."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no JSON number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            seen: set[str] = set()
            again = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise InputError(
                f"{where}: items that stand there twice",
                got=f"{len(pairs) - len(value)} (first: {again!r})",
                wanted="one entry an item",
                do="remove all but one entry of each",
            )
        return value

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: no JSON", got=str(error)[:120], wanted="a list of code lists or {item: codes}"
        ) from error


def table_from_json(value: Any, where: str) -> SidTable:
    """A table from ``[[codes], …]`` (row order) or ``{item: [codes], …}``."""
    if isinstance(value, list):
        return from_rows(value, None, where)
    if isinstance(value, dict):
        return from_rows(list(value.values()), list(value), where)
    raise InputError(f"{where}: no SID table", got=type(value).__name__, wanted="a list of code lists or {item: codes}")


def write_json(path: Path, table: SidTable, keys: Sequence[str]) -> None:
    """``{item: codes}`` with one item a line; PAD at the end is left out, elsewhere it is -1."""
    entries = (f"{json.dumps(k, ensure_ascii=False)}: {json.dumps(c)}" for k, c in zip(keys, _trimmed(table), strict=True))
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def read_json_lines(path: Path) -> SidTable:
    """``{"item": …, "codes": […]}`` a line; the item is a text or a whole number."""
    keys: list[str] = []
    rows: list[object] = []
    for number, text in read_lines(path, max_bytes=MAX_FILE_BYTES):
        record = load_json(text, f"{path}, line {number}")
        if not isinstance(record, dict) or "item" not in record or "codes" not in record:
            raise InputError(f"{path}, line {number}: no SID", got=text[:80], wanted='{"item": …, "codes": […]}')
        if type(record["item"]) not in (str, int):
            raise InputError(
                f"{path}, line {number}: item key", got=repr(record["item"])[:80], wanted="a text or a whole number"
            )
        keys.append(str(record["item"]))
        rows.append(record["codes"])
    return from_rows(rows, keys, str(path))


def write_json_lines(path: Path, table: SidTable, keys: Sequence[str]) -> None:
    """The inverse of ``read_json_lines``."""
    lines = (json.dumps({"item": k, "codes": c}, ensure_ascii=False) for k, c in zip(keys, _trimmed(table), strict=True))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _trimmed(table: SidTable) -> list[list[int]]:
    """Rows without PAD at their end. Some item uses the last position, so the length is not lost."""
    rows: list[list[int]] = table.codes.tolist()
    for row in rows:
        while row[-1] == PAD:
            row.pop()
    return rows


def read_delimited(path: Path, delimiter: str) -> SidTable:
    """Header ``item, c0, c1, …`` (or code columns alone: row order), one item a row."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        keyed = bool(header) and header[0].lower() in ITEM_COLUMNS
        # Without an item column every column must be named like a code: an unknown key must not be read as one.
        plain = all(_CODE_COLUMN.fullmatch(cell) for cell in header)
        if len(header) - keyed < 1 or not (keyed or plain) or any(_WHOLE.fullmatch(cell) for cell in header):
            raise InputError(
                f"{path}: header",
                got=", ".join(header[:8])[:120] or "none",
                wanted="item, c0, c1, … (or c0, c1, … for rows in catalogue order)",
                do="name the columns in the first line",
            )
        if len(header) - keyed > MAX_POSITIONS:
            raise InputError(f"{path}: header", got=f"{len(header)} columns", wanted=f"at most {MAX_POSITIONS} positions")
        keys: list[str] = []
        rows: list[list[int]] = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: too many cells",
                    got=len(cells),
                    wanted=f"at most the {len(header)} of the header",
                )
            keys += [cells[0].strip()] if keyed else []
            rows.append([_code(cell, path, reader.line_num) for cell in _without_end(cells[keyed:])])
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: no table", got=str(error), wanted="a csv or tsv table") from error
    return from_rows(rows, keys if keyed else None, str(path))


def _without_end(cells: list[str]) -> list[str]:
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _code(cell: str, path: Path, line: int) -> int:
    text = cell.strip()
    if not text:
        return PAD
    if not _WHOLE.fullmatch(text):
        raise InputError(
            f"{path}, line {line}: code that is no whole number",
            got=repr(cell)[:80],
            wanted="whole numbers, or an empty cell for a position the item does not use",
        )
    return int(text)


def write_delimited(path: Path, table: SidTable, keys: Sequence[str], delimiter: str) -> None:
    """Columns item, c0, c1, …; PAD is an empty cell."""
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, lineterminator="\n")
        writer.writerow(["item", *(f"c{p}" for p in range(table.code_length))])
        for key, row in zip(keys, np.where(table.codes == PAD, "", table.codes.astype(str)).tolist(), strict=True):
            writer.writerow([key, *row])
