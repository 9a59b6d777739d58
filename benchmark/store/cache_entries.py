"""How a cached stage lies on disk: the names around a key, the manifest, and how an entry leaves.

Beside the entry ``<stage>/<key>/`` there may be ``<key>.lock`` (who may write), ``<key>.partial`` (checkpoints of a
running stage), ``<key>.tmp`` (an entry being written), ``<key>.damaged-<n>`` (set aside) and ``<key>.gone`` (being
deleted). All but the lock are renamed or written under the lock. The manifest's modification time is the last use of the
entry: access times are switched off on many disks. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidbench.datasets.foundation.hashing import canonical_json, hash_file, hash_json
from sidbench.datasets.foundation.paths import leaves_folder

MANIFEST = "stage.json"
KEY = re.compile(r"[0-9a-f]{64}")
_SEAL = "checksum"
_NEEDED = frozenset({"cost", "files", "depends", "warnings", _SEAL})


def lock_path(folder: Path) -> Path:
    """The lock of an entry."""
    return folder.with_name(folder.name + ".lock")


def partial_folder(folder: Path) -> Path:
    """Where the checkpoints of a running stage lie."""
    return folder.with_name(folder.name + ".partial")


def temporary_folder(folder: Path) -> Path:
    """Where an entry is written before it counts."""
    return folder.with_name(folder.name + ".tmp")


def damaged_folder(folder: Path) -> Path:
    """The first free name to set a damaged entry aside under."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    return aside


def write_manifest(folder: Path, cost: Mapping[str, Any], depends: Mapping[str, Any], warnings: Sequence[str]) -> None:
    """Close an entry: what it cost, what it depends on, its warnings, and the SHA-256 of each of its files."""
    files = {p.relative_to(folder).as_posix(): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = json.loads(canonical_json({"cost": cost, "files": files, "depends": depends, "warnings": warnings}))
    (folder / MANIFEST).write_text(json.dumps({**manifest, _SEAL: hash_json(manifest)}, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an entry, without the checksum over itself.

    Raises ``OSError`` where there is none, ``ValueError`` when it is damaged.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.keys() != _NEEDED:
        raise ValueError(f"{MANIFEST} has not the fields of a manifest")
    files, warnings = manifest["files"], manifest["warnings"]
    if not (
        isinstance(manifest["cost"], dict)
        and isinstance(files, dict)
        and isinstance(warnings, list)
        and all(isinstance(text, str) for text in (*files.values(), *warnings))
    ):
        raise ValueError(f"{MANIFEST} has values of other types than a manifest")
    if any(leaves_folder(name) for name in manifest["files"]):
        raise ValueError(f"{MANIFEST} names files outside the entry")
    if manifest.pop(_SEAL) != hash_json(manifest):
        raise ValueError(f"{MANIFEST} does not match its checksum")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` naming the first file whose bytes are not those of the manifest, ``OSError`` for a lost one."""
    for name, digest in manifest["files"].items():
        if hash_file(folder / name) != digest:
            raise ValueError(f"{name} does not match its checksum")


def touch(folder: Path) -> None:
    """Remember that the entry was used now. A store that cannot be written is used all the same, only not remembered."""
    with suppress(OSError):
        os.utime(folder / MANIFEST)


def discard(folder: Path) -> None:
    """Delete a folder so that a reader finds all of it or nothing; the caller holds the lock.

    Raises ``OSError`` when the disk refuses. A process killed in the middle leaves ``.gone``, which counts for nothing.
    """
    gone = folder.with_name(folder.name + ".gone")
    if gone.exists():
        shutil.rmtree(gone)
    os.replace(folder, gone)
    shutil.rmtree(gone)
