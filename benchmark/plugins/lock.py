"""The lock file: for each plugin and each shared unit the version and the hash of the code that has it.

It guards that nobody changes what code does without saying so: where a hash differs from the lock, either the version
was raised, or the change is declared to leave the numbers as they are, with a reason that the file keeps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.files import write_whole

LOCK_FILE = Path(__file__).with_name("code_lock.json")
_REMEDY = (
    "raise `version` where its numbers change and run `bench plugin lock`, or, where they stay, "
    '`bench plugin lock --same-numbers "why they stay"`'
)


@dataclass(frozen=True)
class Entry:
    """version: as its author declares it. code: hash of the code that has it."""

    version: int
    code: str


@dataclass(frozen=True)
class Declaration:
    """A change of code that leaves numbers as they are: of which entries, and why."""

    entries: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Lock:
    """entries: "tokenizer opq" or "unit metrics" -> its version and code. declarations: oldest first."""

    entries: Mapping[str, Entry]
    declarations: tuple[Declaration, ...] = ()


def entry_name(kind: str, name: str) -> str:
    """The name of a plugin or unit in the lock."""
    return f"{kind} {name}"


@cache
def read_lock(path: Path = LOCK_FILE) -> Lock:
    """Raises ``InputError`` for a file that is missing or no lock."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        entries = {name: Entry(int(e["version"]), str(e["code"])) for name, e in raw["entries"].items()}
        said = tuple(Declaration(tuple(d["entries"]), str(d["reason"])) for d in raw["same_numbers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"lock file {path}",
            got=f"{type(error).__name__}: {error}",
            wanted="versions and hashes of the installed code",
            do="install sidbench again, or restore the file with `git checkout`",
        ) from error
    return Lock(entries, said)


def write_lock(lock: Lock, path: Path = LOCK_FILE) -> None:
    """One line an entry, so that two changes of different plugins merge."""
    lines = [f"  {json.dumps(n)}: {json.dumps(vars(e))}" for n, e in sorted(lock.entries.items())]
    said = [f"  {json.dumps({'entries': d.entries, 'reason': d.reason}, ensure_ascii=False)}" for d in lock.declarations]
    body = ",\n".join(lines), ",\n".join(said)
    write_whole(path, f'{{"entries": {{\n{body[0]}\n }},\n "same_numbers": [\n{body[1]}\n ]\n}}\n')
    read_lock.cache_clear()


@dataclass(frozen=True)
class Changes:
    """Entries that differ from the lock. unsaid: other code under the same version. raised: a higher version. lowered:
    a lower one, which would give old results another meaning. added, removed: of plugins and units."""

    unsaid: tuple[str, ...]
    raised: tuple[str, ...]
    lowered: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def problems(self) -> tuple[str, ...]:
        """What the lock does not hold with: one paragraph for each kind of difference, with what to do."""
        found = (
            (self.unsaid, "code changed and its version did not", _REMEDY),
            (self.lowered, "the version is lower than in the lock", "raise it; versions only grow"),
            (self.raised, "the lock has another version", "run `bench plugin lock`"),
            (self.added, "not in the lock", "run `bench plugin lock`"),
            (self.removed, "in the lock and not installed", "run `bench plugin lock`"),
        )
        return tuple(f"{what}: {', '.join(names)}. To do: {remedy}" for names, what, remedy in found if names)


def compare_lock(lock: Lock, current: Mapping[str, Entry]) -> Changes:
    """What differs between a lock and the entries of today's code."""
    both = sorted(lock.entries.keys() & current.keys())
    moved = [(name, current[name].version - lock.entries[name].version) for name in both]
    return Changes(
        unsaid=tuple(n for n, step in moved if step == 0 and current[n].code != lock.entries[n].code),
        raised=tuple(n for n, step in moved if step > 0),
        lowered=tuple(n for n, step in moved if step < 0),
        added=tuple(sorted(current.keys() - lock.entries.keys())),
        removed=tuple(sorted(lock.entries.keys() - current.keys())),
    )


def renewed(lock: Lock, current: Mapping[str, Entry], same_numbers: str = "") -> Lock:
    """The lock of today's code.

    same_numbers: why changed code under an unchanged version gives the numbers it gave. Raises ``InputError`` where such
    code has no reason, and for lowered versions.
    """
    changes = compare_lock(lock, current)
    if changes.lowered:
        raise InputError("lower version", got=", ".join(changes.lowered), wanted="versions that only grow", do="raise them")
    reason = same_numbers.strip()
    if changes.unsaid and not reason:
        raise InputError(
            "changed code under an unchanged version", got=", ".join(changes.unsaid), wanted="a word on it", do=_REMEDY
        )
    if reason and not changes.unsaid:
        raise InputError("--same-numbers", got="no changed code", wanted="code that changed", do="leave it out")
    said = (*lock.declarations, Declaration(changes.unsaid, reason)) if changes.unsaid else lock.declarations
    return Lock(dict(current), said)
