"""Runs as Ray tasks, one each, on one machine or many that share ``SIDBENCH_HOME`` and have sidbench installed.

Ray places tasks by CPUs, memory and GPUs and starts those of a lost node elsewhere, where they go on from the stage cache.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import redirect_stdout
from typing import Any

from sidbench.benchmark.launchers.base import RETRIES, LaunchSettings, Outcome
from sidbench.benchmark.launchers.queueing import Task, judge, lost, missing_extra, tasks
from sidbench.benchmark.launchers.worker import Exit, execute
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.cpu import usable_cores
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.store.failures import cause
from sidbench.datasets.foundation.errors import InputError

LOSSES = 3  # how often Ray starts a run elsewhere after its node or Ray's own process there died
_OBJECT_STORE_BYTES = 100 << 20  # only short texts travel
_WAIT_SECONDS = 1.0


class RayLauncher:
    """Connects to the cluster at ``settings.address``, or starts one on this machine for the time of the command."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def map(self, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray", "ray") from error
        with redirect_stdout(sys.stderr):  # Ray reports lost nodes on standard output, which is for tables and JSON
            _connect(ray, settings)
            try:
                self._check_fits(ray, settings)
                yield from self._run(ray, specs, settings)
            finally:
                ray.shutdown()

    def _check_fits(self, ray: Any, settings: LaunchSettings) -> None:
        """A run that no node can hold would wait for ever."""
        wanted = _resources(settings)
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(names[n], 0.0) >= amount for n, amount in wanted.items()) for node in nodes):
            return
        text = ", ".join(f"{n} {amount:g}" for n, amount in wanted.items())
        if not settings.address:
            raise InputError(
                "resources of one run",
                got=text,
                wanted="no more than this machine has",
                do="lower --threads or --memory-gb, or use --device cpu",
            )
        self.reporter.warn(f"no node of the Ray cluster now has what one run wants ({text}); runs wait for one")

    def _run(self, ray: Any, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        remote = ray.remote(execute).options(max_retries=LOSSES, name="bench run", **_resources(settings))
        queue = tasks(specs, settings, self.reporter)
        running: dict[Any, tuple[Task, int]] = {}
        more = True
        while more or running:
            if more and (not settings.jobs or len(running) < settings.jobs):
                item = next(queue, None)
                more = item is not None
                if isinstance(item, Outcome):
                    yield item
                elif item is not None:
                    running[remote.remote(item.work.dumps())] = (item, 0)
                    self.reporter.line(f"{item.spec.label}: queued, log {item.work.log}")
                patience = 0.0
            else:
                patience = _WAIT_SECONDS
            ready, _ = ray.wait(list(running), timeout=patience) if running else ([], [])
            for reference in ready:
                task, kills = running.pop(reference)
                done = _result(ray, reference)
                if isinstance(done, Exit) and done.signal_name and kills < RETRIES:
                    self.reporter.line(f"{task.spec.label}: the worker was killed by {done.signal_name}; started again")
                    running[remote.remote(task.work.dumps())] = (task, kills + 1)
                else:
                    yield judge(task, done) if isinstance(done, Exit) else lost(task, f"Ray gave it up: {done}")


def _connect(ray: Any, settings: LaunchSettings) -> None:
    # Nothing is told to anybody outside, and a cluster of our own needs no web page.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "sidbench"}
    if not settings.address:
        ray.init(
            address="local",
            num_cpus=usable_cores(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **common,
        )
        return
    try:
        ray.init(address=settings.address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Ray cluster {settings.address}",
            got=cause(error).partition("\n")[0],
            wanted="a running cluster of the same Ray and Python versions",
            do="`ray start --head` on one machine and `ray start --address HEAD:6379` on the others",
        ) from error


def _resources(settings: LaunchSettings) -> dict[str, float]:
    """What Ray sets aside for one run."""
    wanted: dict[str, float] = {"num_cpus": settings.threads}
    if settings.memory_gb:
        wanted["memory"] = int(settings.memory_gb * 2**30)
    if settings.device == "cuda":
        wanted["num_gpus"] = 1
    return wanted


def _result(ray: Any, reference: Any) -> Exit | str:
    """How the worker ended, or why Ray has no answer."""
    try:
        return Exit(**json.loads(ray.get(reference)))
    except ray.exceptions.RayError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
