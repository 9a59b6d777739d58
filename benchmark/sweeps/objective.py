"""One trial: tokenizer, SIDs, collision policy and recommender through the cached stages; test data are never read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import StudyDirection

from sidbench.benchmark.config.compose import ComposedRun, compose_run
from sidbench.benchmark.metrics.catalogue import objectives
from sidbench.benchmark.metrics.collisions import collision_rate, group_sizes
from sidbench.benchmark.metrics.declaration import HIGHER
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.run import RunBuilder
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.pipeline import Fitted, encode_items, fit_recommender, fit_tokenizer, resolve_collisions
from sidbench.benchmark.sweeps.space import Space
from sidbench.benchmark.sweeps.worker import Outcome, Refused, Report
from sidbench.datasets.foundation.errors import InputError, StageError, unknown_name
from sidbench.tokenizers.base import PAD, SemanticIds

MAXIMISE, MINIMISE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
# name -> (direction, task whose recommender is trained)
OBJECTIVES: dict[str, tuple[StudyDirection, str]] = {
    # Metrics that the catalogue names as objectives, on validation data: NDCG@10, AUC, and collisions after the policy.
    **{n: (MAXIMISE if m.direction == HIGHER else MINIMISE, m.task or "") for n, m in objectives().items()},
    "code_bits": (MINIMISE, ""),  # mean bits of an item's SID, log2 of the sizes of the positions in use
    "seconds": (MINIMISE, ""),  # wall seconds of the trainings of tokenizer and recommender, also when cached
}
OF_TASK = {m.task: name for name, m in objectives().items() if m.task}  # its value is what validations of the task give
ALIASES = {**OF_TASK, "collision": "collision_rate"}


def objective_names(text: str) -> tuple[str, ...]:
    """Canonical names of a comma list of objectives. Raises ``InputError`` for unknown ones and an empty list."""
    names = tuple(dict.fromkeys(ALIASES.get(part.strip(), part.strip()) for part in text.split(",") if part.strip()))
    for name in names:
        if name not in OBJECTIVES:
            raise unknown_name("objective", name, (*OBJECTIVES, *ALIASES), do="use --objective with one of these")
    if not names:
        raise InputError("--objective", got=repr(text), wanted=f"one of {', '.join(OBJECTIVES)}")
    return names


class TrialReporter(Reporter):
    """Passes everything on to another reporter, and validation values to ``watch`` while one is set."""

    def __init__(self, inner: Reporter) -> None:
        super().__init__()
        self._inner, self.warnings = inner, inner.warnings
        self.watch: Callable[[int, float], None] | None = None

    def line(self, message: str) -> None:
        self._inner.line(message)

    def warn(self, message: str) -> None:
        self._inner.warn(message)

    def begin(self, name: str, total: int) -> None:
        self._inner.begin(name, total)

    def step(self, done: int, figures: Mapping[str, float]) -> None:
        self._inner.step(done, figures)
        if self.watch is not None and "validation" in figures:
            self.watch(int(figures["epoch"]), figures["validation"])

    def end(self) -> None:
        self._inner.end()


@dataclass(frozen=True)
class Measured:
    """One seed's run: the value of each objective and what it was made of."""

    values: dict[str, float]
    curve: tuple[float, ...]


class RunObjective:
    """A trial of a study.

    base: the default run, opened, so that data and features are read once. reporter: the one of its runtime.
    """

    def __init__(
        self, base: RunBuilder, reporter: TrialReporter, space: Space, objectives: Sequence[str], seeds: Sequence[int]
    ) -> None:
        self.base, self.reporter, self.space = base, reporter, space
        self.objectives, self.seeds = tuple(objectives), tuple(seeds)
        self.tasks = tuple(dict.fromkeys(OBJECTIVES[name][1] for name in objectives if OBJECTIVES[name][1]))

    def __call__(self, values: dict[str, Any], report: Report) -> Outcome:
        """Train with these settings, for every seed; the mean of each objective over the seeds.

        One seed: intermediate values are those of the recommender's validations, by epoch. Several: the objective's
        value of each seed, by its place in the list. Raises ``Refused`` for settings that do not fit together or do not
        fit the data; where the default itself does not, or nothing can be written, the ``InputError`` stops the sweep.
        """
        try:
            return self._mean(compose_run(self.base.run, self.space.fixed, preset=self.space.groups(values)), report)
        except InputError as error:
            if values == dict(self.space.default) or error.what.startswith("cache folder"):
                raise
            raise Refused(str(error)) from error

    def _mean(self, composed: ComposedRun, report: Report) -> Outcome:
        self.reporter.warnings.clear()
        found: list[Measured] = []
        for place, seed in enumerate(self.seeds):
            found.append(self._measure(composed, seed, report if len(self.seeds) == 1 else None))
            if len(self.seeds) > 1:
                report(place, found[-1].values[self.objectives[0]])
        means = tuple(float(np.mean([m.values[name] for m in found])) for name in self.objectives)
        facts = {
            "measured": {str(seed): m.values for seed, m in zip(self.seeds, found, strict=True)},
            "curves": {str(seed): list(m.curve) for seed, m in zip(self.seeds, found, strict=True)},
            "warnings": list(self.reporter.warnings),
        }
        return Outcome(means, facts)

    def _measure(self, composed: ComposedRun, seed: int, report: Report | None) -> Measured:
        context, prepared, name = self.base.context, self.base.prepared, composed.run.tokenizer
        if name is None:
            raise InputError("a sweep", got="no tokenizer", wanted="one, whose settings are searched")
        cls = installed().load("tokenizer", name)
        first = len(context.cache.stages)
        fitted = fit_tokenizer(context, name, cls(composed.tokenizer), prepared.features, seed)
        sids = encode_items(context, name, cls(composed.tokenizer), fitted, prepared.features)
        key = fitted.key
        if composed.run.collisions != "none":
            policy = installed().load("collisions", composed.run.collisions)(composed.collisions)
            resolved = resolve_collisions(
                context, composed.run.collisions, policy, cls(composed.tokenizer), fitted, sids, prepared.features, seed
            )
            sids, key = resolved.resolved.sids, resolved.key
        values = {"code_bits": code_bits(sids), "collision_rate": collision_rate(group_sizes(sids.codes))}
        curve: tuple[float, ...] = ()
        for task in self.tasks:
            main = OBJECTIVES[self.objectives[0]][1] == task
            model = self._fit(composed, task, sids, key, seed, report if main else None)
            validations = validation_curve(model)
            values[OF_TASK[task]] = max(validations)
            curve = validations if main else curve
        trained = [s for s in context.cache.stages[first:] if s.name in ("tokenizer", "retrieval.fit", "ranking.fit")]
        values["seconds"] = sum(s.wall_seconds for s in trained)
        return Measured(values, curve)

    def _fit(
        self, composed: ComposedRun, task: str, sids: SemanticIds, key: str, seed: int, report: Report | None
    ) -> Fitted:
        """The fitted recommender of a task; its validations, and no other training's, reach ``report``."""
        prepared, retrieval = self.base.prepared, task == "retrieval"
        name, config = (
            (composed.retriever_name, composed.retriever) if retrieval else (composed.ranker_name, composed.ranker)
        )
        data = prepared.retrieval if retrieval else prepared.ranking
        if name is None or data is None:
            raise InputError(
                f"objective of the {task} task",
                got=f"recommenders {', '.join(composed.run.recommenders)}"
                if name is None
                else f"dataset {composed.run.dataset}, which cannot be ranked",
                wanted=f"a recommender and data for {task}",
                do="change --recommender or --objective",
            )
        data_key = prepared.retrieval_key if retrieval else prepared.ranking_key
        model = installed().load("recommender", name)(config)
        told = False

        def watch(epoch: int, value: float) -> None:
            nonlocal told
            told = True
            if report is not None:
                report(epoch, value)

        self.reporter.watch = watch
        try:
            fitted = fit_recommender(self.base.context, task, name, model, data, data_key, sids, key, seed)
        finally:
            self.reporter.watch = None
        if report is not None and not told:  # read from the cache: the pruner learns the curve all the same
            every = int(getattr(config, "validate_every", 1))
            epochs = validated_training(fitted)["epochs"]
            for place, value in enumerate(validation_curve(fitted), start=1):
                report(min(place * every, epochs), value)
        return fitted


def validated_training(fitted: Fitted) -> Mapping[str, Any]:
    """The log of the last training that was validated. Raises ``StageError`` when none was."""
    for log in reversed(list(fitted.facts["training"].values())):
        if log.get("validations"):
            return log
    raise StageError(
        "the recommender was trained without validations, so a sweep has nothing to compare. To do: choose "
        "another recommender, or give it validation users"
    )


def validation_curve(fitted: Fitted) -> tuple[float, ...]:
    """Validation values of a fitted recommender, one per validation."""
    return tuple(float(v) for v in validated_training(fitted)["validations"])


def code_bits(sids: SemanticIds) -> float:
    """Mean over items of the sum of log2(codebook size) over the positions in use."""
    return float(((sids.codes != PAD) * np.log2(sids.sizes.astype(np.float64))[None, :]).sum(axis=1).mean())
