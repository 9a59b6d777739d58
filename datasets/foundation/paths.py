"""File names that a record, a manifest or an archive states: they may only lead to files below their own folder."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from sidbench.datasets.foundation.errors import InputError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,199}")


def plain_name(text: str) -> bool:
    """Whether ``text`` can name one file or folder anywhere: letters, digits, ``._+-``, no separator, no leading dot."""
    return _PLAIN_NAME.fullmatch(text) is not None


def leaves_folder(name: str) -> bool:
    """Whether a stated name is empty, absolute, climbs with ``..``, has a drive letter or holds a NUL."""
    path = PureWindowsPath(name)  # the stricter reading: knows both slashes and drive letters
    return not path.parts or bool(path.anchor) or ".." in path.parts or "\0" in name


def inside(folder: Path, name: str, what: str) -> Path:
    """``folder / name``, which need not exist.

    Raises ``InputError`` naming ``what`` when ``name`` leaves the folder (see ``leaves_folder``), or is a link that does.
    """
    path = folder / name
    try:
        kept = not leaves_folder(name) and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # too long, a link that leads to itself, bytes no path can hold
        kept = False
    if not kept:
        raise InputError(
            f"{what} names a file outside its folder",
            got=repr(name)[:120],
            wanted=f"a file in {folder}",
            do="do not use this folder unless you know who wrote it",
        )
    return path
