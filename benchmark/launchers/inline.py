"""Runs one after the other in this process; the only launcher for several processes under torchrun."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator, Sequence
from functools import partial

from sidbench.benchmark.launchers.base import LaunchSettings, Outcome
from sidbench.benchmark.runs.command_line import repeat_command
from sidbench.benchmark.runs.spec import RunSpec, look_up
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.store.failures import Failure, cause, note_path, write_note
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import InputError, SidbenchError


class InlineLauncher:
    """``runtime``: of this process, shared by all runs."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.runtime = runtime

    def map(self, specs: Sequence[RunSpec], settings: LaunchSettings) -> Generator[Outcome, None, None]:
        for spec in specs:
            try:
                record, recorded = self.runtime.process_group.together(partial(self._run, spec))
            except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything, also outside its stages
                told = isinstance(error, InputError) and len(specs) == 1  # the command ends with it
                if settings.debug and not told and self.runtime.process_group.is_main_process:
                    sys.stderr.write("".join(traceback.format_exception(error)))
                yield Outcome(spec, failure=Failure(spec.label, cause(error), repeat_command(spec)), error=error)
            else:
                yield Outcome(spec, record, recorded=recorded)

    def _run(self, spec: RunSpec) -> tuple[RunRecord, bool]:
        """The record of one run and whether it was there; a failure leaves a note, which ``--rerun never`` reads."""
        runtime, leads = self.runtime, self.runtime.process_group.is_main_process
        runtime.reporter.warnings.clear()
        opened = look_up(spec, runtime)
        run_id = opened.builder.id
        if opened.record is not None:
            runtime.report(f"{spec.label}: recorded as {run_id}")
            return opened.record, True
        if opened.refusal is not None:
            raise SidbenchError(opened.refusal)
        runtime.report(f"{spec.label}: {run_id}")
        try:
            record = opened.builder.execute()
        except SidbenchError as error:
            if leads:
                write_note(run_id, Failure(spec.label, cause(error), repeat_command(spec)))
            raise
        if leads:
            note_path(run_id).unlink(missing_ok=True)
        return record, False
