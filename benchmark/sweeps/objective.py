"""One trial: tokenizer, SIDs, collision policy and recommender through the cached stages; test data are never read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import StudyDirection

from sidbench.benchmark.config.compose import ComposedRun, compose_run
from sidbench.benchmark.metrics.catalogue import objectives
from sidbench.benchmark.metrics.collisions import collision_rate, group_sizes
from sidbench.benchmark.metrics.declaration import HIGHER
from sidbench.benchmark.runs.plan import Plan, features_of
from sidbench.benchmark.stages.context import StageContext, open_context
from sidbench.benchmark.stages.evaluating import RANKING, fit_task, tasks_of
from sidbench.benchmark.stages.fitted import Fitted
from sidbench.benchmark.stages.tokenizing import Tokenized, tokenize
from sidbench.benchmark.store.stage_cache import Traced
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


@dataclass(frozen=True)
class Measured:
    """One seed's run: the value of each objective and what it was made of. warnings: of its stages."""

    values: dict[str, float]
    curve: tuple[float, ...]
    warnings: tuple[str, ...]


class RunObjective:
    """A trial of a study.

    base: the plan of the default run, whose data and features all trials share.
    """

    def __init__(self, base: Plan, space: Space, objectives: Sequence[str], seeds: Sequence[int]) -> None:
        self.base, self.space = base, space
        self.objectives, self.seeds = tuple(objectives), tuple(seeds)
        self.tasks = tuple(dict.fromkeys(OBJECTIVES[name][1] for name in objectives if OBJECTIVES[name][1]))

    def tell(self, message: str) -> None:
        """One line of progress."""
        self.base.context.runtime.report(message)

    def __call__(self, values: dict[str, Any], report: Report) -> Outcome:
        """Train with these settings, for every seed; the mean of each objective over the seeds.

        One seed: intermediate values are those of the recommender's validations, by epoch. Several: the objective's
        value of each seed, by its place in the list. Raises ``Refused`` for settings that do not fit together or do not
        fit the data; where the default itself does not, or nothing can be written, the ``InputError`` stops the sweep.
        """
        try:
            return self._mean(
                compose_run(self.base.composed.run, self.space.fixed, preset=self.space.groups(values)), report
            )
        except InputError as error:
            if values == dict(self.space.default) or error.what.startswith("cache folder"):
                raise
            raise Refused(str(error)) from error

    def _mean(self, composed: ComposedRun, report: Report) -> Outcome:
        context = open_context(self.base.context.runtime)
        found: list[Measured] = []
        for place, seed in enumerate(self.seeds):
            found.append(self._measure(context, composed, seed, report if len(self.seeds) == 1 else None))
            if len(self.seeds) > 1:
                report(place, found[-1].values[self.objectives[0]])
        means = tuple(float(np.mean([m.values[name] for m in found])) for name in self.objectives)
        facts = {
            "measured": {str(seed): m.values for seed, m in zip(self.seeds, found, strict=True)},
            "curves": {str(seed): list(m.curve) for seed, m in zip(self.seeds, found, strict=True)},
            "warnings": list(dict.fromkeys(w for m in found for w in m.warnings)),
        }
        return Outcome(means, facts)

    def _measure(self, context: StageContext, composed: ComposedRun, seed: int, report: Report | None) -> Measured:
        features = features_of(self.base, context)
        tokenized = tokenize(context, composed, features.value, seed)
        sids = tokenized.sids
        values = {"code_bits": code_bits(sids), "collision_rate": collision_rate(group_sizes(sids.codes))}
        curve: tuple[float, ...] = ()
        stages, warnings = list(tokenized.stages), [*features.warnings, *tokenized.warnings]
        for task in self.tasks:
            main = OBJECTIVES[self.objectives[0]][1] == task
            model = self._fit(context, composed, task, tokenized, seed, report if main else None)
            validations = validation_curve(model.value)
            values[OF_TASK[task]] = max(validations)
            curve = validations if main else curve
            stages += model.stages
            warnings += model.warnings
        values["seconds"] = sum(s.wall_seconds for s in stages if s.name in ("tokenizer", "retrieval.fit", "ranking.fit"))
        return Measured(values, curve, tuple(warnings))

    def _fit(
        self,
        context: StageContext,
        composed: ComposedRun,
        task: str,
        tokenized: Tokenized,
        seed: int,
        report: Report | None,
    ) -> Traced[Fitted]:
        """The fitted recommender of a task; its validations, and no other training's, reach ``report``."""
        prepared, chosen = self.base.prepared, tasks_of(composed)
        if task not in chosen or (task == RANKING and prepared.ranking is None):
            raise InputError(
                f"objective of the {task} task",
                got=f"recommenders {', '.join(composed.run.recommenders)}"
                if task not in chosen
                else f"dataset {composed.run.dataset}, which cannot be ranked",
                wanted=f"a recommender and data for {task}",
                do="change --recommender or --objective",
            )
        told: list[int] = []

        def watch(epoch: int, value: float) -> None:
            told.append(epoch)
            if report is not None:
                report(epoch, value)

        fitted = fit_task(context, composed, prepared, task, tokenized, seed, watch)
        if report is not None and not told:  # read from the cache: the pruner learns the curve all the same
            every = int(getattr(chosen[task][1], "validate_every", 1))
            epochs = validated_training(fitted.value)["epochs"]
            for place, value in enumerate(validation_curve(fitted.value), start=1):
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
