"""CMA-ES (Hansen, 'The CMA evolution strategy: a tutorial', 2016) over the intervals of a space; lists are drawn at random.

Optuna's own sampler keeps its state in the storage as a pickle, which this project reads nowhere. Here the state is
replayed from the finished trials: they are few, and an update takes microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from cmaes import CMA
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

FIRST_SIGMA = 1 / 6  # of the width of an interval, so that its ends lie three deviations from its middle


def numeric(distributions: Mapping[str, BaseDistribution]) -> dict[str, FloatDistribution | IntDistribution]:
    """The distributions that CMA-ES can search: numbers with more than one value."""
    return {
        name: d
        for name, d in sorted(distributions.items())
        if isinstance(d, (FloatDistribution, IntDistribution)) and not d.single()
    }


def to_unit(value: float, d: FloatDistribution | IntDistribution) -> float:
    """A value's place in its interval, 0 to 1, on the interval's own scale."""
    low, high, v = (math.log(d.low), math.log(d.high), math.log(value)) if d.log else (d.low, d.high, value)
    return (v - low) / (high - low)


def from_unit(place: float, d: FloatDistribution | IntDistribution) -> float:
    """The value at a place, on the grid of a distribution that has one."""
    place = min(max(place, 0.0), 1.0)
    value = (
        math.exp(math.log(d.low) + place * (math.log(d.high) - math.log(d.low)))
        if d.log
        else d.low + place * (d.high - d.low)
    )
    if d.step is not None and not d.log:
        value = d.low + round((value - d.low) / d.step) * d.step
    elif isinstance(d, IntDistribution):
        value = round(value)
    return min(max(value, d.low), d.high)


class CmaSampler(BaseSampler):
    """CMA-ES whose generations are the complete trials in the order of their numbers; the first one is its start."""

    def __init__(self, seed: int) -> None:
        self._seed, self._random = seed, RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return dict(numeric(intersection_search_space(done)))

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        space = numeric(search_space)
        if len(space) < 2:
            return {}
        done = sorted(
            (t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if space.keys() <= t.params.keys()),
            key=lambda t: t.number,
        )
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        points = [
            (np.array([to_unit(t.params[n], d) for n, d in space.items()]), sign * float(t.value or 0.0)) for t in done
        ]
        strategy = CMA(mean=points[0][0], sigma=FIRST_SIGMA, bounds=np.array([[0.0, 1.0]] * len(space)), seed=self._seed)
        size = strategy.population_size
        for start in range(0, len(points) - size + 1, size):
            strategy.tell(points[start : start + size])
        drawn = strategy.ask()
        made = {name: from_unit(float(x), d) for x, (name, d) in zip(drawn, space.items(), strict=True)}
        return {n: int(v) if isinstance(space[n], IntDistribution) else v for n, v in made.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)
