"""``index.toml``, beside the folders of boards: which are frozen, under which version and date, and by which manifest."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.files import write_whole
from sidbench.datasets.foundation.paths import plain_name
from sidbench.leaderboards.frozen.manifest import MANIFEST, Date, Sha256, Version
from sidbench.leaderboards.frozen.records import reason_of

INDEX = "index.toml"
_HEAD = """\
# Frozen boards: folder -> version, date, what is measured, and the SHA-256 of its manifest (frozen.json).
# Written by `bench leaderboard --freeze FOLDER --version VERSION`; a line that was published is never changed.
"""


class Entry(BaseModel):
    """One frozen board. manifest: SHA-256 of its ``frozen.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Version
    date: Date
    protocol: str
    manifest: Sha256


def read_index(folder: Path) -> dict[str, Entry]:
    """Name of a board -> entry, from the index in ``folder``; nothing without one.

    Raises ``InputError`` for a damaged one.
    """
    path = folder / INDEX
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        names = [name for name in raw if not plain_name(name)]
        if names:
            raise ValueError(f"{names[0][:80]!r} is no name of a folder")
        return {name: Entry.model_validate(values) for name, values in raw.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"index {path}", got=reason_of(error), wanted="version, date, protocol and manifest of every frozen board"
        ) from error


def write_index(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write the index whole, by name of the board."""
    parts = [_HEAD]
    for name, entry in sorted(entries.items()):
        values = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.model_dump().items())
        parts.append(f"[{json.dumps(name)}]\n{values}")
    text = "\n".join(parts)
    tomllib.loads(text)
    write_whole(folder / INDEX, text)


def board_name(folder: Path) -> str:
    """The name of a board: that of its folder, wherever the command was given from."""
    return folder.resolve().name


def entry_of(folder: Path) -> Entry | None:
    """The entry of a board's folder in the index beside it; ``None`` without one."""
    return read_index(folder.resolve().parent).get(board_name(folder))


def is_frozen(folder: Path) -> bool:
    """Whether a folder is that of a frozen board: it has a manifest, or the index beside it says so."""
    return (folder / MANIFEST).is_file() or entry_of(folder) is not None


def refuse_frozen(folder: Path) -> None:
    """Raise ``InputError`` for the folder of a frozen board, in which nothing may change."""
    if is_frozen(folder):
        entry, beside = entry_of(folder), folder.parent / f"{board_name(folder)}-next"
        raise InputError(
            f"board {folder}",
            got=f"a board that is frozen{'' if entry is None else f' as version {entry.version} of {entry.date}'}",
            wanted="a folder in which a board may still grow",
            do=f"publish the next version beside it: `--from {folder / 'records'} --out {beside}`",
        )
