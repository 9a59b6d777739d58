"""Samplers and pruners by name: every one proposes, CMA-ES closes in, seeds decide, and nothing is unpickled."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from sidbench.benchmark.sweeps.cma import from_unit, to_unit
from sidbench.benchmark.sweeps.space import Choices, Interval, Space
from sidbench.benchmark.sweeps.strategies import PRUNERS, SAMPLERS, check_sampler, make_pruner, make_sampler
from sidbench.datasets.foundation.errors import InputError


def bowl(name: str, trials: int, seed: int = 0) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed))
    for _ in range(trials):
        trial = study.ask()
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", 1e-4, 1, log=True)
        k, kind = trial.suggest_int("k", 1, 9), trial.suggest_categorical("kind", ["a", "b"])
        study.tell(trial, -((x - 0.4) ** 2) - (math.log10(y) + 2) ** 2 / 4 - (k - 6) ** 2 / 16 - (kind == "b") * 0.01)
    return study


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "grid"])
def test_every_sampler_proposes_inside_the_space_and_repeats_itself(name: str) -> None:
    first, again, other = bowl(name, 12), bowl(name, 12), bowl(name, 12, seed=1)
    assert [t.params for t in first.trials] == [t.params for t in again.trials] != [t.params for t in other.trials]
    assert len({tuple(t.params.items()) for t in first.trials}) == 12
    assert not [a for t in first.trials for a in t.system_attrs if "cma" in a]  # no pickled state in the storage


@pytest.mark.parametrize("name", ["cmaes", "tpe"])
def test_a_model_of_the_trials_beats_chance(name: str) -> None:
    late = [t.value for t in bowl(name, 60).trials[40:]]
    chance = [t.value for t in bowl("random", 60).trials[40:]]
    assert sum(late) / 20 > 0.5 * sum(chance) / 20  # values are negative: at most half the distance to the optimum


@given(st.floats(0, 1), st.booleans())
def test_places_in_an_interval_and_values_are_inverse(place: float, log: bool) -> None:
    d = FloatDistribution(1e-3, 10.0, log=log)
    assert d._contains(from_unit(place, d)) and to_unit(from_unit(place, d), d) == pytest.approx(place, abs=1e-9)


@given(st.floats(-1, 2))
def test_whole_numbers_and_steps_stay_on_their_grid(place: float) -> None:
    assert from_unit(place, IntDistribution(1, 9, step=2)) in (1, 3, 5, 7, 9)
    assert from_unit(place, IntDistribution(2, 9, log=True)) in range(2, 10)
    assert from_unit(place, FloatDistribution(0.0, 1.0, step=0.25)) in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_unknown_and_senseless_choices_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'tpe'"):
        make_sampler("tpr", 0)
    with pytest.raises(InputError, match="did you mean 'median'"):
        make_pruner("medain", 1, 1)
    with pytest.raises(InputError, match="several seeds"):
        make_pruner("wilcoxon", 1, 1)
    lists = Space({"tokenizer.k": Choices((1, 2)), "tokenizer.x": Interval(0, 1)}, {})
    with pytest.raises(InputError, match="at least two intervals"):
        check_sampler("cmaes", lists, 1)
    check_sampler("tpe", lists, 2)
    assert all(isinstance(make_pruner(n, 2, 5), optuna.pruners.NopPruner) for n in PRUNERS)
