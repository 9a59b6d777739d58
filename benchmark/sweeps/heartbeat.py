"""Is the worker of a running trial alive? Kernel locks for journals, the database's clock for databases.

Neither compares clocks of two machines. A journal's workers each hold a lock on a file beside it, which the kernel
releases when they end in whatever way; this needs a file system whose locks work on every machine that shares it. A
database is told every few seconds that a trial is being worked on, and compares with its own clock.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sidbench.benchmark.sweeps.trial_states import DIED, OWNER, REASON

ORPHAN_SECONDS = 60.0  # a trial that stays without a worker for so long lost it between its creation and its start


def worker_name() -> str:
    """A name that no other worker has."""
    return f"{platform.node() or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Heartbeat(Protocol):
    """Tells the others that this worker lives, and marks the trials of dead ones as failed."""

    worker: str

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Inside, this worker counts as alive."""
        yield

    @contextmanager
    def working(self, trial_id: int) -> Iterator[None]:
        """Inside, this worker works on a trial."""
        yield

    def bury(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        """Mark running trials of dead workers as failed; returns how many."""


def fail(storage: BaseStorage, trial: FrozenTrial, reason: str) -> bool:
    """Mark a running trial as failed; False when another process was faster."""
    try:
        storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        return storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False


class Orphans:
    """Running trials without a worker, judged by how long this process has seen them so."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._seen = seconds, dict[int, float]()

    def bury(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        """Mark those seen for long enough as failed; they never began, so no attempt is spent."""
        now = time.monotonic()
        current = {t.number: t for t in trials if t.state == TrialState.RUNNING and OWNER not in t.user_attrs}
        self._seen = {number: self._seen.get(number, now) for number in current}
        return sum(
            fail(study._storage, current[n], "no worker began it")
            for n, since in self._seen.items()
            if now - since >= self._seconds
        )


class LockLiveness:
    """Heartbeat by a lock file of each worker in ``folder``."""

    def __init__(self, folder: Path, orphan_seconds: float) -> None:
        self.worker = worker_name()
        self._folder, self._orphans = folder, Orphans(orphan_seconds)

    def _lock(self, worker: str) -> FileLock:
        return FileLock(str(self._folder / f"{Path(worker).name}.lock"))

    @contextmanager
    def alive(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = self._lock(self.worker)
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def working(self, trial_id: int) -> Iterator[None]:
        yield

    def bury(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        dead = [
            t
            for t in trials
            if t.state == TrialState.RUNNING and OWNER in t.user_attrs and not self._lives(str(t.user_attrs[OWNER]))
        ]
        return sum(fail(study._storage, trial, DIED) for trial in dead) + self._orphans.bury(study, trials)

    def _lives(self, worker: str) -> bool:
        if worker == self.worker:
            return True
        lock = self._lock(worker)
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(timeout=0):
                Path(lock.lock_file).unlink(missing_ok=True)
        except Timeout:
            return True
        return False


class BeatLiveness:
    """Heartbeat by Optuna's heartbeat table of a database."""

    def __init__(self, storage: BaseStorage, beat_seconds: float, orphan_seconds: float) -> None:
        self.worker = worker_name()
        self._storage, self._seconds, self._orphans = storage, beat_seconds, Orphans(orphan_seconds)

    @contextmanager
    def alive(self) -> Iterator[None]:
        yield

    @contextmanager
    def working(self, trial_id: int) -> Iterator[None]:
        storage, over = self._storage, threading.Event()
        if not isinstance(storage, BaseHeartbeat):
            yield
            return

        def beat() -> None:
            while not over.wait(self._seconds):
                storage.record_heartbeat(trial_id)

        storage.record_heartbeat(trial_id)
        thread = threading.Thread(target=beat, daemon=True, name="sweep heartbeat")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=self._seconds)

    def bury(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(study)
        return self._orphans.bury(study, trials)


def heartbeat_of(
    storage: BaseStorage, folder: Path, beat_seconds: float, orphan_seconds: float = ORPHAN_SECONDS
) -> Heartbeat:
    """How workers of a study in ``storage`` see each other; ``folder``: of the lock files beside a journal."""
    if isinstance(storage, RDBStorage):
        return BeatLiveness(storage, beat_seconds, orphan_seconds)
    return LockLiveness(folder, orphan_seconds)
