"""JSON that a stranger may have written: no repeated key, no NaN, no number beyond a float, no endless nesting.

What `json` takes without a word would be ambiguous (two values of one key), poison every mean (NaN) or break far from
here (half a surrogate pair cannot be written to any file), so it is refused where it comes in.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from sidbench.datasets.foundation.errors import InputError

MAX_BYTES = 64 << 20  # of one file; a record of a run has about 20 kB
_SURROGATE = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]|[\ud800-\udfff]")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond every float")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {again[:40]!r} stands there twice")
    return value


def parse_json(text: str, where: str, *, wanted: str = "JSON", do: str = "") -> Any:
    """The value of ``text``. Raises ``InputError`` naming ``where`` for malformed text and everything named above."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_once)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise InputError(f"cannot read {where}", got=str(error)[:160], wanted=wanted, do=do) from error
    return value


def read_json(path: Path, *, wanted: str = "JSON", do: str = "", max_bytes: int = MAX_BYTES) -> Any:
    """The value of a UTF-8 file. Raises ``InputError`` as ``parse_json`` does, for a file that cannot be read, and for
    one of more than ``max_bytes``."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise InputError(f"cannot read {path}", got=f"more than {max_bytes:,} bytes", wanted=wanted, do=do)
        return parse_json(data.decode("utf-8"), str(path), wanted=wanted, do=do)
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error.strerror or str(error), wanted=wanted, do=do) from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}", got=str(error), wanted=f"{wanted} in UTF-8", do=do) from error
