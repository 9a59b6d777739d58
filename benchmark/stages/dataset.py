"""The dataset stage: raw files to a cached ``Dataset``, keyed by the bytes that were read.

Which files a plugin reads is known only after it has run, so a small index remembers them per (plugin, config, version,
places): as long as every remembered file still has its size and modification time, or else its SHA-256, the cached
dataset is used without parsing anything.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench.benchmark.plugins.identity import plugin_version
from sidbench.benchmark.store.serialization import load_dataset, save_dataset
from sidbench.benchmark.store.stage_cache import Stage, StageCache, Traced
from sidbench.datasets.base import Dataset, DatasetPlugin, FileLocator, check_dataset_values
from sidbench.datasets.foundation.files import write_whole
from sidbench.datasets.foundation.hashing import canonical_json, hash_file, hash_json


@dataclass(frozen=True)
class _SeenFile:
    path: str
    size: int
    modified: int
    sha256: str

    def unchanged(self) -> bool:
        """Same size and time, or same bytes."""
        try:
            stat = os.stat(self.path)
        except OSError:
            return False
        if stat.st_size != self.size:
            return False
        return stat.st_mtime_ns == self.modified or hash_file(Path(self.path)) == self.sha256


class RecordingLocator(FileLocator):
    """Passes requests on and remembers what was found and what was looked for in vain."""

    def __init__(self, inner: FileLocator) -> None:
        self.inner = inner
        self.found: dict[str, Path] = {}
        self.missing: list[tuple[str, tuple[str, ...]]] = []

    @property
    def may_download(self) -> bool:
        return self.inner.may_download

    def find(self, dataset: str, *names: str, required: bool = True) -> Path | None:
        path = self.inner.find(dataset, *names, required=required)
        if path is None:
            self.missing.append((dataset, names))
        else:
            self.found[str(path.resolve())] = path
        return path


def _files_below(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _seen(path: Path) -> _SeenFile:
    stat = path.stat()
    return _SeenFile(str(path.resolve()), stat.st_size, stat.st_mtime_ns, hash_file(path))


def _unchanged(index: dict[str, Any], locate: FileLocator) -> dict[str, Any] | None:
    """The entries "files" and "pictures" of the cache key, ``None`` unless all files still are what the index says.

    An index of another form, which only a stranger can have written, counts as none.
    """
    try:
        files = [_SeenFile(**f) for f in index["files"]]
        lost = [(str(dataset), [str(name) for name in names]) for dataset, names in index["missing"]]
        if not all(file.unchanged() for file in files):
            return None
        if any(locate.find(dataset, *names, required=False) for dataset, names in lost):
            return None
        return {"files": sorted(file.sha256 for file in files), "pictures": index["pictures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_index(path: Path) -> dict[str, Any] | None:
    """What ``_write_index`` wrote; ``None`` where there is none or it is damaged, which costs one more parse."""
    try:
        sealed = json.loads(path.read_text(encoding="utf-8"))
        index: dict[str, Any] = sealed["index"]
        return index if sealed["checksum"] == hash_json(index) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_index(path: Path, index: dict[str, Any]) -> None:
    write_whole(path, canonical_json({"index": index, "checksum": hash_json(index)}))


def dataset_stage(
    cache: StageCache, name: str, plugin: DatasetPlugin, locate: FileLocator, places: list[str]
) -> Traced[Dataset]:
    """The dataset ``name``, parsed at most once for the same bytes and config.

    places: the folders that ``locate`` searches; part of the index key only, never of the cache key.
    """
    identity = {"name": name, "config": plugin.config, "version": plugin_version("dataset", name)}
    index_path = cache.root / "dataset-index" / f"{hash_json({**identity, 'places': places})}.json"
    index = _read_index(index_path)
    known = None if index is None else _unchanged(index, locate)
    if known is not None:
        depends = {**identity, **known}
        return cache.trace(Stage("dataset", depends, lambda _: _parse(plugin, locate), save_dataset, load_dataset))
    recorder = RecordingLocator(locate)
    wall, cpu = time.perf_counter(), time.process_time()
    dataset = _parse(plugin, recorder)
    spent = (time.perf_counter() - wall, time.process_time() - cpu)
    extra = [
        p
        for f in vars(plugin.config).values()
        if isinstance(f, str) and os.sep in f and Path(f).exists()
        for p in _files_below(Path(f))
    ]
    seen = [_seen(p) for p in {str(p): p for p in [*recorder.found.values(), *extra]}.values()]
    # The place of the pictures belongs to the key: the same files moved elsewhere must not leave a stale path behind.
    pictures = None if dataset.catalog.image_root is None else str(dataset.catalog.image_root)
    depends = {**identity, "files": sorted(f.sha256 for f in seen), "pictures": pictures}
    value = cache.trace(Stage("dataset", depends, lambda _: dataset, save_dataset, load_dataset), already_spent=spent)
    try:
        _write_index(index_path, {"files": seen, "missing": recorder.missing, "pictures": pictures})
    except OSError as error:  # a store on a read-only disk is read all the same
        cache.reporter.line(
            f"dataset: its files are parsed again next time, since the index {index_path} could not be "
            f"written ({error.strerror})"
        )
    return value


def _parse(plugin: DatasetPlugin, locate: FileLocator) -> Dataset:
    return check_dataset_values(plugin.load(locate))
