"""One run as a value, and what turns it into a record: shared by `bench run`, its launchers and sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from sidbench.benchmark.config.compose import RunConfig, compose_run
from sidbench.benchmark.config.presets import Preset, settings_source
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.run import NO_POLICY, RunBuilder
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.stages.dataset import dataset_stage
from sidbench.benchmark.stages.pipeline import StageContext
from sidbench.benchmark.stages.prepared import prepare
from sidbench.benchmark.store.failures import read_note
from sidbench.benchmark.store.paths import cache_folder
from sidbench.benchmark.store.records import RunRecord
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.base import Dataset
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.locate import LocalFiles


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides one run, so that another process or machine can be given it.

    overrides: Hydra overrides ``group.field=value``. preset: settings between budget and overrides. data_dir: where raw
    files are looked for first. rerun: one of `RERUN`. command_line: what the user typed, for the record. varied: the
    overrides that tell the run from others of its grid, for its label; no part of what the run is.
    """

    config: RunConfig
    overrides: tuple[str, ...] = ()
    preset: Preset | None = None
    data_dir: Path | None = None
    rerun: str = "failed"
    command_line: tuple[str, ...] = ("bench",)
    varied: tuple[str, ...] = field(default=(), compare=False)

    @property
    def codes(self) -> str:
        """What makes the SIDs of the run, as in the tables: "rqkmeans +append"."""
        policy = "" if self.config.collisions == NO_POLICY else f" +{self.config.collisions}"
        return (self.config.tokenizer or "no tokenizer") + policy

    @property
    def label(self) -> str:
        """The run in one line, for progress and summaries."""
        preset = () if self.preset is None else (f"preset {self.preset.name}",)
        models = "+".join(self.config.recommenders) or "SIDs only"
        return " · ".join(
            [self.config.dataset, self.config.budget, self.codes, *preset, models, f"seed {self.config.seed}", *self.varied]
        )


def open_run(spec: RunSpec, runtime: LocalRuntime) -> RunBuilder:
    """Compose the configs of a run and read its data; nothing is trained yet.

    Data without ratings lose the ranking task, with a warning on the record. Raises ``InputError`` for settings and data
    that do not fit, ``StageError`` when the cache cannot be written.
    """
    cache = StageCache(cache_folder(), runtime.reporter, refresh=spec.rerun == "always", process_group=runtime.process_group)
    groups = None if spec.preset is None else spec.preset.groups_for(spec.config.recommenders)
    composed = compose_run(spec.config, spec.overrides, preset=groups)
    # Files that belong to an imported data set (its embeddings) lie in its own folder.
    own = getattr(composed.dataset, "path", "")
    locate = LocalFiles(spec.data_dir or (Path(own) if own else None))
    plugin = installed().load("dataset", spec.config.dataset)(composed.dataset)
    places = [str(place) for place in locate.roots().values()]
    dataset = dataset_stage(cache, spec.config.dataset, plugin, locate, places)
    narrowed = _possible(spec.config, dataset, runtime)
    if narrowed != spec.config:
        groups = None if spec.preset is None else spec.preset.groups_for(narrowed.recommenders)
        composed = compose_run(narrowed, [o for o in spec.overrides if not o.startswith("ranker.")], preset=groups)
    context = StageContext(cache, runtime)
    return RunBuilder(
        composed,
        prepare(composed, dataset, context, locate),
        context,
        spec.command_line,
        settings_source(spec.preset, spec.overrides),
        {} if spec.preset is None else spec.preset.effort,
    )


@dataclass(frozen=True)
class RunLookup:
    """A run that is composed, with what the store knows of it under its ``rerun`` rule.

    record: of an earlier equal run that is not to be repeated. refusal: why it failed before, where that forbids another
    try. Neither: it is to be executed.
    """

    builder: RunBuilder
    record: RunRecord | None
    refusal: str | None


def look_up(spec: RunSpec, runtime: LocalRuntime) -> RunLookup:
    """``open_run``, then the run's place in the store; of several processes all get what the leader sees."""
    builder = open_run(spec, runtime)
    if spec.rerun != "always" and (known := builder.existing()) is not None:
        return RunLookup(builder, known, None)
    noted = read_note(builder.id) if spec.rerun == "never" and runtime.process_group.is_main_process else None
    earlier = runtime.process_group.broadcast(noted)
    return RunLookup(
        builder, None, None if earlier is None else f"{earlier} (failed before and not tried again: --rerun never)"
    )


def _possible(config: RunConfig, dataset: Dataset, runtime: LocalRuntime) -> RunConfig:
    """The config without ranking when the data cannot carry it; said on the record, and an error if nothing is left."""
    if dataset.interactions.rating is not None:
        return config
    kept = tuple(n for n in config.recommenders if installed().find("recommender", n).info["task"] != "ranking")
    if kept == config.recommenders:
        return config
    if not kept:
        raise InputError(
            "ranking task",
            got=f"dataset {config.dataset} without ratings",
            wanted="ratings for labels",
            do="use --recommender mtp, or a dataset with ratings",
        )
    runtime.warn(f"ranking was not run: {dataset.card.absent.get('rating', 'the data have no ratings')}")
    return replace(config, recommenders=kept)
