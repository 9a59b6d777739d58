"""A space as Optuna's distributions: values of a trial from its suggestions, and back for queued trials."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from sidbench.benchmark.sweeps.space import Choices, Domain, Interval, Space
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

SCALARS = (str, bool, int, float, type(None))
GRID_LIMIT = 100_000
LIST = "["  # how the text of a stored tuple begins


def _labels(domain: Choices) -> dict[Any, Any]:
    """What the storage sees -> the value."""
    return {_label(v): v for v in domain.values}


def _label(value: Any) -> Any:
    """Storages keep scalars only, so a tuple is written as JSON."""
    return value if isinstance(value, SCALARS) else json.dumps(list(value))


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """``<group>.<field>`` -> value for one trial."""
    return {name: _suggest(trial, name, domain) for name, domain in space.domains.items()}


def _suggest(trial: Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Choices):
        labels = _labels(domain)
        return labels[trial.suggest_categorical(name, list(labels))]
    if domain.whole:
        return trial.suggest_int(name, int(domain.low), int(domain.high), step=int(domain.step) or 1, log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, step=domain.step or None, log=domain.log)


def as_parameters(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Values as the storage keeps them, for a queued trial."""
    return {name: _stored(space.domains[name], value) for name, value in values.items()}


def _stored(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Choices):
        return _label(value)
    return int(value) if domain.whole else float(value)


def decode(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values that stored parameters stand for."""
    return {
        name: tuple(json.loads(value)) if isinstance(value, str) and value.startswith(LIST) else value
        for name, value in parameters.items()
    }


def grid_points(space: Space, seed: int) -> list[dict[str, Any]]:
    """Every point of a space of lists and ranges as stored parameters, shuffled by ``seed``, the default left out.

    Raises ``InputError`` when a setting is searched in an interval, which has no points.
    """
    axes: list[list[Any]] = []
    for name, domain in space.domains.items():
        if isinstance(domain, Interval) and not domain.step and not (domain.whole and not domain.log):
            raise InputError(
                "--sampler grid",
                got=f"{name} in {domain}",
                wanted="a list or a range",
                do=f"for example {name}=choice({domain.low:g},{domain.high:g}), or fix it",
            )
        axes.append(list(domain.values) if isinstance(domain, Choices) else _points(domain))
    size = 1
    for axis in axes:
        size *= len(axis)
    if size > GRID_LIMIT:
        raise InputError(
            "--sampler grid",
            got=f"{size} points",
            wanted=f"at most {GRID_LIMIT}",
            do="fix settings, or take another sampler",
        )
    default = as_parameters(space.default, space)
    points = [as_parameters(dict(zip(space.domains, values, strict=True)), space) for values in itertools.product(*axes)]
    order = Rng(seed).child("sweep", "grid").numpy().permutation(len(points))
    return [points[i] for i in order if points[i] != default]


def _points(domain: Interval) -> list[float]:
    if domain.step:
        return list(domain.grid())
    return [float(v) for v in range(int(domain.low), int(domain.high) + 1)]
