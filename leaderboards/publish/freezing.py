"""Freezing a published board under a version: from then on nothing of it changes, and ``--check`` judges it as it stands."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.files import write_whole
from sidbench.datasets.foundation.paths import plain_name
from sidbench.leaderboards.frozen.index import Entry, board_name, read_index, write_index
from sidbench.leaderboards.frozen.judging import judge, origin
from sidbench.leaderboards.frozen.manifest import MANIFEST, VERSION, Manifest, files_of, read_manifest
from sidbench.leaderboards.publish.publishing import check, read_settings


@dataclass(frozen=True)
class Frozen:
    """A board that is frozen now. sha256: of its manifest. before: whether it already was."""

    manifest: Manifest
    sha256: str
    before: bool


def freeze(folder: Path, version: str, date: str) -> Frozen:
    """Freeze a board as it stands: write its manifest, and its line in the index beside the folder.

    date: ``YYYY-MM-DD``, kept from the first time where the board was frozen before. Raises ``InputError`` for a board
    whose check fails, a version that is none, and a board that is frozen already with another version or other content.
    """
    read_settings(folder)
    name, place = board_name(folder), folder.resolve().parent
    if re.fullmatch(VERSION, version) is None or not plain_name(name):
        raise InputError(f"version {version!r} of the board {name!r}", wanted="a version such as 1.0, a plain folder name")
    entries = read_index(place)
    old = read_manifest(folder) if (folder / MANIFEST).exists() else entries.get(name)
    judged = judge(folder)
    problems = judged.problems if old is not None else [*check(folder), *judged.problems]
    files, odd = files_of(folder)
    if problems or odd:
        raise InputError(
            f"board {folder}",
            got=f"{len(problems + odd)} problems, the first: {[*problems, *odd][0]}",
            wanted="a board that passes `bench leaderboard --check` and the rules of frozen boards",
            do="publish it again with --format all from its own records, and check it",
        )
    manifest = Manifest(
        format=1,
        board=name,
        version=version,
        date=date if old is None else old.date,
        protocol=judged.protocol,
        records=origin(judged.records),
        files=files,
    )
    text = manifest.text()
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    known = entries.get(name)
    if (isinstance(old, Manifest) and old != manifest) or (known is not None and known.manifest != sha256):
        raise InputError(
            f"board {folder}",
            got=f"version {old.version if old is not None else version}, frozen with other content or under another version",
            wanted="a board that was never frozen",
            do="publish the next version into a folder beside it and freeze that",
        )
    write_whole(folder / MANIFEST, text)
    entry = Entry(version=version, date=manifest.date, protocol=manifest.protocol, manifest=sha256)
    write_index(place, {**entries, name: entry})
    return Frozen(manifest, sha256, old is not None)
