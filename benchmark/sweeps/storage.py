"""Where studies live: a journal file below ``$SIDBENCH_HOME/sweeps``, or a database given by URL.

Both survive ``kill -9``. The journal's lock is the kernel's (released with the process, so no grace period is guessed),
and a line that a killed writer left unfinished is cut off by the next one. A database that goes away for a while, as in
a restart, is waited for.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
)

from sidbench.benchmark.store.paths import home_folder
from sidbench.datasets.foundation.errors import InputError, StageError

JOURNAL = "journal.log"
BEAT_SECONDS = 20
PATIENCE_SECONDS = 180.0  # how long an unreachable database is waited for
CONNECT_TRIES = 5
# The driver of a URL that names none, and how to get it.
DRIVERS = {
    "postgresql": ("psycopg2", "pip install 'sidbench[postgresql]'"),
    "mysql": ("pymysql", "pip install 'sidbench[mysql]'"),
}
T = TypeVar("T")


def sweeps_folder() -> Path:
    """The folder of journal studies: ``<home>/sweeps/<name>/journal.log``."""
    return home_folder() / "sweeps"


class KernelLock(BaseJournalFileLock):
    """The journal's lock by ``flock``: the kernel releases it when its process ends, however it ends.

    Whoever gets it first mends the journal. A writer that was killed may have left half a line; the next line would be
    glued to it and the file could not be read any more.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._lock = journal, FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        mend(self._journal)
        return True

    def release(self) -> None:
        self._lock.release()


def mend(path: Path) -> None:
    """Cut off what stands behind the last line end of a file; the caller holds its lock.

    That was part of an entry that nobody was told of.
    """
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65_536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _transient(error: StorageInternalError) -> bool:
    """Whether waiting may help: the connection broke, or the database is starting, stopping or busy."""
    cause = error.__cause__
    # PendingRollbackError: the connection broke between two statements of one transaction, which is gone with it.
    return isinstance(cause, (OperationalError, InterfaceError, PendingRollbackError)) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def _patient(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> T:
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, 0.1
        while True:
            try:
                return method(*args, **kwargs)
            except StorageInternalError as error:
                if not _transient(error):
                    raise
                if time.monotonic() > deadline:
                    raise StageError(
                        f"the sweep's database did not answer for {PATIENCE_SECONDS:.0f} s "
                        f"({error.__cause__}). To do: start it and run the same command again; nothing is "
                        "lost."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    return call


class PatientStorage(RDBStorage):
    """A database storage whose every operation is repeated while the database cannot be reached.

    An operation may have been carried out although its answer was lost. All of them may be repeated: they set values. Only
    a new trial can be made twice; the first one then has no worker and is picked up as an orphan.
    """


for _name in (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "_get_best_trial_id",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "_get_trials",
    "record_heartbeat",
    "_get_stale_trial_ids",
):
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def journal_storage(name: str, create: bool = True) -> JournalStorage:
    """The journal of the study ``name``. Raises ``InputError`` where it cannot be written."""
    path = sweeps_folder() / name / JOURNAL
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), KernelLock(path)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"journal of the sweep {name}",
            got=f"{type(error).__name__}: {error}",
            wanted=f"a journal that this user can read and write, {path}",
            do="set SIDBENCH_HOME to a writable folder, or restore the file",
        ) from error


def database_storage(text: str, beat_seconds: int = BEAT_SECONDS) -> RDBStorage:
    """The database at a URL. Raises ``InputError`` for an unknown kind, a missing driver or no connection."""
    try:
        url = make_url(text)
        kind = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError(
            "--storage",
            got=repr(text.partition("@")[2] or text),
            wanted="a database URL such as sqlite:///study.db or postgresql://user@host/name",
            do="leave it out for a journal file",
        ) from error
    if url.drivername in DRIVERS:
        url = url.set(drivername=f"{kind}+{DRIVERS[kind][0]}")
    shown = url.render_as_string(hide_password=True)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        options["connect_args"] = {"timeout": PATIENCE_SECONDS}
    try:
        return _connect(url.render_as_string(hide_password=False), options, beat_seconds)
    except (ImportError, NoSuchModuleError) as error:
        driver, do = DRIVERS.get(kind, (kind, "install its driver"))
        raise InputError(f"--storage {shown}", got="no driver for it", wanted=driver, do=do) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise InputError(
            f"--storage {shown}",
            got=str(error).partition("\n")[0],
            wanted="a database that answers",
            do="check that it runs, its name and the user's rights",
        ) from error


def _connect(url: str, options: dict[str, Any], beat_seconds: int) -> RDBStorage:
    """Connect, and make the tables of a new database; several workers may try that at the same time."""
    tries = 0
    while True:
        tries += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return PatientStorage(url, engine_kwargs=options, heartbeat_interval=beat_seconds)
        except (ProgrammingError, IntegrityError, OperationalError, StorageInternalError):
            if tries == CONNECT_TRIES:
                raise
            time.sleep(0.5)


def open_storage(url: str, name: str) -> BaseStorage:
    """The storage of a study: the database at ``url``, or the journal of ``name`` where ``url`` is empty."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return database_storage(url) if url else journal_storage(name)
