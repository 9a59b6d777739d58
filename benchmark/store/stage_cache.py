"""The stage cache: a stage's result under the hash of everything it depends on.

An entry is a folder, written to a temporary sibling and renamed, so that it exists whole or not at all. A lock per
key keeps two commands from computing the same thing twice. Checkpoints of a running stage live in ``<key>.partial``
and survive ``kill -9``. An entry whose bytes no longer match its manifest is set aside and computed again. Entries are
replaced and evicted under their lock by a rename, so a reader without the lock finds a whole entry or none; a store on a
read-only disk can be read.

Of the processes of one command only the leader locks, decides and writes; the others read what it wrote, on a disk that
all of them share.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout

from sidbench.benchmark.runtime.process_group import ProcessGroup
from sidbench.benchmark.runtime.reporter import Notes, Reporter
from sidbench.benchmark.store.cache_entries import (
    check_files,
    damaged_folder,
    discard,
    lock_path,
    partial_folder,
    read_manifest,
    temporary_folder,
    touch,
    write_manifest,
)
from sidbench.benchmark.store.records import StageRecord
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import SidbenchError, StageError
from sidbench.datasets.foundation.hashing import hash_json

LOCK_LINE_SECONDS = 5.0
READ, COMPUTE = "read", "compute"  # what the leader tells the others to do
T = TypeVar("T")


@dataclass(frozen=True)
class Traced(Generic[T]):
    """A value with what a record says of its making: the warnings, and the cost of each stage behind it."""

    value: T
    warnings: tuple[str, ...] = ()
    stages: tuple[StageRecord, ...] = ()

    def again(self) -> Traced[T]:
        """The same value for another run, which computes nothing for it."""
        return replace(self, stages=tuple(stage.model_copy(update={"cached": True}) for stage in self.stages))


def traces(parts: Iterable[Traced[Any]]) -> tuple[tuple[str, ...], tuple[StageRecord, ...]]:
    """Warnings and costs of several values, in their order."""
    all_parts = list(parts)
    return tuple(w for part in all_parts for w in part.warnings), tuple(s for part in all_parts for s in part.stages)


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A pure computation and how its value is kept.

    name: "tokenizer", "behaviour", ... depends: everything the value depends on (JSON-able; upstream keys, config,
    seed, code). compute: given a folder for checkpoints, the value, traced where warnings belong to it. save / load: to
    and from an entry folder. by_all: all processes of a command compute it together; else the leader does and the others
    wait.
    """

    name: str
    depends: dict[str, Any]
    compute: Callable[[Path], T | Traced[T]]
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


class StageCache:
    """Stages under one root folder.

    reporter: where progress and warnings are shown. refresh: compute every stage anew, once each, and replace what is
    cached. process_group: the processes of this command.
    """

    def __init__(
        self, root: Path, reporter: Reporter, refresh: bool = False, process_group: ProcessGroup | None = None
    ) -> None:
        self.root, self.refresh, self.process_group = root, refresh, process_group or ProcessGroup()
        self.reporter = Notes(reporter)  # a warning of several stages is shown once
        self._fresh: set[str] = set()

    def folder(self, stage: Stage[Any]) -> Path:
        """Where the entry of ``stage`` lies or will lie."""
        return self.root / stage.name / stage.key

    def run(self, stage: Stage[T], already_spent: tuple[float, float] = (0.0, 0.0)) -> T:
        """The value of ``trace``, where nobody asks for its warnings and cost."""
        return self.trace(stage, already_spent).value

    def trace(self, stage: Stage[T], already_spent: tuple[float, float] = (0.0, 0.0)) -> Traced[T]:
        """The stage's value: read if present and intact, else computed, saved and returned; with the warnings that belong
        to it, also when they were said long ago, and its cost.

        already_spent: wall and CPU seconds of work done before the key could be known (parsing raw files).

        Raises ``InputError`` when the cache cannot be written, ``StageError`` when the disk is full or the stage fails.
        """
        folder = self.folder(stage)
        return self.process_group.together(
            lambda: (
                self._lead(stage, folder, already_spent)
                if self.process_group.is_main_process
                else self._follow(stage, folder)
            )
        )

    def _lead(self, stage: Stage[T], folder: Path, already_spent: tuple[float, float]) -> Traced[T]:
        if isinstance(found := self._read(stage, folder), Traced):
            self.process_group.broadcast(READ)
            return found
        with storing(f"stage {stage.name}", self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(lock_path(folder))
            self._acquire(lock, stage)
        try:
            # Another command may have finished it while we waited; what cannot be read now is damaged.
            found, damage = self._read(stage, folder), ""
            if isinstance(found, Exception) and folder.exists():
                damage = self._set_aside(stage, folder, found)
            if not isinstance(found, Traced):
                found = self._compute(stage, folder, already_spent)
            self.process_group.broadcast(READ)
            return replace(found, warnings=(damage, *found.warnings)) if damage else found
        finally:
            lock.release()

    def _follow(self, stage: Stage[T], folder: Path) -> Traced[T]:
        """What the leader read or wrote; computed here too where all processes are needed for it."""
        if self.process_group.broadcast(None) == COMPUTE:
            if stage.by_all:
                stage.compute(partial_folder(folder))
            self.process_group.broadcast(None)  # the leader has written it
        try:
            return Traced(stage.load(folder))  # the leader alone writes records
        except (OSError, ValueError, KeyError) as error:
            raise StageError(
                f"{stage.name}: process {self.process_group.rank} cannot read what the leader wrote to {folder} "
                f"({error}). To do: put SIDBENCH_HOME on a disk that all machines of this command "
                "share."
            ) from error

    def _acquire(self, lock: FileLock, stage: Stage[Any]) -> None:
        try:
            lock.acquire(timeout=LOCK_LINE_SECONDS)
        except Timeout:
            self.reporter.line(f"{stage.name}: another process is computing this stage; waiting for it")
            lock.acquire()

    def _read(self, stage: Stage[T], folder: Path) -> Traced[T] | Exception | None:
        """The value of an intact entry, else why it cannot be read; ``None`` where it is not to be read. Only under the
        lock is what cannot be read known to be damaged: without it, another process may be replacing or evicting the
        entry just now."""
        if self.refresh and stage.key not in self._fresh:
            return None
        try:
            manifest = read_manifest(folder)
            check_files(folder, manifest)
            cost = StageRecord(cached=True, **manifest["cost"])
            value = stage.load(folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SidbenchError) as error:  # other shapes inside
            return error
        touch(folder)
        return Traced(value, self._shown(manifest["warnings"]), (cost,))

    def _shown(self, warnings: Sequence[str]) -> tuple[str, ...]:
        for warning in warnings:
            self.reporter.warn(warning)
        return tuple(warnings)

    def _set_aside(self, stage: Stage[Any], folder: Path, error: Exception) -> str:
        """Move a damaged entry out of the way; returns the warning."""
        aside = damaged_folder(folder)
        with storing(f"damaged cache entry of stage {stage.name}", self.root):
            os.replace(folder, aside)
        warning = (
            f"cache entry of stage {stage.name} was damaged ({error}); it is set aside as {aside.name} and computed again"
        )
        self.reporter.warn(warning)
        return warning

    def _compute(self, stage: Stage[T], folder: Path, already_spent: tuple[float, float]) -> Traced[T]:
        partial, temporary = partial_folder(folder), temporary_folder(folder)
        self.reporter.line(f"{stage.name}: computing")
        wall, cpu = time.perf_counter() - already_spent[0], time.process_time() - already_spent[1]
        if self.refresh:
            shutil.rmtree(partial, ignore_errors=True)  # a checkpoint of an earlier attempt would not be anew
        with storing(f"stage {stage.name}", self.root):
            try:
                self.process_group.broadcast(COMPUTE)
                with nullcontext() if stage.by_all else self.process_group.solo():
                    made = stage.compute(partial)
                value, warnings = (made.value, made.warnings) if isinstance(made, Traced) else (made, ())
                cost = StageRecord(
                    name=stage.name,
                    key=stage.key,
                    cached=False,
                    wall_seconds=time.perf_counter() - wall,
                    cpu_seconds=time.process_time() - cpu,
                    peak_memory_bytes=peak_memory_bytes(),
                )
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                stage.save(value, temporary)
                write_manifest(temporary, cost.model_dump(exclude={"cached"}), stage.depends, list(warnings))
                if folder.exists():  # refresh
                    discard(folder)
                os.replace(temporary, folder)
            except Exception:
                shutil.rmtree(temporary, ignore_errors=True)  # half an entry must not keep a full disk full
                raise
        shutil.rmtree(partial, ignore_errors=True)
        self._fresh.add(stage.key)
        self.reporter.line(f"{stage.name}: done in {cost.wall_seconds:.1f} s")
        return Traced(value, self._shown(warnings), (cost,))
