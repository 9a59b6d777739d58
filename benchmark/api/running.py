"""``sidbench.run``: every combination of its lists, names and objects alike, as ``bench run`` runs them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.api.data import ImportedDataset
from sidbench.benchmark.api.homes import at_home
from sidbench.benchmark.api.objects import Chosen, choose_all, several
from sidbench.benchmark.api.results import Results, from_outcomes
from sidbench.benchmark.api.settings import override
from sidbench.benchmark.config.run_config import NO_POLICY
from sidbench.benchmark.launchers.base import Launcher, LaunchSettings
from sidbench.benchmark.launchers.choosing import in_order, launch_settings, launcher_with_workers
from sidbench.benchmark.launchers.inline import InlineLauncher
from sidbench.benchmark.plugins.live import registered
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.command_line import arguments
from sidbench.benchmark.runs.grid import expand
from sidbench.benchmark.runs.plan import composed_of
from sidbench.benchmark.runs.request import NO_TOKENIZER, LaunchOptions, RunRequest
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter, default_reporter
from sidbench.datasets.foundation.errors import InputError

_GROUPS = {"retrieval": "retriever", "ranking": "ranker"}


def run(
    tokenizers: Any,
    *,
    dataset: Any = "synthetic",
    recommenders: Any = ("mtp", "ppnet"),
    seeds: Any = (0,),
    budget: str | Sequence[str] = "quick",
    settings: Mapping[str, Any] | None = None,
    collisions: str | Sequence[str] = NO_POLICY,
    preset: str = "",
    ties: str | Sequence[str] = "shuffled",
    rerun: str = "failed",
    home: str | Path | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    threads: int = 0,
    launcher: str = "inline",
    jobs: int = 0,
    progress: bool = True,
) -> Results:
    """Tokenize, train, evaluate: one record per combination of the lists; a failed run stops no other.

    Parameters
    ----------
    tokenizers: names, classes, objects with settings, or a list of these; "all", "controls", and "none" for baselines.
        An object gives its class and those settings that differ from the class's defaults; the others are the budget's,
        as for a name. What it has learned is not used.
    dataset: names, what ``dataset_from_frames`` gave, or a list of these.
    recommenders: names, classes or objects; "none" measures the SIDs and trains no recommender.
    seeds: whole numbers. budget: "smoke", "quick", "standard" or "paper". collisions: names of collision policies.
    settings: ``{"tokenizer.codebook_size": 64, "retriever.epochs": 5}``, for every run.
    preset, ties, rerun, device, precision, threads, data_dir: as the options of ``bench run``.
    home: where records and cached stages lie; default ``$SIDBENCH_HOME``, else the user's data folder.
    launcher: "inline" (this process), "local" (``jobs`` processes of this machine), "ray" or "slurm", as the option of
        ``bench run``. Classes and objects of this process have no names elsewhere, so they run inline only.
    jobs: runs at a time, 0 for the launcher's default.
    progress: show what is computed on stderr.

    Returns ``Results``, seeds outer, tokenizers inner. A run that fails while its data are read or it computes is among
    them with its reason, and a warning names it; a single run raises its ``InputError``. Raises ``InputError`` before
    anything runs for unknown names and settings, wrong values, and two classes of one name.
    """
    entries, models = choose_all("tokenizer", tokenizers or NO_TOKENIZER), choose_all("recommender", recommenders or "none")
    launch = LaunchOptions(launcher, jobs)
    settings_of_launch, threads = launch_settings(launch, device, threads)
    machine = {"device": device, "precision": precision, "threads": threads}
    live = [entry.cls for entry in (*entries, *models) if entry.cls is not None]
    if live and launcher != "inline":
        raise InputError(
            f"launcher {launcher!r}",
            got=f"{live[0].__name__}, a class of this process",
            wanted="plugins that other processes find by name",
            do='put it into a file with `bench plugin new NAME`, or leave launcher="inline"',
        )
    with at_home(home), registered(live):
        requests = [
            _request(
                entry,
                models,
                data,
                _seeds(seeds),
                settings or {},
                budget=",".join(several(budget)),
                collisions=",".join(several(collisions)),
                preset=preset,
                ties=",".join(several(ties)),
                rerun=rerun,
                data_dir=None if data_dir is None else Path(data_dir),
                common=machine,
            )
            for data, entry in product(several(dataset), entries)
        ]
        for line in dict.fromkeys(line for request in requests for line in request.skipped):
            warnings.warn(line, stacklevel=2)
        grids = [_specs(request, entries[i % len(entries)], models) for i, request in enumerate(requests)]
        done = execute(_interleaved(grids, len(entries)), progress, launch, settings_of_launch)
    for lost in done.failed:
        warnings.warn(f"run {lost.label} failed: {lost.reason}", stacklevel=2)
    return done


def execute(specs: Sequence[RunSpec], progress: bool, launch: LaunchOptions, settings: LaunchSettings) -> Results:
    """Run ``specs``, whose machine is the same. Raises the ``InputError`` of a single run."""
    kinds = (replace(spec, config=replace(spec.config, seed=0)) for spec in specs)
    for spec in {kind.identity: kind for kind in kinds}.values():
        composed_of(spec)  # a mistake in the settings of any run is told before the first one starts
    reporter = default_reporter() if progress else Reporter()
    started: Launcher
    if launch.launcher == "inline":
        started = InlineLauncher(LocalRuntime(**specs[0].config.machine, reporter=reporter))
    else:
        started = launcher_with_workers(launch.launcher, reporter)
    with closing(started.map(specs, settings)) as ended:  # an interrupt ends the workers before anything else
        outcomes = list(ended)
    return from_outcomes(in_order(specs, outcomes))


def _request(
    entry: Chosen,
    models: Sequence[Chosen],
    dataset: Any,
    seeds: str,
    settings: Mapping[str, Any],
    **options: Any,
) -> RunRequest:
    """The runs of one tokenizer on one data set, without the settings of single entries."""
    given = dict(settings)
    if isinstance(dataset, ImportedDataset):
        given = {**dataset.settings, **given}
    elif not isinstance(dataset, str):
        raise InputError(
            "dataset",
            got=type(dataset).__name__,
            wanted="a name of list_datasets(), or what dataset_from_frames gave",
            do="make one with sidbench.dataset_from_frames(interactions, items)",
        )
    for name in entry.settings:
        if f"tokenizer.{name}" in given:
            raise InputError(f"setting tokenizer.{name}", got=f"given by settings= and by {entry.name}", wanted="one value")
    return RunRequest.from_options(
        entry.name,
        "custom" if isinstance(dataset, ImportedDataset) else dataset,
        ",".join(model.name for model in models),
        seeds,
        json=False,
        overrides=[override(name, value) for name, value in given.items()],
        **options,
    )


def _specs(request: RunRequest, entry: Chosen, models: Sequence[Chosen]) -> list[RunSpec]:
    """The runs of a request, with the settings of its tokenizer and of those recommenders that each of them has."""
    specs = []
    for spec in expand(request).specs:
        own = [override(f"tokenizer.{n}", v) for n, v in entry.settings.items()] if spec.config.tokenizer else []
        for model in models:
            name = installed().find("recommender", model.name).name if model.settings else model.name
            if name in spec.config.recommenders and model.settings:
                group = _GROUPS[str(installed().find("recommender", name).info["task"])]
                own += [override(f"{group}.{n}", v) for n, v in model.settings.items()]
        whole = replace(spec, overrides=(*spec.overrides, *own), varied=(*spec.varied, *own))
        specs.append(replace(whole, command_line=("sidbench.run", *arguments(whole)[1:])))
    return specs


def _interleaved(grids: Sequence[Sequence[RunSpec]], width: int) -> list[RunSpec]:
    """Data sets outermost, tokenizers innermost, as ``bench run`` orders a grid; equal runs once."""
    found: dict[object, RunSpec] = {}
    for start in range(0, len(grids), width):
        group = grids[start : start + width]
        for place in range(max(map(len, group), default=0)):
            for spec in (grid[place] for grid in group if place < len(grid)):
                found.setdefault(spec.identity, spec)
    return list(found.values())


def _seeds(seeds: Any) -> str:
    """Seeds as the command line writes them. Raises ``InputError`` for anything but whole numbers from 0."""
    given = several(seeds)
    if not given or not all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 0 for s in given):
        raise InputError("seeds", got=repr(seeds), wanted="whole numbers from 0", do="for example seeds=range(3)")
    return ",".join(str(int(seed)) for seed in given)
