"""Which launcher the runs of a grid have, what each gets of the machine, and the order of what comes back: `bench run` and
``sidbench.run`` alike."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sidbench.benchmark.launchers.base import Launcher, LaunchSettings, Outcome
from sidbench.benchmark.runs.request import LaunchOptions
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.cpu import threads_each
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.datasets.foundation.errors import InputError

LOCAL_JOBS = 2


def launch_settings(launch: LaunchOptions, device: str, threads: int, debug: bool = False) -> tuple[LaunchSettings, int]:
    """The settings of the launcher, and ``threads`` of each of its runs.

    Local workers divide ``threads``, or all cores; on a cluster it is the number of one run, one by default. Where
    no number is given a run keeps 0 as its setting, and so its identity, and the environment bounds it. Raises
    ``InputError`` for workers inside one of several processes that share their runs.
    """
    if launch.launcher == "inline":
        return LaunchSettings(debug=debug), threads
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"--launcher {launch.launcher}",
            got="several processes under torchrun or accelerate launch",
            wanted="--launcher inline, where they share each run",
            do="start `bench run` by itself",
        )
    jobs, each = launch.jobs, threads or 1
    if launch.launcher == "local":
        jobs = launch.jobs or LOCAL_JOBS
        each = threads_each(threads, jobs)
        threads = each if threads else 0
    return LaunchSettings(jobs, each, device, launch.memory_gb, launch.address, launch.slurm, debug), threads


def launcher_with_workers(name: str, reporter: Reporter) -> Launcher:
    """A launcher whose runs happen in processes of their own; each is imported when it is chosen."""
    if name == "ray":
        from sidbench.benchmark.launchers.ray import RayLauncher

        return RayLauncher(reporter)
    if name == "slurm":
        from sidbench.benchmark.launchers.slurm import SlurmLauncher

        return SlurmLauncher(reporter)
    from sidbench.benchmark.launchers.local import LocalLauncher

    return LocalLauncher(reporter)


def in_order(specs: Sequence[RunSpec], ended: Sequence[Outcome]) -> list[Outcome]:
    """How each of ``specs`` ended, in their order. Raises the ``InputError`` of a run that is the only one."""
    if len(specs) == 1 and isinstance(ended[0].error, InputError):
        raise ended[0].error
    place = {id(spec): n for n, spec in enumerate(specs)}
    return sorted(ended, key=lambda o: place[id(o.spec)])
