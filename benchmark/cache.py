"""The stage cache: a stage's result under the hash of everything it depends on.

An entry is a folder, written to a temporary sibling and renamed, so that it exists whole or not at all. A lock per
key keeps two commands from computing the same thing twice. Checkpoints of a running stage live in ``<key>.partial``
and survive ``kill -9``. An entry whose bytes no longer match its manifest is set aside and computed again.

Of the processes of one command only the leader locks, decides and writes; the others read what it wrote, on a disk that
all of them share.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout

from sidbench.benchmark.progress import Reporter
from sidbench.benchmark.records import StageRecord
from sidbench.benchmark.team import Team
from sidbench.datasets.foundation.errors import InputError, SidbenchError, StageError
from sidbench.datasets.foundation.hashing import canonical_json, hash_file, hash_json

MANIFEST = "stage.json"
LOCK_LINE_SECONDS = 5.0
READ, COMPUTE = "read", "compute"  # what the leader tells the others to do
T = TypeVar("T")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A pure computation and how its value is kept.

    name: "tokenizer", "behaviour", ... depends: everything the value depends on (JSON-able; upstream keys, config,
    seed, code). compute: given a folder for checkpoints, the value. save / load: to and from an entry folder.
    by_all: all processes of a command compute it together; else the leader does and the others wait.
    """

    name: str
    depends: dict[str, Any]
    compute: Callable[[Path], T]
    save: Callable[[T, Path], None]
    load: Callable[[Path], T]
    by_all: bool = False

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of (name, depends)."""
        return hash_json({"stage": self.name, "depends": self.depends})


def peak_memory_bytes() -> int:
    """Peak resident size of this process so far, in bytes (0 where the platform does not tell)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _partial(folder: Path) -> Path:
    """Where the checkpoints of a running stage lie."""
    return folder.with_name(folder.name + ".partial")


class StageCache:
    """Stages under one root folder.

    refresh: compute every stage anew, once each, and replace what is cached. team: the processes of this command.
    """

    def __init__(self, root: Path, reporter: Reporter, refresh: bool = False, team: Team | None = None) -> None:
        self.root, self.reporter, self.refresh, self.team = root, reporter, refresh, team or Team()
        self.stages: list[StageRecord] = []
        self._fresh: set[str] = set()

    def folder(self, stage: Stage[Any]) -> Path:
        """Where the entry of ``stage`` lies or will lie."""
        return self.root / stage.name / stage.key

    def run(self, stage: Stage[T], already_spent: tuple[float, float] = (0.0, 0.0)) -> T:
        """The stage's value: read if present and intact, else computed, saved and returned.

        already_spent: wall and CPU seconds of work done before the key could be known (parsing raw files).

        Raises ``InputError`` when the cache cannot be written, ``StageError`` when the disk is full or the stage fails.
        """
        folder = self.folder(stage)
        return self.team.together(lambda: self._lead(stage, folder, already_spent) if self.team.leads
                                  else self._follow(stage, folder))

    def _lead(self, stage: Stage[T], folder: Path, already_spent: tuple[float, float]) -> T:
        if (found := self._read(stage, folder)) is not None:
            self.team.say(READ)
            return found[0]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(folder) + ".lock")
            self._acquire(lock, stage)
        except OSError as error:
            raise self._unwritable(folder, error) from error
        try:
            if (found := self._read(stage, folder)) is not None:  # another command finished it while we waited
                self.team.say(READ)
                return found[0]
            value = self._compute(stage, folder, already_spent)
            self.team.say(READ)
            return value
        finally:
            lock.release()

    def _follow(self, stage: Stage[T], folder: Path) -> T:
        """What the leader read or wrote; computed here too where all processes are needed for it."""
        if self.team.say(None) == COMPUTE:
            if stage.by_all:
                stage.compute(_partial(folder))
            self.team.say(None)  # the leader has written it
        try:
            return stage.load(folder)
        except (OSError, ValueError, KeyError) as error:
            raise StageError(f"{stage.name}: process {self.team.rank} cannot read what the leader wrote to {folder} "
                             f"({error}). To do: put SIDBENCH_HOME on a disk that all machines of this command "
                             "share.") from error

    def _acquire(self, lock: FileLock, stage: Stage[Any]) -> None:
        try:
            lock.acquire(timeout=LOCK_LINE_SECONDS)
        except Timeout:
            self.reporter.line(f"{stage.name}: another process is computing this stage; waiting for it")
            lock.acquire()

    def _read(self, stage: Stage[T], folder: Path) -> tuple[T] | None:
        if self.refresh and stage.key not in self._fresh:
            return None
        manifest_path = folder / MANIFEST
        if not manifest_path.exists():
            return None
        try:
            manifest = json.loads(manifest_path.read_text())
            for name, digest in manifest["files"].items():
                if hash_file(folder / name) != digest:
                    raise ValueError(f"{name} does not match its checksum")
            value = stage.load(folder)
        except (OSError, ValueError, KeyError, SidbenchError) as error:
            self._set_aside(stage, folder, error)
            return None
        self.stages.append(StageRecord(cached=True, **manifest["cost"]))
        for warning in manifest["warnings"]:
            self.reporter.warn(warning)
        return (value,)

    def _set_aside(self, stage: Stage[Any], folder: Path, error: Exception) -> None:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
            number += 1
        try:
            os.replace(folder, aside)
        except OSError as failure:
            raise self._unwritable(folder, failure) from failure
        self.reporter.warn(f"cache entry of stage {stage.name} was damaged ({error}); it is set aside as {aside.name} "
                           "and computed again")

    def _compute(self, stage: Stage[T], folder: Path, already_spent: tuple[float, float]) -> T:
        partial, temporary = _partial(folder), folder.with_name(folder.name + ".tmp")
        known = list(self.reporter.warnings)
        self.reporter.line(f"{stage.name}: computing")
        wall, cpu = time.perf_counter() - already_spent[0], time.process_time() - already_spent[1]
        if self.refresh:
            shutil.rmtree(partial, ignore_errors=True)  # a checkpoint of an earlier attempt would not be anew
        try:
            self.team.say(COMPUTE)
            with nullcontext() if stage.by_all else self.team.solo():
                value = stage.compute(partial)
            cost = StageRecord(name=stage.name, key=stage.key, cached=False, wall_seconds=time.perf_counter() - wall,
                               cpu_seconds=time.process_time() - cpu, peak_memory_bytes=peak_memory_bytes())
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            stage.save(value, temporary)
            files = {p.relative_to(temporary).as_posix(): hash_file(p)
                     for p in sorted(temporary.rglob("*")) if p.is_file()}
            manifest = {"cost": cost.model_dump(exclude={"cached"}), "files": files,
                        "depends": json.loads(canonical_json(stage.depends)),
                        "warnings": [w for w in self.reporter.warnings if w not in known]}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
            if folder.exists():  # refresh: the lock is ours, nobody computes; a reader finds the old entry or none
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                shutil.rmtree(temporary, ignore_errors=True)
                raise StageError(f"{stage.name}: the disk of {folder.parent} is full ({error.strerror}); finished stages "
                                 "are kept. To do: free space or set SIDBENCH_HOME to another disk, then run the same "
                                 "command again.") from error
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise self._unwritable(folder, error) from error
            raise
        shutil.rmtree(partial, ignore_errors=True)
        self._fresh.add(stage.key)
        self.stages.append(cost)
        self.reporter.line(f"{stage.name}: done in {cost.wall_seconds:.1f} s")
        return value

    def _unwritable(self, folder: Path, error: OSError) -> InputError:
        return InputError(f"cache folder {self.root}", got=f"{error.strerror} while writing {folder.name[:12]}…",
                          wanted="a folder this user can write", do="set SIDBENCH_HOME to a writable folder")
