"""A run made ready: its settings composed, its data read, its place in the store known. Nothing is trained yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sidbench.benchmark.config.compose import ComposedRun, compose_run
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.folder import RunFolder
from sidbench.benchmark.runs.identity import run_id
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.stages.context import StageContext, open_context
from sidbench.benchmark.stages.dataset import dataset_stage
from sidbench.benchmark.stages.features import build_features
from sidbench.benchmark.stages.prepared import Prepared, prepare
from sidbench.benchmark.stages.shared import SharedData
from sidbench.benchmark.store.failures import read_note
from sidbench.benchmark.store.paths import runs_folder
from sidbench.benchmark.store.records import RunRecord, StageRecord
from sidbench.benchmark.store.stage_cache import Traced
from sidbench.datasets.base import Dataset
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_json
from sidbench.datasets.reading.locate import LocalFiles


@dataclass(frozen=True)
class Plan:
    """What is to be computed, and what the store knows of it.

    composed: configs of every stage; a task that the data cannot carry is gone. prepared: data and splits, known by
    ``data_key``. record: of an earlier equal run that is not to be repeated. refusal: why it failed before, where that
    forbids another try. Neither: it is to be executed. warnings, stages: of what was done so far.
    """

    spec: RunSpec
    composed: ComposedRun
    prepared: Prepared
    context: StageContext
    run_id: str
    folder: RunFolder
    shared: SharedData
    data_key: str
    locate: LocalFiles
    warnings: tuple[str, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    record: RunRecord | None = None
    refusal: str | None = None


def plan_run(spec: RunSpec, runtime: LocalRuntime, shared: SharedData | None = None, runs: Path | None = None) -> Plan:
    """Compose the configs of a run and read its data.

    shared: data of earlier runs of the same command; a run that is to be computed anew takes nothing from it. runs: folder
    of runs, the home's by default. Data without ratings lose the ranking task, with a warning. Raises ``InputError`` for
    settings and data that do not fit, ``StageError`` when the cache cannot be written.
    """
    anew = spec.rerun == "always"
    shared = SharedData() if shared is None or anew else shared
    context = open_context(runtime, anew=anew)
    composed = composed_of(spec)
    # Files that belong to an imported data set (its embeddings) lie in its own folder.
    own = getattr(composed.dataset, "path", "")
    locate = LocalFiles(spec.data_dir or (Path(own) if own else None))
    places = [str(place) for place in locate.roots().values()]
    plugin = installed().load("dataset", spec.config.dataset)(composed.dataset)
    dataset_key = hash_json([spec.config.dataset, composed.dataset, places])
    dataset = shared.dataset(dataset_key, lambda: dataset_stage(context.cache, spec.config.dataset, plugin, locate, places))
    narrowed, said = _possible(spec.config, dataset.value)
    if narrowed != spec.config:
        kept = tuple(o for o in spec.overrides if not o.startswith("ranker."))
        composed = composed_of(replace(spec, config=narrowed, overrides=kept))
    data_key = hash_json([dataset_key, composed.run.ties, composed.run.ranking_split])
    prepared = shared.prepared(data_key, lambda: prepare(composed.run, dataset.value))
    identity = run_id(composed, prepared)
    warnings = _shown(context, (*dataset.warnings, *said))
    folder = RunFolder((runs_folder() if runs is None else runs) / identity, runtime.process_group)
    return Plan(spec, composed, prepared, context, identity, folder, shared, data_key, locate, warnings, dataset.stages)


def look_up(plan: Plan) -> Plan:
    """The plan with what the store knows under the run's ``rerun`` rule; of several processes all get what the leader sees.

    Raises ``InputError`` for a record of a newer release.
    """
    if plan.spec.rerun != "always":
        known = plan.folder.read()
        plan = replace(plan, record=known.value, warnings=(*plan.warnings, *_shown(plan.context, known.warnings)))
        if known.value is not None:
            return plan
    group = plan.context.runtime.process_group
    noted = read_note(plan.run_id) if plan.spec.rerun == "never" and group.is_main_process else None
    earlier = group.broadcast(noted)
    if earlier is None:
        return plan
    return replace(plan, refusal=f"{earlier} (failed before and not tried again: --rerun never)")


def features_of(plan: Plan, context: StageContext) -> Traced[ItemFeatures]:
    """The item features of a run, built where no run before it had them."""
    composed, prepared = plan.composed, plan.prepared
    key = hash_json([plan.data_key, composed.features, composed.behaviour, context.runtime.numerics])
    found = plan.shared.features(
        key,
        lambda: build_features(
            context,
            prepared.dataset,
            prepared.shared_training,
            composed.features,
            composed.behaviour,
            plan.locate,
        ),
    )
    _shown(context, found.warnings)
    return found


def composed_of(spec: RunSpec) -> ComposedRun:
    """The configs of every stage of a run. Raises ``InputError`` for settings that do not fit."""
    groups = None if spec.preset is None else spec.preset.groups_for(spec.config.recommenders)
    return compose_run(spec.config, spec.overrides, preset=groups)


def _shown(context: StageContext, warnings: tuple[str, ...]) -> tuple[str, ...]:
    for warning in warnings:
        context.reporter.warn(warning)
    return warnings


def _possible(config: RunConfig, dataset: Dataset) -> tuple[RunConfig, tuple[str, ...]]:
    """The config without ranking when the data cannot carry it, with a warning; an error if nothing is left."""
    if dataset.interactions.rating is not None:
        return config, ()
    kept = tuple(n for n in config.recommenders if installed().find("recommender", n).info["task"] != "ranking")
    if kept == config.recommenders:
        return config, ()
    if not kept:
        raise InputError(
            "ranking task",
            got=f"dataset {config.dataset} without ratings",
            wanted="ratings for labels",
            do="use --recommender mtp, or a dataset with ratings",
        )
    said = f"ranking was not run: {dataset.card.absent.get('rating', 'the data have no ratings')}"
    return replace(config, recommenders=kept), (said,)
