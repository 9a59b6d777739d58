"""Samplers and pruners by name. What trial n is given depends on (seed, n, the finished trials), not on who asks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sidbench.benchmark.sweeps.cma import CmaSampler
from sidbench.benchmark.sweeps.space import Interval, Space
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.seeds import Rng

GRID = "grid"
STARTUP_TRIALS = 8  # trials drawn at random before a model of them is worth anything
FIRST_PRUNING = 4  # validations before a trial is compared: curves of the first epochs say little about where they end
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: MedianPruner(n_startup_trials=4, n_warmup_steps=FIRST_PRUNING),
    "hyperband": HyperbandPruner,
    "wilcoxon": WilcoxonPruner,
    "none": NopPruner,
}
# A grid is queued point by point (`grid_points`); what lies beyond its end is drawn at random.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
    "cmaes": CmaSampler,
    "random": lambda seed: RandomSampler(seed=seed),
    GRID: lambda seed: RandomSampler(seed=seed),
}


class PerTrialSampler(BaseSampler):
    """A sampler seeded anew for every trial from (seed, number of the trial).

    Several workers with one seed would otherwise draw the same values, and a resumed sweep would draw its first values
    again.
    """

    def __init__(self, make: Callable[[int], BaseSampler], rng: Rng) -> None:
        self._make, self._rng, self._current, self._sampler = make, rng, -1, make(0)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._current:
            self._current = trial.number
            self._sampler = self._make(self._rng.child("trial", trial.number).integer() % 2**31)
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._of(trial).after_trial(study, trial, state, values)


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The sampler ``name``. Raises ``InputError`` for an unknown one."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS, do="use --sampler with one of these")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PerTrialSampler(SAMPLERS[name], Rng(seed).child("sweep", name))


def check_sampler(name: str, space: Space, n_objectives: int) -> None:
    """Raise ``InputError`` where CMA-ES could do nothing: it moves in intervals, and towards one objective."""
    intervals = [n for n, domain in space.domains.items() if isinstance(domain, Interval)]
    if name == "cmaes" and (len(intervals) < 2 or n_objectives > 1):
        raise InputError(
            "--sampler cmaes",
            got=f"{len(intervals)} interval(s) and {n_objectives} objective(s)",
            wanted="at least two intervals and one objective",
            do="search settings with interval(low,high), or use --sampler tpe",
        )


def make_pruner(name: str, n_objectives: int, n_seeds: int) -> BasePruner:
    """The pruner ``name``; none with several objectives. Raises ``InputError`` for an unknown or senseless one."""
    if name not in PRUNERS:
        raise unknown_name("pruner", name, PRUNERS, do="use --pruner with one of these")
    if n_objectives > 1:
        return NopPruner()
    if name == "wilcoxon" and n_seeds < 2:
        raise InputError(
            "--pruner wilcoxon",
            got="one seed",
            wanted="several seeds, over which it compares trials",
            do="add --seeds 0,1,2,3,4",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[name]()
