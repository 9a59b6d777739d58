"""`bench sweep`: run studies, with worker processes if asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from typer.exceptions import Exit

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.request import NO_TOKENIZER, plugin_names, seed_list
from sidbench.benchmark.runtime.cpu import threads_each
from sidbench.benchmark.runtime.reporter import Reporter, default_reporter
from sidbench.benchmark.sweeps.request import SweepRequest
from sidbench.datasets.foundation.errors import InputError, SidbenchError

STOP_SECONDS = 5.0


def sweep_request(
    tokenizer: str,
    dataset: str,
    recommender: str,
    *,
    trials: int,
    seconds: float,
    workers: int,
    objective: str,
    sampler: str,
    pruner: str,
    seed: int,
    seeds: str,
    search: str,
    budget: str,
    collisions: str,
    ties: str,
    device: str,
    precision: str,
    threads: int,
    data_dir: Path | None,
    storage: str,
    name: str,
    overrides: Sequence[str],
) -> SweepRequest:
    """Check the options against the installed plugins; raises ``InputError`` before any work is done."""
    from sidbench.benchmark.sweeps.objective import objective_names
    from sidbench.benchmark.sweeps.strategies import make_pruner, make_sampler

    registry = installed()
    objectives, run_seeds = objective_names(objective), seed_list(seeds)
    make_sampler(sampler, seed)
    make_pruner(pruner, len(objectives), len(run_seeds))
    names = plugin_names("tokenizer", tokenizer, registry, overrides)
    if names == (NO_TOKENIZER,):
        raise InputError("--tokenizer none", got="no settings to search", wanted="tokenizers", do="name one, or `all`")
    return SweepRequest(
        names,
        registry.find("dataset", dataset).name,
        plugin_names("recommender", recommender, registry),
        trials,
        seconds,
        workers,
        objectives,
        sampler,
        pruner,
        seed,
        run_seeds,
        tuple(dict.fromkeys(part.strip() for part in search.split(",") if part.strip())),
        budget,
        collisions if collisions == "none" else registry.find("collisions", collisions).name,
        ties,
        device,
        precision,
        threads,
        str(data_dir.expanduser().resolve()) if data_dir else "",
        storage,
        name,
        tuple(overrides),
    )


def sweep_command(request: SweepRequest, as_json: bool = False) -> None:
    """Run the studies of a request and print what each found. Exits with 1 when one could not be finished."""
    from sidbench.benchmark.sweeps.session import open_session

    reporter = Reporter() if as_json else default_reporter()
    finished: list[str] = []
    failures: list[str] = []
    for tokenizer in request.tokenizers:
        try:
            share = threads_each(request.threads, request.workers)
            session = open_session(request, tokenizer, reporter, request.threads if request.workers == 1 else share)
            for note in session.notes:
                reporter.warn(note)
            if len(request.objectives) > 1 and request.pruner != "none":
                reporter.line("several objectives: no trial is pruned")
            name = session.study.study_name
            if request.workers == 1:
                session.work()
            del session  # with it its data, which the workers read for themselves
            if request.workers > 1:
                _work_together(request, tokenizer, share, reporter)
            finished.append(name)
        except SidbenchError as error:
            if len(request.tokenizers) == 1:
                raise
            failures.append(f"{tokenizer}: {error}")
    _show(request, finished, as_json)
    for line in failures:
        sys.stderr.write(f"failed: {line}\n")
    if failures:
        raise Exit(1)


def _work_together(request: SweepRequest, tokenizer: str, threads: int, reporter: Reporter) -> None:
    """Run the workers of one study. Raises ``SidbenchError`` when all of them failed."""
    order = json.dumps({"request": {**asdict(request), "tokenizers": [tokenizer]}, "threads": threads})
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    workers: list[subprocess.Popen[str]] = []
    try:
        for index in range(1, request.workers + 1):
            worker = subprocess.Popen(
                [sys.executable, "-m", "sidbench.benchmark.sweeps.process", str(index)],
                stdin=subprocess.PIPE,
                text=True,
                env=environment,
            )
            workers.append(worker)
            if worker.stdin is not None:
                worker.stdin.write(order)
                worker.stdin.close()
        codes = [worker.wait() for worker in workers]
    except BaseException:
        _stop(workers)
        raise
    for index, code in enumerate(codes, start=1):
        if code:
            reporter.warn(f"worker {index} ended with code {code}; the others took over its trial")
    if all(codes):
        raise SidbenchError(
            f"every worker of the sweep of {tokenizer} failed (exit codes {', '.join(map(str, codes))}); "
            "their errors stand above. To do: the same command continues where they stopped."
        )


def _stop(workers: Sequence[subprocess.Popen[str]]) -> None:
    """End the workers, giving each the time to give its trial back; a terminal's Ctrl-C has reached them already."""
    for signalled in (None, signal.SIGINT, signal.SIGKILL):
        for worker in workers:
            if signalled is not None and worker.poll() is None:
                worker.send_signal(signalled)
        deadline = time.monotonic() + STOP_SECONDS
        while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)


def _show(request: SweepRequest, names: Sequence[str], as_json: bool) -> None:
    """The outcome of every study, on standard output."""
    from sidbench.benchmark.sweeps.results import as_text, describe, load_result

    results = [load_result(name, request.storage) for name in names]
    if as_json:
        sys.stdout.write(json.dumps({"studies": [describe(r) for r in results]}) + "\n")
        return
    for result in results:
        sys.stdout.write(as_text(describe(result)))
