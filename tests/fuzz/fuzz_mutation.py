"""Hostile inputs from good ones: an input is a seed and a list of small operations, so that hypothesis can shrink it.

An operation is ``(kind, a, b)`` with whole numbers ``a`` and ``b`` in 0..65535, read as places and choices; every
operation applies to every input, in any order, and the result is a pure function of seed and operations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Operation = tuple[str, int, int]
SPAN = 1 << 16
MAX_BYTES = 1 << 18

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "\x00",
    "\ud800",
    "\U0001f600",
    "é" * 300,
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "~",
    "os.system",
    "${oc.env:HOME}",
    "${hydra:runtime.cwd}",
    "???",
    "_target_",
    "<script>alert(1)</script>",
    "\x1b[2J",
    "nan",
    "1e999",
    "9" * 30,
    [],
    {},
    [[]],
    [None],
    [0],
    [-1, 2**40],
    ["a", 1],
    {"a": 1},
    {"_target_": "os.system"},
    {"$ref": "x"},
    [[[[]]]],
)
"""What stands in for any value of a JSON document."""
TOKENS: tuple[bytes, ...] = tuple(
    value if isinstance(value, bytes) else value.encode()
    for value in (
        "",
        "0",
        "-1",
        "1",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "1e-999",
        "9" * 20,
        "9" * 400,
        "9" * 5000,
        "0x10",
        "1_0",
        "²",
        "１",
        "null",
        "None",
        "true",
        "nan",
        "\x00",
        "\n",
        "\r\n",
        "\t",
        ",",
        "|",
        '"',
        "'",
        "\\",
        "\\u0000",
        "\\ud800",
        "\\udc00\\ud800",
        "\u2028",
        "[" * 3000,
        "{" * 3000,
        '{"a":' * 1500,
        "(" * 3000,
        "[[" * 300 + "]]" * 300,
        "-" * 3000,
        "../../x",
        "/etc/passwd",
        "${oc.env:HOME}",
        "__import__('os').system('true')",
        "os.system",
        "_target_",
        "\x1b[2J",
        "<script>",
        "1979-13-45",
        "+x",
        "~x",
        "a.b.c=1",
        "\ufeff",
        b"\xff",
        b"\xfe\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\x80\x04c",
        b"PK\x03\x04",
        b"PAR1",
        b"\x93NUMPY",
        b"\x1f\x8b",
        "1" + "+1" * 1500,
        "{'a': 1}",
        "u'\\ud83d'",
        "b'x'",
        "{1, 2}",
        "1j",
    )
)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF)
_CELL = re.compile(rb"[^\s,;:|=\t\n\"'\[\]{}()]+")


def _flip(data: bytearray, a: int, b: int) -> None:
    if data:
        data[a * len(data) // SPAN] ^= 1 << (b % 8)


def _byte(data: bytearray, a: int, b: int) -> None:
    if data:
        data[a * len(data) // SPAN] = NUMBERS[b % len(NUMBERS)]


def _word(data: bytearray, a: int, b: int) -> None:
    """A 4- or 8-byte number in place of what stood there: sizes and offsets of binary formats."""
    width = 4 if b % 2 else 8
    number = (0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**62, len(data), len(data) + 1)[b // 2 % 8] & (256**width - 1)
    place = a * len(data) // SPAN
    data[place : place + width] = number.to_bytes(width, "little")


def _truncate(data: bytearray, a: int, b: int) -> None:
    del data[a * len(data) // SPAN :]


def _delete(data: bytearray, a: int, b: int) -> None:
    place = a * len(data) // SPAN
    del data[place : place + 1 + b % 64]


def _repeat(data: bytearray, a: int, b: int) -> None:
    place = a * len(data) // SPAN
    part = data[place : place + 1 + b % 256]
    data[place:place] = part * (1 + b % 7)


def _token(data: bytearray, a: int, b: int) -> None:
    place = a * len(data) // SPAN
    data[place:place] = TOKENS[b % len(TOKENS)]


def _cell(data: bytearray, a: int, b: int) -> None:
    """A token in place of a number, name or cell: of CSV, JSON, TOML, Python literals and NumPy headers alike."""
    cells = [match.span() for match in _CELL.finditer(data)]
    if cells:
        start, end = cells[a * len(cells) // SPAN]
        data[start:end] = TOKENS[b % len(TOKENS)]


def _line(data: bytearray, a: int, b: int) -> None:
    """Lines swapped, doubled or lost."""
    lines = data.split(b"\n")
    first, second = a * len(lines) // SPAN, b * len(lines) // SPAN
    if b % 3 == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif b % 3 == 1:
        lines.insert(second, lines[first])
    else:
        del lines[first]
    data[:] = b"\n".join(lines)


def _json(data: bytearray, a: int, b: int) -> None:
    """A value, key or entry of a JSON document (or of one line of it) replaced, lost or doubled."""
    lines = data.split(b"\n")
    number = a * len(lines) // SPAN
    for whole in (True, False):
        try:
            tree = json.loads(bytes(data if whole else lines[number]))
        except (ValueError, RecursionError):
            continue
        places: list[tuple[Any, Any]] = []
        _walk(tree, places)
        if not places:
            return
        holder, key = places[(a * 31 + b * 17) % len(places)]
        choice = VALUES[b % len(VALUES)]
        if a % 5 == 0:
            del holder[key]
        elif a % 5 == 1 and isinstance(holder, dict):
            holder[str(choice)] = holder[key]
        else:
            holder[key] = choice
        try:
            made = json.dumps(tree).encode()
        except (ValueError, RecursionError):
            return
        if whole:
            data[:] = made
        else:
            lines[number] = bytearray(made)
            data[:] = b"\n".join(lines)
        return


def _walk(tree: Any, places: list[tuple[Any, Any]]) -> None:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        places.append((tree, key))
        _walk(value, places)


OPERATIONS: dict[str, Callable[[bytearray, int, int], None]] = {
    "flip": _flip,
    "byte": _byte,
    "word": _word,
    "truncate": _truncate,
    "delete": _delete,
    "repeat": _repeat,
    "token": _token,
    "cell": _cell,
    "line": _line,
    "json": _json,
}
KINDS = (*OPERATIONS, "splice")
BINARY_KINDS = ("flip", "byte", "word", "truncate", "delete", "repeat", "splice")


def mutated(seeds: Sequence[bytes], seed: int, operations: Sequence[Operation]) -> bytes:
    """``seeds[seed]`` after ``operations``, at most ``MAX_BYTES`` long; "splice" joins the start of the input with the end
    of another seed."""
    data = bytearray(seeds[seed % len(seeds)])
    for kind, a, b in operations:
        if kind == "splice":
            other = seeds[b % len(seeds)]
            data[a * len(data) // SPAN :] = other[b * len(other) // SPAN :]
        else:
            OPERATIONS[kind](data, a, b)
        del data[MAX_BYTES:]
    return bytes(data)
