"""What every launcher is: runs in, outcomes out as they finish.

A launcher is made once per command. ``map`` is called once with every run of the grid; it looks each up in the store,
executes what is to be executed, and yields one outcome per run, in the order in which they end. A run that fails never
stops the others. When the caller stops early (an interrupt), the launcher ends what it started.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.store.failures import Failure
from sidbench.benchmark.store.records import RunRecord

RETRIES = 1  # how often a run whose worker died is started again


@dataclass(frozen=True)
class LaunchSettings:
    """jobs: runs at a time, 0 for no limit. threads: CPU threads of one run. device: of `bench run`. memory_gb: memory
    that a cluster sets aside for one run, 0 for no claim. address: of a Ray cluster. slurm: parameters for submitit.
    debug: show tracebacks.
    """

    jobs: int = 1
    threads: int = 1
    device: str = "auto"
    memory_gb: float = 0.0
    address: str = ""
    slurm: tuple[tuple[str, str], ...] = ()
    debug: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one run ended: with a record, or with a failure.

    recorded: the record was there before. attempts: how often a process was started for it. error: the exception itself,
    where the run failed in this process.
    """

    spec: RunSpec
    record: RunRecord | None = None
    failure: Failure | None = None
    recorded: bool = False
    attempts: int = 1
    error: Exception | None = None


class Launcher(Protocol):
    """See the module's text for the life cycle."""

    def map(self, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        """One outcome per run; closing the generator ends what still runs.

        Raises ``InputError`` when the launcher cannot work with these settings at all.
        """
        ...
