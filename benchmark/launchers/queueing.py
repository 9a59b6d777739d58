"""What the launchers with workers share: which runs need one, what a worker is given, and how its end is judged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidbench.benchmark.launchers.base import LaunchSettings, Outcome
from sidbench.benchmark.launchers.worker import Exit, Work, last_line, starts
from sidbench.benchmark.runs.command_line import arguments, repeat_command
from sidbench.benchmark.runs.grid import spread
from sidbench.benchmark.runs.plan import look_up, plan_run
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Notes, Reporter
from sidbench.benchmark.stages.shared import SharedData
from sidbench.benchmark.store.failures import Failure, cause, write_note
from sidbench.benchmark.store.paths import RECORD_NAME, home_folder, runs_folder
from sidbench.benchmark.store.records import read_record
from sidbench.datasets.foundation.errors import InputError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
_PASSED_ON = ("SIDBENCH_HOME", "SIDBENCH_DATA")


@dataclass(frozen=True)
class Task:
    """A run that needs a worker, and what the worker is given. before: starts that its log tells of already."""

    spec: RunSpec
    work: Work
    before: int


def tasks(specs: Sequence[RunSpec], settings: LaunchSettings, reporter: Reporter) -> Iterator[Task | Outcome]:
    """Every run in the order for workers: a task where there is something to do, else its outcome.

    A run is looked up when it is its turn. Its data set is read here, so raw files are parsed once, before any worker
    needs them.
    """
    runtime, shared = LocalRuntime("cpu", reporter=Notes(reporter)), SharedData()  # a warning of many runs is shown once
    for spec in spread(specs):
        anew = spec.rerun == "always"
        try:
            # With --rerun always looking would parse the raw files anew, which is left to the worker.
            plan = look_up(plan_run(replace(spec, rerun="failed") if anew else spec, runtime, shared))
        except Exception as error:  # noqa: BLE001 - a stranger's dataset may raise anything
            yield Outcome(spec, failure=_failure(spec, cause(error)), attempts=0, error=error)
            continue
        if plan.record is not None and not anew:
            yield Outcome(spec, plan.record, recorded=True, attempts=0)
        elif plan.refusal is not None:
            yield Outcome(spec, failure=_failure(spec, plan.refusal), attempts=0)
        else:
            work = _work(spec, plan.run_id, settings)
            yield Task(spec, work, starts(Path(work.log)))


def _work(spec: RunSpec, run_id: str, settings: LaunchSettings) -> Work:
    # Set before Python starts: these libraries read their number of threads once, when they are loaded.
    environment = dict.fromkeys(_THREAD_VARIABLES, str(settings.threads))
    environment |= {name: str(Path(os.environ[name]).expanduser().absolute()) for name in _PASSED_ON if os.environ.get(name)}
    command, *words = arguments(spec)
    log = (home_folder() / "logs" / f"{run_id}.log").absolute()
    return Work(run_id, (command, "--json", *words), environment, os.getcwd(), str(log))


def judge(task: Task, done: Exit) -> Outcome:
    """The outcome that a worker's end stands for; the record comes from the store. A failure leaves a note."""
    log = Path(task.work.log)
    attempts = max(starts(log) - task.before, 1)
    if done.code == 0:
        path = runs_folder() / task.work.run_id / RECORD_NAME
        try:
            return Outcome(task.spec, read_record(path.read_text(encoding="utf-8")), attempts=attempts)
        except (OSError, ValueError) as error:
            return lost(
                task,
                f"the worker finished but its record cannot be read here ({cause(error)}). To do: put "
                "SIDBENCH_HOME on a disk that all machines share",
                attempts,
            )
    if done.signal_name:
        return lost(
            task,
            f"the worker was killed by {done.signal_name} {attempts} times. To do: where memory ran out, "
            f"fewer --jobs or a smaller batch; its output is in {log}",
            attempts,
        )
    return lost(
        task,
        _told(done.output)
        or f"{last_line(log).removeprefix('error: ') or 'the worker failed'} "
        f"(exit code {done.code}; its output is in {log})",
        attempts,
    )


def lost(task: Task, error: str, attempts: int | None = None) -> Outcome:
    """A run without a record, by the fault of run or worker; noted for ``--rerun never``."""
    failure = _failure(task.spec, error)
    write_note(task.work.run_id, failure)
    attempts = max(starts(Path(task.work.log)) - task.before, 1) if attempts is None else attempts
    return Outcome(task.spec, failure=failure, attempts=attempts)


def _told(output: str) -> str:
    """The error that a worker told on standard output, "" when it told none."""
    try:
        return str(json.loads(output)["failed"][0]["error"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def _failure(spec: RunSpec, error: str) -> Failure:
    return Failure(spec.label, error, repeat_command(spec))


def missing_extra(launcher: str, package: str) -> InputError:
    """The error for a launcher whose package is not installed."""
    return InputError(
        f"--launcher {launcher}",
        got=f"no package {package}",
        wanted=f"the extra [{launcher}]",
        do=f"pip install 'sidbench[{launcher}]'",
    )
