"""`bench run`: every run of a request, one record each; a failed run stops no other."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from typer.exceptions import Exit

from sidbench.benchmark.launchers.base import Launcher, LaunchSettings, Outcome
from sidbench.benchmark.launchers.choosing import in_order, launch_settings, launcher_with_workers
from sidbench.benchmark.launchers.inline import InlineLauncher
from sidbench.benchmark.launchers.worker import PARENT, end_with_parent
from sidbench.benchmark.runs.command_line import repeat_command
from sidbench.benchmark.runs.grid import Grid, expand
from sidbench.benchmark.runs.plan import look_up, plan_run
from sidbench.benchmark.runs.request import RunRequest
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Notes, PlainReporter, Reporter, default_reporter
from sidbench.benchmark.stages.shared import SharedData
from sidbench.benchmark.store.failures import cause
from sidbench.datasets.foundation.errors import SidbenchError


def run_command(request: RunRequest) -> None:
    """Execute the request and print its table (or JSON). Exits with 1 when a run failed, after trying all of them."""
    reporter = _reporter(request)
    reporter = Notes(reporter) if request.dry_run else reporter  # a warning of many runs is shown once
    end_with_parent()
    settings, threads = launch_settings(request.launch, request.common.device, request.common.threads, request.debug)
    request = replace(request, common=replace(request.common, threads=threads))
    grid = expand(request, ("bench", *sys.argv[1:]))
    if request.launch.launcher == "inline" or request.dry_run:
        runtime = LocalRuntime(**request.common.machine, reporter=reporter)
        try:
            if request.dry_run:
                _dry_run(request, grid, runtime)
            else:
                _run_all(
                    request, grid, InlineLauncher(runtime), settings, runtime.reporter, runtime.process_group.is_main_process
                )
        finally:
            runtime.process_group.close()
    else:
        _run_all(request, grid, launcher_with_workers(request.launch.launcher, reporter), settings, reporter, True)


def _reporter(request: RunRequest) -> Reporter:
    if os.environ.get(PARENT):
        return PlainReporter()  # a worker's standard error is its log
    return Reporter() if request.json else default_reporter()


def _run_all(
    request: RunRequest, grid: Grid, launcher: Launcher, settings: LaunchSettings, reporter: Reporter, leads: bool
) -> None:
    for line in request.skipped:
        reporter.warn(line)
    if grid.repeats:
        reporter.line(f"{grid.repeats} combinations of the grid are equal to others and run once")
    outcomes: list[Outcome] = []
    with closing(launcher.map(grid.specs, settings)) as ended:  # an interrupt ends the workers before anything else
        for outcome in ended:
            outcomes.append(outcome)
            if len(grid.specs) > 1:
                reporter.line(f"[{len(outcomes)}/{len(grid.specs)}] {outcome.spec.label}: {_state(outcome)}")
    outcomes = in_order(grid.specs, outcomes)
    if leads:
        _show(request, outcomes)
    if any(o.failure for o in outcomes):
        raise Exit(1)


def _state(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"failed: {outcome.failure.error}"
    return "recorded already" if outcome.recorded else "done"


def _summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many runs ended how; a retried one also counts as computed or failed."""
    return {
        "runs": len(outcomes),
        "recorded": sum(o.recorded for o in outcomes),
        "computed": sum(o.record is not None and not o.recorded for o in outcomes),
        "failed": sum(o.failure is not None for o in outcomes),
        "retried": sum(o.attempts > 1 for o in outcomes),
    }


def _show(request: RunRequest, outcomes: Sequence[Outcome]) -> None:
    records = [o.record for o in outcomes if o.record is not None]
    failures = [o.failure for o in outcomes if o.failure is not None]
    summary = _summary(outcomes)
    if request.json:
        result: dict[str, Any] = {
            "records": [r.model_dump(mode="json") for r in records],
            "failed": [vars(f) for f in failures],
            "summary": summary,
        }
        sys.stdout.write(json.dumps(result) + "\n")
        return
    if records:
        from sidbench.benchmark.api.results import from_outcomes  # pandas: neither workers nor plans need it

        sys.stdout.write(from_outcomes(o for o in outcomes if o.record is not None).leaderboard().to_markdown())
    for failure, error in zip(failures, _each_once([f.error for f in failures]), strict=True):
        sys.stderr.write(f"failed: {failure.run}: {error}\n  repeat with: {failure.command}\n")
    if len(outcomes) > 1:
        sys.stderr.write(
            "{runs} runs: {recorded} recorded already, {computed} computed, {failed} failed; {retried} retried\n".format(
                **summary
            )
        )


def _each_once(reasons: Sequence[str]) -> list[str]:
    """The reasons with every repeat of a long one shortened; a missing file fails all runs of a data set alike."""
    return [reason if reason not in reasons[:n] or len(reason) < 80 else "as above" for n, reason in enumerate(reasons)]


def _dry_run(request: RunRequest, grid: Grid, runtime: LocalRuntime) -> None:
    """Each run with what the store knows of it; reads data sets, trains nothing."""
    shared = SharedData()
    rows = [_foreseen(spec, runtime, shared) for spec in grid.specs]
    if not runtime.process_group.is_main_process:
        return
    counts = Counter(row["state"] for row in rows)
    if request.json:
        sys.stdout.write(
            json.dumps({"runs": rows, "skipped": list(request.skipped), "repeats": grid.repeats, "summary": counts}) + "\n"
        )
        return
    for row, reason in zip(rows, _each_once([row["reason"] for row in rows]), strict=True):
        why = f" ({reason})" if reason else ""
        sys.stdout.write(f"{row['state']:<8}  {row['run']}{why}\n")
    for line in request.skipped:
        sys.stdout.write(f"skipped   {line}\n")
    sys.stdout.write(f"{len(rows)} runs: {', '.join(f'{n} {state}' for state, n in counts.items())}\n")


def _foreseen(spec: RunSpec, runtime: LocalRuntime, shared: SharedData) -> dict[str, str]:
    row = {"run": spec.label, "run_id": "", "state": "refused", "reason": "", "command": repeat_command(spec)}
    try:
        anew = spec.rerun == "always"
        plan = look_up(plan_run(replace(spec, rerun="failed") if anew else spec, runtime, shared))
    except SidbenchError as error:
        return {**row, "reason": cause(error)}
    row["run_id"] = plan.run_id
    if plan.refusal is not None:
        return {**row, "reason": plan.refusal}
    return {**row, "state": "recorded" if plan.record is not None and not anew else "to run"}
