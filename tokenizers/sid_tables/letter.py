"""LETTER's and LC-Rec's index files: ``{"0": ["<a_12>", "<b_3>", …]}``, the letter being the position.

A missing letter is PAD: the token itself says which position it fills. Keys are usually row numbers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.sid_tables.table import PAD, SidTable, from_matrix

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"<([a-z])_([0-9]{1,9})>")


def looks_like_letter(value: Any) -> bool:
    """Whether parsed JSON holds lists of tokens and not of numbers."""
    first = next(iter(value.values()), None) if isinstance(value, dict) else None
    return isinstance(first, list) and bool(first) and isinstance(first[0], str)


def table_from_index(value: Any, where: str) -> SidTable:
    """A table from a parsed index. Raises ``InputError`` naming the first token that is none or repeats a position."""
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where}: no index", got=type(value).__name__, wanted='{"0": ["<a_12>", "<b_3>", …], …}')
    rows: list[int] = []
    positions: list[int] = []
    codes: list[int] = []
    for number, (key, tokens) in enumerate(value.items()):
        if not isinstance(tokens, list):
            raise InputError(f"{where}, item {key!r}: no list of tokens", got=type(tokens).__name__, wanted="a list")
        used: set[int] = set()
        for token in tokens:
            match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
            position = -1 if match is None else LETTERS.index(match[1])
            if match is None or position in used:
                raise InputError(
                    f"{where}, item {key!r}: token",
                    got=repr(token)[:80],
                    wanted="<letter_number> with each letter once, such as <a_12>",
                )
            used.add(position)
            rows.append(number)
            positions.append(position)
            codes.append(int(match[2]))
    table = np.full((len(value), max(positions, default=-1) + 1), PAD, np.int64)
    table[rows, positions] = codes
    return from_matrix(table, list(value), where)


def write_index(path: Path, table: SidTable) -> None:
    """Rows in order under the keys "0", "1", …. Raises ``InputError`` for more positions than letters."""
    if table.code_length > len(LETTERS):
        raise InputError(
            "letter format",
            got=f"{table.code_length} positions",
            wanted=f"at most {len(LETTERS)}",
            do="choose another format",
        )
    rows = ([f"<{LETTERS[p]}_{code}>" for p, code in enumerate(row) if code != PAD] for row in table.codes.tolist())
    path.write_text(
        "{\n" + ",\n".join(f'"{i}": {json.dumps(row)}' for i, row in enumerate(rows)) + "\n}\n", encoding="utf-8"
    )
