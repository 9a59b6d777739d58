"""Sizes and ages: read from people, measured on disk, written for people."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from sidbench.datasets.foundation.errors import InputError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def parse_size(text: str, option: str) -> int:
    """Bytes of "10GB", "500 MiB" or "1000". Raises ``InputError`` naming ``option``."""
    try:
        return int(TypeAdapter(ByteSize).validate_python(text.strip()))
    except ValidationError as error:
        raise InputError(option, got=repr(text), wanted="a size with its unit", do=f"for example {option} 10GB") from error


def parse_age(text: str, option: str) -> float:
    """Seconds of "30m", "12h", "7d" or "2w". Raises ``InputError`` naming ``option``."""
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise InputError(option, got=repr(text), wanted="a number and one of s, m, h, d, w", do=f"for example {option} 7d")
    return float(found[1]) * _SECONDS[found[2]]


def age(now: float, then: float) -> float:
    """Seconds from ``then`` to ``now``; 0 for what a clock that was set back makes lie in the future."""
    return max(0.0, now - then)


def age_text(seconds: float) -> str:
    """The age in its largest whole unit up to days: "45s", "3h", "12d"."""
    unit = next((u for u in ("d", "h", "m") if seconds >= _SECONDS[u]), "s")
    return f"{int(seconds // _SECONDS[unit])}{unit}"


def path_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count for themselves and what vanishes meanwhile for 0."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as found:
            return sum(path_bytes(Path(entry.path)) for entry in found)
    except FileNotFoundError:
        return 0


def modified(path: Path) -> float:
    """Seconds since the epoch of the latest change of a file, or of a folder or anything in it; 0 when it is gone."""
    try:
        own = path.lstat().st_mtime
        if path.is_symlink() or not path.is_dir():
            return own
        with os.scandir(path) as found:
            return max([own, *(modified(Path(entry.path)) for entry in found)])
    except FileNotFoundError:
        return 0.0
