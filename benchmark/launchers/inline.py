"""Runs one after the other in this process; the only launcher for several processes under torchrun."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator, Sequence
from functools import partial

from sidbench.benchmark.launchers.base import LaunchSettings, Outcome
from sidbench.benchmark.runs.command_line import repeat_command
from sidbench.benchmark.runs.run import run_spec
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.stages.shared import SharedData
from sidbench.benchmark.store.failures import Failure, cause
from sidbench.datasets.foundation.errors import InputError


class InlineLauncher:
    """``runtime``: of this process, shared by all runs."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.runtime = runtime

    def map(self, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        shared = SharedData()
        for spec in specs:
            try:
                found = self.runtime.process_group.together(partial(run_spec, spec, self.runtime, shared))
            except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything, also outside its stages
                told = isinstance(error, InputError) and len(specs) == 1  # the command ends with it
                if settings.debug and not told and self.runtime.process_group.is_main_process:
                    sys.stderr.write("".join(traceback.format_exception(error)))
                yield Outcome(spec, failure=Failure(spec.label, cause(error), repeat_command(spec)), error=error)
            else:
                yield Outcome(spec, found.record, recorded=found.before)
