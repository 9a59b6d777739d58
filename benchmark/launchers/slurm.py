"""Runs as jobs of a Slurm array, submitted by submitit; all machines share ``SIDBENCH_HOME``.

A job that is preempted or reaches its time limit is queued again by submitit and goes on from its cached stages. What
submitit pickles for itself is one class of ours by name and one text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from sidbench.benchmark.launchers.base import RETRIES, LaunchSettings, Outcome
from sidbench.benchmark.launchers.queueing import Task, judge, lost, missing_extra, tasks
from sidbench.benchmark.launchers.worker import Exit, Requeued
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.store.paths import home_folder
from sidbench.datasets.foundation.errors import InputError

_GENERIC = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "name")  # submitit's names on every cluster
_DAY_MINUTES = 24 * 60
_POLL_SECONDS = {"slurm": 5.0, "local": 0.2}


class SlurmLauncher:
    """``--slurm cluster=local`` lets submitit start processes of this machine instead, to try parameters out."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def map(self, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        cluster, parameters = slurm_parameters(settings)
        executor = _executor(cluster, parameters)
        settings = replace(settings, threads=parameters["cpus_per_task"])
        waiting: list[Task] = []
        for item in tasks(specs, settings, self.reporter):
            if isinstance(item, Outcome):
                yield item
            else:
                waiting.append(item)
        if not waiting:
            return
        with executor.batch():
            submitted = [executor.submit(Requeued(), task.work.dumps()) for task in waiting]
        jobs = {job.job_id: (job, task, 0) for job, task in zip(submitted, waiting, strict=True)}
        for name, (_, task, _) in jobs.items():
            self.reporter.line(f"{task.spec.label}: job {name}, log {task.work.log}")
        try:
            while jobs:
                for name in [name for name, (job, _, _) in jobs.items() if job.done()]:
                    job, task, kills = jobs.pop(name)
                    done = _result(job)
                    killed = done.signal_name if isinstance(done, Exit) else done
                    if killed and kills < RETRIES:
                        again = executor.submit(Requeued(), task.work.dumps())
                        jobs[again.job_id] = (again, task, kills + 1)
                        self.reporter.line(f"{task.spec.label}: {killed}; submitted again as job {again.job_id}")
                    else:
                        yield judge(task, done) if isinstance(done, Exit) else lost(task, done)
                time.sleep(_POLL_SECONDS[cluster])
        finally:
            for job, _, _ in jobs.values():
                job.cancel()


def slurm_parameters(settings: LaunchSettings) -> tuple[str, dict[str, Any]]:
    """(cluster, parameters as submitit's ``AutoExecutor`` takes them). Whole numbers become ints, other names get the
    prefix ``slurm_``."""
    given = dict(settings.slurm)
    cluster = given.pop("cluster", "slurm")
    if cluster not in _POLL_SECONDS:
        raise InputError("--slurm cluster", got=cluster, wanted="slurm or local")
    parameters: dict[str, Any] = {"name": "sidbench", "timeout_min": _DAY_MINUTES, "cpus_per_task": settings.threads}
    if settings.memory_gb:
        parameters["mem_gb"] = settings.memory_gb
    if settings.device == "cuda":
        parameters["gpus_per_node"] = 1
    if settings.jobs:
        parameters["slurm_array_parallelism"] = settings.jobs
    for name, text in given.items():
        key = name if name in _GENERIC or name.startswith("slurm_") else f"slurm_{name}"
        parameters[key] = int(text) if text.isascii() and text.isdigit() else text
    if isinstance(memory := parameters.get("mem_gb"), str):
        parameters["mem_gb"] = _number("mem_gb", memory)
    return cluster, parameters


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--slurm {name}", got=repr(text), wanted="a number") from error


def _executor(cluster: str, parameters: dict[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise missing_extra("slurm", "submitit") from error
    try:
        executor = submitit.AutoExecutor(folder=home_folder().absolute() / "logs" / "submitit", cluster=cluster)
        executor.update_parameters(**parameters)
    except RuntimeError as error:  # no srun on this machine
        raise InputError(
            "--launcher slurm",
            got=str(error).partition("\n")[0],
            wanted="a machine that submits Slurm jobs",
            do="start this on a login node, or try it out with --slurm cluster=local",
        ) from error
    except (NameError, AssertionError, ValueError, TypeError) as error:  # how submitit refuses names and types
        raise InputError(
            "--slurm",
            got=str(error).partition("\n")[0],
            wanted="parameters that submitit knows",
            do="for example --slurm partition=gpu --slurm timeout_min=600 --slurm mem_gb=16",
        ) from error
    return executor


def _result(job: Any) -> Exit | str:
    """How the worker ended, or why the job has no answer."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return Exit(**json.loads(job.result()))
    except (FailedJobError, UncompletedJobError) as error:
        return f"job {job.job_id} ended without a result ({' '.join(str(error).split())[:300]})"
