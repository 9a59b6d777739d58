"""One run in a process of its own: the command `bench run` for exactly this run, wherever that process is started.

What travels to a worker is text (`Work` as JSON), and what comes back is text (`Exit` as JSON); the record itself is read
from the store, which all workers share. Standard error of a worker goes to ``<home>/logs/<run id>.log``, every start
headed by a line of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

PARENT = "SIDBENCH_WORKER_OF"  # process id of the process that started this worker
_HEAD = "=== "
_PARENT_SECONDS = 1.0  # how often a worker looks whether its parent is alive
_GRACE_SECONDS = 15.0  # time to write a checkpoint after an interrupt


@dataclass(frozen=True)
class Work:
    """One run for a worker.

    run_id: of its record. words: the arguments of ``bench``. environment: variables to set. folder: working folder, which
    relative paths in settings start from. log: file for standard error.
    """

    run_id: str
    words: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    log: str

    def dumps(self) -> str:
        return json.dumps(vars(self))

    @staticmethod
    def loads(text: str) -> Work:
        raw = json.loads(text)
        return Work(**{**raw, "words": tuple(raw["words"])})


@dataclass(frozen=True)
class Exit:
    """How a worker ended. code: exit code, negative for a signal. output: its standard output, one JSON object."""

    code: int
    output: str

    @property
    def signal_name(self) -> str:
        """The signal that killed the worker ("SIGKILL"), "" when it ended by itself."""
        if self.code >= 0:
            return ""
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"


@dataclass
class Started:
    """A worker that runs."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def exit(self) -> Exit | None:
        """How it ended; ``None`` while it runs."""
        if self.process.poll() is None:
            return None
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.output.close()
        return Exit(self.process.returncode, text)

    def interrupt(self) -> None:
        """Ask it to stop; it writes a checkpoint first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def end(self, deadline: float) -> None:
        """Wait until ``deadline`` (monotonic seconds), then kill it."""
        try:
            self.process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()


def grace_ends() -> float:
    """Until when interrupted workers may write their checkpoints, in monotonic seconds."""
    return time.monotonic() + _GRACE_SECONDS


def start(work: Work) -> Started:
    """Start the worker's process, in a session of its own so that a terminal's Ctrl-C reaches it through us alone."""
    log = Path(work.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker, see Started
    with log.open("a", encoding="utf-8") as errors:
        errors.write(f"{_HEAD}{datetime.now(UTC).isoformat(timespec='seconds')} {socket.gethostname()}\n")
        errors.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "sidbench.benchmark.cli.app", *work.words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=work.folder,
            env={**os.environ, **work.environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )
    return Started(process, output)


def execute(text: str) -> str:
    """`Work` as JSON in, `Exit` as JSON out: the whole life of one worker. Runs on whatever machine calls it."""
    started = start(Work.loads(text))
    try:
        started.process.wait()
        done = started.exit()
    finally:
        started.interrupt()
        started.end(grace_ends())
    return json.dumps(vars(done))


class Requeued:
    """`execute` for Slurm: a job that is preempted or runs out of time is queued again and goes on from its cached
    stages and checkpoints."""

    def __call__(self, text: str) -> str:
        return execute(text)

    def checkpoint(self, text: str) -> Any:
        """What submitit queues in place of a job that is stopped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, text)


def starts(log: Path) -> int:
    """How often a worker was started, as its log tells."""
    try:
        return sum(line.startswith(_HEAD) for line in log.read_text(encoding="utf-8", errors="replace").splitlines())
    except FileNotFoundError:
        return 0


def last_line(log: Path) -> str:
    """The last line that the worker wrote, "" when it wrote none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(_HEAD)), "")


def end_with_parent() -> None:
    """In a worker: stop soon after the process that started it is gone, so that nothing runs on unseen.

    Interrupts are listened to again: what a script starts in the background (``nohup bench run … &``) inherits that they
    are ignored, and a worker that is asked to stop would be killed without its checkpoint.
    """
    if (text := os.environ.pop(PARENT, "")).isdigit():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_watch, args=(int(text),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
