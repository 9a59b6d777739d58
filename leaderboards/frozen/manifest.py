"""The manifest of a frozen board, ``frozen.json``: version, date, where its records come from, and a hash of every file."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.paths import leaves_folder
from sidbench.leaderboards.frozen.records import read_json, reason_of

MANIFEST = "frozen.json"
VERSION = r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}"


def _a_date(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("wanted YYYY-MM-DD")
    return text


def _relative(name: str) -> str:
    if leaves_folder(name) or "\\" in name:
        raise ValueError(f"{name[:80]!r} leads out of the board")
    return name


Date = Annotated[str, AfterValidator(_a_date)]
Version = Annotated[str, Field(pattern=f"^{VERSION}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Stated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class File(_Stated):
    """A file of a board, as it was frozen."""

    sha256: Sha256
    size_bytes: int


class Origin(_Stated):
    """The records of a board: how many, and the releases and commits of sidbench that wrote them."""

    count: int
    sidbench: list[str]
    git_commits: list[str]


class Manifest(_Stated):
    """What was frozen. board: the name of its folder. protocol: what it measures, in words. files: path -> file, for
    every file of the board but the manifest."""

    format: Literal[1]
    board: str
    version: Version
    date: Date
    protocol: str
    records: Origin
    files: dict[Annotated[str, AfterValidator(_relative)], File]

    def text(self) -> str:
        """The text of ``frozen.json``."""
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a board. Raises ``InputError`` for none, a damaged one, or one of another format."""
    path = folder / MANIFEST
    try:
        raw: Any = read_json(path, MANIFEST)
        return Manifest.model_validate(raw)
    except (OSError, ValueError, InputError) as error:
        raise InputError(
            f"manifest {path}",
            got=reason_of(error),
            wanted="the manifest that `bench leaderboard --freeze` wrote",
            do="restore the board as it was published",
        ) from error


def files_of(folder: Path) -> tuple[dict[str, File], list[str]]:
    """Path -> hash and size of every file of a board but its manifest, and a sentence for all that is no plain file."""
    found: dict[str, File] = {}
    problems = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(f"{name}: neither a file nor a folder")
        elif path.is_file() and name != MANIFEST:
            found[name] = File(sha256=hash_file(path), size_bytes=path.stat().st_size)
    return found, problems


def file_problems(manifest: Manifest, found: dict[str, File]) -> list[str]:
    """Files that are missing, changed, or were not there when the board was frozen."""
    problems = [f"{name}: missing" for name in manifest.files if name not in found]
    problems += [f"{name}: not there when the board was frozen; remove it" for name in found if name not in manifest.files]
    problems += [
        f"{name}: changed since the board was frozen"
        for name, file in manifest.files.items()
        if name in found and found[name] != file
    ]
    return problems


def stranger_problems(found: Collection[str], own: Collection[str]) -> list[str]:
    """Files that no record, table or plot of the board names, and named ones that are missing."""
    return [
        *(f"{name}: belongs to no record, table or plot; remove it" for name in sorted(set(found) - set(own))),
        *(f"{name}: missing, and a record, table or page names it" for name in sorted(set(own) - set(found))),
    ]
