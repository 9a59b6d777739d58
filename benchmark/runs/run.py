"""One run: planned, executed, recorded. What the launchers, replays and the Python API call.

``run_spec`` is the whole way of one run under its ``rerun`` rule; ``complete`` executes a plan in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sidbench.benchmark.runs.command_line import repeat_command
from sidbench.benchmark.runs.environment import environment
from sidbench.benchmark.runs.plan import Plan, features_of, look_up, plan_run
from sidbench.benchmark.runs.recording import build_record, result_files
from sidbench.benchmark.runs.result import RunResult
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.stages.evaluating import evaluate, tasks_of
from sidbench.benchmark.stages.shared import SharedData
from sidbench.benchmark.stages.tokenizing import measure_quantisation, tokenize
from sidbench.benchmark.store.failures import Failure, cause, note_path, write_note
from sidbench.benchmark.store.records import RunRecord
from sidbench.benchmark.store.stage_cache import Traced, traces
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import SidbenchError


@dataclass(frozen=True)
class Recorded:
    """A run's record. before: it was there, and nothing was computed."""

    record: RunRecord
    before: bool


def run_spec(spec: RunSpec, runtime: LocalRuntime, shared: SharedData | None = None) -> Recorded:
    """The record of one run: that of an earlier equal run, or computed now.

    shared: data of the runs before it in the same grid. A failure leaves a note, which ``--rerun never`` reads. Raises the
    first stage's error, ``InputError`` for settings and data that do not fit, ``SidbenchError`` for a run that failed
    before and is not to be tried again.
    """
    plan = look_up(plan_run(spec, runtime, shared))
    if plan.record is not None:
        runtime.report(f"{spec.label}: recorded as {plan.run_id}")
        return Recorded(plan.record, True)
    if plan.refusal is not None:
        raise SidbenchError(plan.refusal)
    runtime.report(f"{spec.label}: {plan.run_id}")
    leads = runtime.process_group.is_main_process
    try:
        record = complete(plan)
    except SidbenchError as error:
        if leads:
            write_note(plan.run_id, Failure(spec.label, cause(error), repeat_command(spec)))
        raise
    if leads:
        note_path(plan.run_id).unlink(missing_ok=True)
    return Recorded(record, False)


def complete(plan: Plan) -> RunRecord:
    """Execute a plan and write its folder (of several processes the leader does).

    Raises the first stage's error, or that of a disk that is full or cannot be written; finished stages stay cached.
    """
    with storing(f"run {plan.run_id}", plan.folder.path.parent), plan.folder.reserved():
        result = execute(plan)
        files = result_files(plan, result)
        where = environment(plan.context.runtime, plan.spec.command_line)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        record = build_record(plan, result, files, where, created)
        plan.folder.write(record, files)
    return record


def execute(plan: Plan) -> RunResult:
    """Every stage of a run, in order. Raises the first stage's error; finished stages stay cached."""
    context, composed, seed = plan.context, plan.composed, plan.composed.run.seed
    made: list[Traced[Any]] = [Traced(None, plan.warnings, plan.stages)]
    features = tokenized = quantisation = None
    if composed.run.tokenizer is not None:
        features = features_of(plan, context)
        tokenized = tokenize(context, composed, features.value, seed)
        quantisation = measure_quantisation(context, tokenized.key, tokenized.sids, features.value)
        made += [features, Traced(None, tokenized.warnings, tokenized.stages), quantisation]
    tasks = tuple(evaluate(context, composed, plan.prepared, task, tokenized, seed) for task in tasks_of(composed))
    made += [Traced(None, task.warnings, task.stages) for task in tasks]
    warnings, stages = traces(made)
    return RunResult(
        None if features is None else features.value,
        tokenized,
        None if quantisation is None else quantisation.value,
        tasks,
        tuple(dict.fromkeys(warnings)),
        tuple({stage.key: stage for stage in stages}.values()),
    )
