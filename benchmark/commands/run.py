"""`bench run`: every (tokenizer, recommenders, seed) of a request, one record each; a failed run stops no other."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from typer.exceptions import Exit

from sidbench.benchmark.commands.request import NO_POLICY, NO_RECOMMENDER, NO_TOKENIZER, RunRequest
from sidbench.benchmark.config import RunConfig
from sidbench.benchmark.execution import RunSpec, open_run
from sidbench.benchmark.home import home_folder, runs_folder
from sidbench.benchmark.progress import Reporter, default_reporter
from sidbench.benchmark.records import RunRecord
from sidbench.benchmark.registry import installed
from sidbench.benchmark.runtime import LocalRuntime
from sidbench.datasets.foundation.errors import InputError, SidbenchError
from sidbench.leaderboards.render import render
from sidbench.leaderboards.store import read_runs
from sidbench.leaderboards.table import build_tables


@dataclass(frozen=True)
class Failure:
    """A run that did not finish: what it was, why, and the command that repeats it."""

    run: str
    error: str
    command: str


def run_command(request: RunRequest) -> None:
    """Execute the request and print its table (or JSON). Exits with 1 when a run failed, after trying all of them."""
    reporter = Reporter() if request.json else default_reporter()
    runtime = LocalRuntime(request.device, request.precision, request.threads, reporter, request.accumulate,
                           request.compile)
    try:
        _run_all(request, runtime)
    finally:
        runtime.team.close()


def _run_all(request: RunRequest, runtime: LocalRuntime) -> None:
    for line in request.skipped:
        runtime.warn(line)
    records: list[RunRecord] = []
    failures: list[Failure] = []
    for config in _grid(request):
        try:
            records.append(runtime.team.together(partial(_one, request, config, runtime)))
        except InputError:
            if len(request.tokenizers) * len(request.seeds) == 1:
                raise
            failures.append(_failure(request, config, sys.exception()))
        except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything, also outside its stages
            failures.append(_failure(request, config, error))
            if request.debug and runtime.team.leads:
                sys.stderr.write("".join(traceback.format_exception(error)))
    if runtime.team.leads:
        _show(request, records, failures)
    if failures:
        raise Exit(1)


def _grid(request: RunRequest) -> Iterator[RunConfig]:
    """One config per (recommender set, tokenizer, seed). Several recommenders of one task give one run each."""
    info = {name: installed().find("recommender", name).info for name in request.recommenders}
    tasks = [str(i["task"]) for i in info.values()]
    together = len(set(tasks)) == len(tasks)
    for recommenders in [request.recommenders] if together else [(name,) for name in request.recommenders]:
        free = [name for name in recommenders if not info[name]["needs_sids"]]
        names: tuple[str, ...] = request.tokenizers
        if free and names != (NO_TOKENIZER,):
            if len(free) < len(recommenders):
                raise InputError(f"recommender {free[0]}", got=f"in one run with {', '.join(recommenders)}",
                                 wanted="a run of its own, since it reads no semantic IDs",
                                 do=f"bench run --tokenizer none --recommender {free[0]}")
            names = (NO_TOKENIZER,)
        for seed in request.seeds:
            for tokenizer in names:
                yield RunConfig(
                    dataset=request.dataset, tokenizer=None if tokenizer == NO_TOKENIZER else tokenizer,
                    recommenders=recommenders, seed=seed, budget=request.budget, ties=request.ties,
                    device=request.device, precision=request.precision, threads=request.threads,
                    accumulate=request.accumulate, compile=request.compile,
                    collisions=NO_POLICY if tokenizer == NO_TOKENIZER else request.collisions)


def _spec(request: RunRequest, config: RunConfig) -> RunSpec:
    """One run of the request, as a value."""
    return RunSpec(config, request.overrides, request.presets.get(config.tokenizer or NO_TOKENIZER), request.data_dir,
                   request.rerun, _command_line())


def _one(request: RunRequest, config: RunConfig, runtime: LocalRuntime) -> RunRecord:
    """The record of one run; a failure leaves a note, which ``--rerun never`` reads."""
    runtime.reporter.warnings.clear()
    spec = _spec(request, config)
    opened = open_run(spec, runtime)
    name = " · ".join([config.dataset, _tokens(config), "+".join(opened.composed.run.recommenders) or "SIDs only",
                       f"seed {config.seed}"])
    note = home_folder() / "failures" / f"{opened.id}.json"
    if request.rerun != "always" and (known := opened.existing()) is not None:
        runtime.report(f"{name}: recorded as {opened.id}")
        return known
    earlier = json.loads(note.read_text())["error"] if request.rerun == "never" and note.exists() else None
    if runtime.team.say(earlier) is not None:
        raise SidbenchError(f"{earlier} (failed before and not tried again: --rerun never)")
    runtime.report(f"{name}: {opened.id}")
    try:
        record = opened.execute()
    except SidbenchError as error:
        if runtime.team.leads:
            _write_note(note, _failure(request, config, error))
        raise
    if runtime.team.leads:
        note.unlink(missing_ok=True)
    return record


def _command_line() -> tuple[str, ...]:
    return ("bench", *sys.argv[1:])


def _tokens(config: RunConfig) -> str:
    """What makes the SIDs of a run, as in the tables: "rqkmeans +append"."""
    policy = "" if config.collisions == NO_POLICY else f" +{config.collisions}"
    return (config.tokenizer or "no tokenizer") + policy


def _failure(request: RunRequest, config: RunConfig, error: BaseException | None) -> Failure:
    words = ["bench", "run", "--tokenizer", config.tokenizer or NO_TOKENIZER, "--dataset", config.dataset,
             "--recommender", ",".join(config.recommenders) or NO_RECOMMENDER, "--seed", str(config.seed),
             "--budget", config.budget, "--ties", config.ties, *request.overrides]
    preset = request.presets.get(config.tokenizer or NO_TOKENIZER)
    unusual = [("--preset", None if preset is None else preset.name, None), ("--collisions", config.collisions, NO_POLICY),
               ("--precision", config.precision, "fp32"), ("--accumulate", str(config.accumulate), "1")]
    words[4:4] = [w for option, value, usual in unusual if value is not None and value != usual for w in (option, value)]
    if config.compile:
        words[4:4] = ["--compile"]
    cause = str(error) if isinstance(error, SidbenchError) else f"{type(error).__name__}: {error}"
    return Failure(f"{_tokens(config)} seed {config.seed}", cause, shlex.join(words))


def _write_note(path: Path, failure: Failure) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(vars(failure)))
    os.replace(temporary, path)


def _show(request: RunRequest, records: list[RunRecord], failures: list[Failure]) -> None:
    if request.json:
        result: dict[str, Any] = {"records": [r.model_dump(mode="json") for r in records],
                                  "failed": [vars(f) for f in failures]}
        sys.stdout.write(json.dumps(result) + "\n")
        return
    if records:
        store, wanted, keys = read_runs(runs_folder()), {r.run_id for r in records}, {r.comparability_key for r in records}
        # Controls recorded earlier under the same conditions belong in the table of whatever runs now.
        wanted |= {r.record.run_id for r in store.runs if r.record.control and r.record.comparability_key in keys}
        sys.stdout.write(render(build_tables(store.only(wanted)), "md"))
    for failure in failures:
        sys.stderr.write(f"failed: {failure.run}: {failure.error}\n  repeat with: {failure.command}\n")
