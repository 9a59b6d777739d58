"""What lies in the cache: whole entries with the runs that need them, and what running or killed commands left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench.benchmark.store.cache_entries import KEY, MANIFEST
from sidbench.benchmark.store.maintenance.units import modified, path_bytes
from sidbench.benchmark.store.paths import RECORD_NAME

PARTIAL, DAMAGED, TEMPORARY, LOCK, INDEX, FOREIGN = "partial", "damaged", "temporary", "lock", "index", "foreign"
INDEX_FOLDER = "dataset-index"
_BESIDE = re.compile(rf"({KEY.pattern})\.(partial|tmp|gone|lock|damaged-\d+)")
_KINDS = {"partial": PARTIAL, "tmp": TEMPORARY, "gone": TEMPORARY, "lock": LOCK}


@dataclass(frozen=True)
class Needs:
    """Which cached stages the records of finished runs were made from.

    runs: stage key -> ids of the runs. unreadable: records whose needs are unknown.
    """

    runs: Mapping[str, tuple[str, ...]]
    unreadable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A finished stage. last_used: seconds since the epoch. runs: ids of the runs that need it."""

    stage: str
    key: str
    folder: Path
    n_bytes: int
    last_used: float
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leftover:
    """What is no entry: of one of the kinds above. folder: the place of its entry, whose lock guards it; None for files
    without one. modified: seconds since the epoch."""

    kind: str
    path: Path
    n_bytes: int
    modified: float
    folder: Path | None = None


@dataclass(frozen=True)
class Inventory:
    """A cache at one moment."""

    root: Path
    entries: tuple[Entry, ...] = ()
    leftovers: tuple[Leftover, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Everything below the root."""
        return sum(e.n_bytes for e in self.entries) + sum(o.n_bytes for o in self.leftovers)


def record_needs(home: Path) -> Needs:
    """What every record of a home needs (``<home>/runs/<run>/record.json`` and other folders of runs beside it), also
    those of another schema, as far as they name their stages."""
    needed: dict[str, list[str]] = {}
    unreadable = []
    for path in sorted(home.glob(f"*/[!.]*/{RECORD_NAME}")):
        try:
            keys = [str(stage["key"]) for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]]
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(path)
            continue
        for key in keys:
            needed.setdefault(key, []).append(path.parent.name)
    return Needs({key: tuple(ids) for key, ids in needed.items()}, tuple(unreadable))


def take_inventory(root: Path, needs: Needs) -> Inventory:
    """Everything below the cache folder ``root``, in the order of its names; empty where there is none."""
    entries: list[Entry] = []
    leftovers: list[Leftover] = []
    for place in sorted(root.iterdir()) if root.is_dir() else []:
        if not place.is_dir() or place.is_symlink():
            leftovers.append(_leftover(FOREIGN, place))
            continue
        for path in sorted(place.iterdir()):
            if KEY.fullmatch(path.name) and path.is_dir():
                entries.append(
                    Entry(place.name, path.name, path, path_bytes(path), last_used(path), needs.runs.get(path.name, ()))
                )
            else:
                leftovers.append(_beside(path))
    return Inventory(root, tuple(entries), tuple(leftovers))


def last_used(folder: Path) -> float:
    """Seconds since the epoch of the last use of an entry; of its folder's last change where it has no manifest."""
    return modified(folder / MANIFEST) or modified(folder)


def _beside(path: Path) -> Leftover:
    found = _BESIDE.fullmatch(path.name)
    if found is not None:
        return _leftover(_KINDS.get(found[2], DAMAGED), path, path.with_name(found[1]))
    if path.parent.name == INDEX_FOLDER:
        return _leftover(TEMPORARY if path.suffix == ".tmp" else INDEX, path)
    return _leftover(FOREIGN, path)


def _leftover(kind: str, path: Path, folder: Path | None = None) -> Leftover:
    return Leftover(kind, path, path_bytes(path), modified(path), folder)


def per_stage(inventory: Inventory) -> Iterator[dict[str, Any]]:
    """One row per stage: entries, bytes, and the share that a record needs."""
    for stage in dict.fromkeys(e.stage for e in inventory.entries):
        own = [e for e in inventory.entries if e.stage == stage]
        needed = [e for e in own if e.runs]
        yield {
            "stage": stage,
            "entries": len(own),
            "bytes": sum(e.n_bytes for e in own),
            "needed_entries": len(needed),
            "needed_bytes": sum(e.n_bytes for e in needed),
        }
