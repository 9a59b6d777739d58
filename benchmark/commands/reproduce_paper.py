"""A paper's plan as runs: composed, executed where they are missing, and selected for the side-by-side."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.compose import compose_run
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.launchers.base import LaunchSettings
from sidbench.benchmark.launchers.inline import InlineLauncher
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.command_line import arguments
from sidbench.benchmark.runs.request import plugin_names, seed_list, split_list
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import default_reporter
from sidbench.benchmark.store.paths import runs_folder
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.hashing import canonical_json
from sidbench.leaderboards.board.store import read_runs
from sidbench.leaderboards.reproduction.papers import published
from sidbench.leaderboards.reproduction.plan import Need, plan_for
from sidbench.leaderboards.reproduction.selection import Wanted
from sidbench.leaderboards.reproduction.sidebyside import SideBySide, rows_needed, side_by_side

_TIES = ("shuffled", "file")
_GROUPS = ("dataset", "features", "behaviour", "tokenizer", "collisions", "retriever", "ranker")


@dataclass(frozen=True)
class ReproduceRequest:
    """What the user asked for, as typed.

    target: a paper, a run id or its beginning, or a path to a record. tables, figures, seeds: comma lists. run: ``None``
    where the user did not say. threads: ``None`` for all cores, or for those of the record. tolerance, cached: of repeated
    runs; all others but out, form, data_dir, device and threads are of papers.
    """

    target: str
    tables: str = ""
    figures: str = ""
    dataset: str = "beauty"
    budget: str = "quick"
    seeds: str = "0"
    recommender: str = ""
    ties: str = ""
    run: bool | None = None
    records: Path | None = None
    key: str = ""
    data_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    form: str = "md"
    out: Path | None = None
    tolerance: float = 1e-6
    cached: bool = False
    overrides: tuple[str, ...] = ()
    debug: bool = False


def check_for_paper(request: ReproduceRequest) -> None:
    """Raises ``InputError`` for options that contradict each other or do not fit the paper."""
    if request.records is not None and request.run:
        raise InputError(
            "--run",
            got=f"--records {request.records}",
            wanted="one of them",
            do="leave --records out to run what is missing",
        )
    if request.records is not None and not request.records.is_dir():
        raise InputError("--records", got=str(request.records), wanted="a folder with <run id>/record.json in it")
    if request.recommender and request.target != "mmq-v2":
        raise InputError(
            "--recommender",
            got=f"{request.recommender} for {request.target}",
            wanted="nothing, since this paper names its models",
            do="leave --recommender out",
        )
    if request.cached:
        raise InputError("--cached", got=f"paper {request.target}", wanted="a recorded run to repeat", do="leave it out")
    if request.ties and request.ties not in _TIES:
        raise unknown_name("--ties", request.ties, _TIES, do="use one of these")


def reproduce_paper(request: ReproduceRequest) -> tuple[SideBySide, int]:
    """The side-by-side, and how many runs failed."""
    paper = published(request.target)
    dataset = installed().find("dataset", request.dataset).name
    tables = _chosen("--table", request.tables, tuple(dict.fromkeys(t.number for t in paper.tables)))
    figures = _chosen("--figure", request.figures, tuple(f.number for f in paper.figures))
    if request.tables and not request.figures:
        figures = ()
    if request.figures and not request.tables:
        tables = ()
    recommenders = plugin_names("recommender", request.recommender, installed()) if request.recommender else None
    plan = plan_for(paper, dataset, recommenders)
    rows = rows_needed(paper, plan, tables, figures, dataset)
    needs = {row: need for row in rows if isinstance(need := plan.needs[row], Need)}
    seeds = seed_list(request.seeds)
    first = {row: _spec(request, need, dataset, seeds[0]) for row, need in needs.items()}
    specs = {row: [replace(s, config=replace(s.config, seed=seed)) for seed in seeds] for row, s in first.items()}
    wanted = {row: Wanted(needs[row], dataset, request.budget, _composed(first[row])) for row in needs}
    if request.ties:
        wanted = {row: replace(w, need=replace(w.need, ties=request.ties)) for row, w in wanted.items()}
    running = request.records is None and request.run is not False
    failures = _execute(request, specs) if running else {}
    store = read_runs(records_folder(request.records) if request.records else runs_folder())
    for skipped in store.skipped:
        sys.stderr.write(f"left out: {skipped.path}: {skipped.reason}\n")
    missing = {row: failures.get(row) or _command(specs[row]) for row in needs}
    found = side_by_side(paper, plan, wanted, store, dataset, request.budget, tables, figures, missing, request.key)
    return found, len(failures)


def records_folder(folder: Path) -> Path:
    """The folder of ``<run id>/record.json`` that the user means: a published board keeps it in ``records``."""
    return folder / "records" if (folder / "records").is_dir() else folder


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The numbers of a comma list, all where it is empty. Raises ``InputError`` for what the paper does not have."""
    chosen = split_list(text)
    for number in chosen:
        if number not in known:
            raise unknown_name(option, number, known, do="use one of these")
    return chosen or known


def _spec(request: ReproduceRequest, need: Need, dataset: str, seed: int) -> RunSpec:
    """One run of a row: the plan's settings, then the user's that concern its parts."""
    tasks = {str(installed().find("recommender", name).info["task"]) for name in need.recommenders}
    absent = {
        "retriever": "retrieval" not in tasks,
        "ranker": "ranking" not in tasks,
        "tokenizer": need.tokenizer is None,
        "collisions": need.collisions == "none",
    }
    typed = [o for o in request.overrides if not absent.get(o.partition(".")[0], False)]
    config = RunConfig(
        dataset=dataset,
        tokenizer=need.tokenizer,
        recommenders=need.recommenders,
        seed=seed,
        budget=request.budget,
        ties=request.ties or need.ties,
        device=request.device,
        threads=request.threads or 0,
        collisions=need.collisions,
    )
    given = {o.partition("=")[0].strip() for o in typed}
    planned = {name: value for name, value in (dict(need.wished) | dict(need.settings)).items() if name not in given}
    spec = RunSpec(
        config,
        tuple(f"{n}={_literal(v)}" for n, v in planned.items()) + tuple(typed),
        None,
        request.data_dir,
        "failed",
        ("bench", *sys.argv[1:]),
    )
    # What the budget gives anyway is left out, so that commands and records name what makes a row.
    if need.tokenizer is None:
        return spec
    usual = _composed(replace(spec, overrides=()))
    needed = {n: v for n, v in planned.items() if usual[n.partition(".")[0]].get(n.partition(".")[2]) != v}
    return replace(spec, overrides=tuple(f"{n}={_literal(v)}" for n, v in needed.items()) + tuple(typed))


def _literal(value: Any) -> str:
    """A value in the grammar of settings."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


def _composed(spec: RunSpec) -> dict[str, Mapping[str, Any]]:
    """The configs that a run would have, as they stand on a record; reads no data."""
    composed = compose_run(spec.config, spec.overrides)
    return {
        group: json.loads(canonical_json(config)) for group in _GROUPS if (config := getattr(composed, group)) is not None
    }


def _execute(request: ReproduceRequest, specs: Mapping[str, Sequence[RunSpec]]) -> dict[str, str]:
    """Run what is not recorded; row -> why a run of it failed."""
    distinct = {arguments(spec): spec for by_seed in specs.values() for spec in by_seed}
    reporter = default_reporter()
    runtime = LocalRuntime(request.device, "fp32", request.threads or 0, reporter)
    failed: dict[tuple[str, ...], str] = {}
    try:
        launcher = InlineLauncher(runtime)
        for outcome in launcher.map(tuple(distinct.values()), LaunchSettings(debug=request.debug)):
            if outcome.failure is not None:
                failed[arguments(outcome.spec)] = f"failed: {outcome.failure.error}"
                sys.stderr.write(
                    f"failed: {outcome.failure.run}: {outcome.failure.error}\n  repeat with: {outcome.failure.command}\n"
                )
    finally:
        runtime.process_group.close()
    return {row: why for row, by_seed in specs.items() for spec in by_seed if (why := failed.get(arguments(spec)))}


def _command(by_seed: Sequence[RunSpec]) -> str:
    """The command that makes all seeds of a row."""
    words = list(arguments(by_seed[0]))
    words[words.index("--seed") + 1] = ",".join(str(spec.config.seed) for spec in by_seed)
    return shlex.join(("bench", *words))
