"""`bench cache verify`: every entry read in full and compared with its manifest, and what is damaged set aside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from filelock import FileLock

from sidbench.benchmark.store.cache_entries import check_files, damaged_folder, lock_path, read_manifest
from sidbench.benchmark.store.maintenance.inventory import Entry, Inventory
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.hashing import hash_json


@dataclass(frozen=True)
class Damage:
    """An entry that is not what its manifest says, and why."""

    entry: Entry
    reason: str


def verify(inventory: Inventory) -> list[Damage]:
    """Every damaged entry; one that another process replaces or evicts meanwhile is none."""
    found = []
    for entry in inventory.entries:
        reason = _damage(entry)
        if reason and entry.folder.exists() and (reason := _damage(entry)):
            found.append(Damage(entry, reason))
    return found


def _damage(entry: Entry) -> str:
    """Why an entry is damaged; empty when it is not."""
    try:
        manifest = read_manifest(entry.folder)
        if hash_json({"stage": entry.stage, "depends": manifest["depends"]}) != entry.key:
            return "its manifest belongs to another key"
        check_files(entry.folder, manifest)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def set_aside(damages: Sequence[Damage], inventory: Inventory) -> None:
    """Rename every damaged entry, so that the next run computes it again; `bench cache gc` deletes it.

    Waits for processes that hold an entry. Raises ``InputError`` when the cache cannot be written.
    """
    with storing("bench cache verify --repair", inventory.root):
        for damage in damages:
            with FileLock(lock_path(damage.entry.folder)):
                if damage.entry.folder.exists() and _damage(damage.entry):
                    os.replace(damage.entry.folder, damaged_folder(damage.entry.folder))
