"""`bench cache gc`: what may go under a set of rules, and its safe removal.

A plan is made from an inventory without touching the disk. It is carried out under the lock of each key: what another
process holds, or has used since the plan was made, stays. Nothing a record needs goes unless the rules say ``force``.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from sidbench.benchmark.store.cache_entries import discard, lock_path
from sidbench.benchmark.store.maintenance.inventory import (
    DAMAGED,
    LOCK,
    PARTIAL,
    TEMPORARY,
    Entry,
    Inventory,
    Leftover,
    Needs,
    last_used,
)
from sidbench.benchmark.store.maintenance.unfinished import UnfinishedRun
from sidbench.benchmark.store.maintenance.units import age, modified
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import InputError

ABANDONED_RUN = "run that was not finished"
UNUSED, LEAST_RECENT = "no record needs it", "least recently used"


@dataclass(frozen=True)
class Rules:
    """What may go. older_than: seconds, for checkpoints, unfinished runs and unused entries. unused: entries no record
    needs may go. max_bytes: evict until the cache is no larger. force: entries that records need may be evicted too."""

    older_than: float
    unused: bool = False
    max_bytes: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Removal:
    """One thing to remove. folder: the entry's place, whose lock guards it; None where no lock does. seen: last use or
    change when the plan was made, in seconds since the epoch. needed: a record names it."""

    path: Path
    n_bytes: int
    why: str
    seen: float
    folder: Path | None = None
    needed: bool = False


@dataclass(frozen=True)
class Plan:
    """What goes, in order. over_bytes: by how much the cache stays above ``max_bytes``. claimed: entries that stay because
    a run that is being written may have used them."""

    removals: tuple[Removal, ...] = ()
    over_bytes: int = 0
    claimed: int = 0


@dataclass
class Outcome:
    """What became of a plan. busy: another process held it, or has used or removed it since. locks: lock files that
    guarded nothing any more and went too."""

    removed: list[Removal] = field(default_factory=list)
    busy: list[Removal] = field(default_factory=list)
    locks: int = 0


def plan_collection(
    inventory: Inventory, unfinished: Iterable[UnfinishedRun], needs: Needs, rules: Rules, now: float
) -> Plan:
    """What may go under ``rules`` at the time ``now`` (seconds since the epoch).

    Entries that were used since the oldest run that is being written began stay: its record will need them.

    Raises ``InputError`` when entries are to be evicted while records cannot be read, since what these need is unknown.
    """
    if needs.unreadable and not rules.force and (rules.unused or rules.max_bytes is not None):
        raise InputError(
            "evicting cached stages",
            got=f"{len(needs.unreadable)} unreadable records, first {needs.unreadable[0]}",
            wanted="records that say what they need",
            do="repair or remove these runs (`bench runs ls`), or add --force",
        )
    unfinished = list(unfinished)
    removals = [
        Removal(o.path, o.n_bytes, o.kind, o.modified, o.folder) for o in inventory.leftovers if _may_go(o, rules, now)
    ]
    freed = sum(r.n_bytes for r in removals)
    removals += [
        Removal(u.path, u.n_bytes, ABANDONED_RUN, u.modified)
        for u in unfinished
        if u.since is None and age(now, u.modified) >= rules.older_than
    ]
    claimed = min((u.since for u in unfinished if u.since is not None), default=math.inf)
    open_to = sorted(
        (e for e in inventory.entries if e.last_used < claimed), key=lambda e: (bool(e.runs), e.last_used, e.key)
    )
    unused = [e for e in open_to if rules.unused and not e.runs and age(now, e.last_used) >= rules.older_than]
    excess = 0
    evicted: list[Entry] = []
    if rules.max_bytes is not None:
        excess = inventory.n_bytes - freed - sum(e.n_bytes for e in unused) - rules.max_bytes
        for entry in (e for e in open_to if e not in unused and (rules.force or not e.runs)):
            if excess <= 0:
                break
            evicted.append(entry)
            excess -= entry.n_bytes
    removals += [_of_entry(e, UNUSED) for e in unused] + [_of_entry(e, LEAST_RECENT) for e in evicted]
    return Plan(tuple(removals), max(0, excess), sum(e.last_used >= claimed for e in inventory.entries))


def _may_go(left: Leftover, rules: Rules, now: float) -> bool:
    if left.kind == TEMPORARY and left.folder is None:  # no lock tells whether it is being written
        return age(now, left.modified) >= rules.older_than
    return left.kind in (DAMAGED, TEMPORARY) or (left.kind == PARTIAL and age(now, left.modified) >= rules.older_than)


def _of_entry(entry: Entry, why: str) -> Removal:
    return Removal(entry.folder, entry.n_bytes, why, entry.last_used, entry.folder, bool(entry.runs))


def carry_out(plan: Plan, inventory: Inventory) -> Outcome:
    """Remove what the plan says, each under its lock and only if unused since; then the locks that guard nothing.

    Raises ``InputError`` when the cache cannot be written.
    """
    outcome = Outcome()
    with storing("bench cache gc", inventory.root):
        for removal in plan.removals:
            (outcome.removed if _remove(removal) else outcome.busy).append(removal)
        for left in inventory.leftovers:
            if left.kind == LOCK and left.folder is not None:
                outcome.locks += _remove_lock(left.folder)
    return outcome


def _remove(removal: Removal) -> bool:
    if removal.folder is None:
        return _delete(removal)
    with _held(removal.folder) as held:
        return held and _delete(removal)


def _delete(removal: Removal) -> bool:
    """Delete what nobody changed or used since the plan was made."""
    path = removal.path
    is_entry = path == removal.folder
    if (last_used(path) if is_entry else modified(path)) != removal.seen:
        return False
    try:
        if is_entry:
            discard(path)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:  # another collector was faster
        return False
    return True


def _remove_lock(folder: Path) -> bool:
    """Delete a lock file with nothing beside it. It is held meanwhile, and a process that waits for it sees it go."""
    with _held(folder) as held:
        alone = held and list(folder.parent.glob(f"{folder.name}*")) == [lock_path(folder)]
        if alone:
            lock_path(folder).unlink()
        return alone


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether the lock of an entry could be had at once; held inside if so."""
    lock = FileLock(lock_path(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
