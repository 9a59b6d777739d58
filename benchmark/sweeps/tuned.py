"""A study's best settings as the preset ``tuned``, in the format of ``sidbench.benchmark.config.presets``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from sidbench.benchmark.config.compose import parse_override
from sidbench.benchmark.config.presets import FOLDER, TUNED, read_preset
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.store.paths import home_folder
from sidbench.benchmark.sweeps.results import StudyResult
from sidbench.benchmark.sweeps.space import plain_value
from sidbench.benchmark.sweeps.suggest import decode
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.files import write_whole

TASKS = {"retriever": "retrieval", "ranker": "ranking"}


def chosen_trial(result: StudyResult, number: int | None) -> FrozenTrial:
    """Trial ``number``, or the best one. Raises ``InputError`` when there is none, or several that no other one beats."""
    if number is not None:
        if number not in result.states.complete:
            raise InputError(
                f"trial {number} of {result.name}",
                got="no complete trial of that number",
                wanted=f"one of {', '.join(map(str, result.states.complete)) or '(none yet)'}",
            )
        return result.states.by_number[number]
    if result.best is not None:
        return result.best
    if result.front:
        raise InputError(
            f"best trial of {result.name}",
            got=f"{len(result.front)} on the Pareto front",
            wanted="a choice",
            do=f"--trial with one of {', '.join(str(t.number) for t in result.front)}",
        )
    raise InputError(f"best trial of {result.name}", got="no complete trial", wanted="one", do="let the sweep go on")


def write_tuned(result: StudyResult, trial: FrozenTrial, out: Path | None) -> Path:
    """Write ``<out>/<tokenizer>/<dataset>/tuned.toml`` and return its path; ``out`` is ``<home>/presets`` by default.

    The preset holds what the sweep searched and what its command fixed of tokenizer and recommenders. It replaces a
    preset of this name that came from a sweep. Raises ``InputError`` rather than replace another one.
    """
    tables, left = _tables(result, trial)
    folder = (out or home_folder() / FOLDER) / result.attributes["tokenizer"] / result.attributes["dataset"]
    path = folder / f"{TUNED}.toml"
    if path.exists() and not read_preset(path).source.startswith("sweep "):
        raise InputError(
            f"preset {path}",
            got="one that is not from a sweep",
            wanted="none, or one from a sweep",
            do="move it, or choose another folder with --out",
        )
    text = [f"source = {_toml(source_text(result, trial))}"]
    if left:
        text.append(f"note = {_toml('Found with ' + ', '.join(left) + '; a preset holds no such settings.')}")
    for name, table in tables.items():
        if table:
            text += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    text += ["", "[effort]", f"trials = {result.states.finished}", f"seconds = {result.states.seconds:.1f}", ""]
    try:
        write_whole(path, "\n".join(text))
    except OSError as error:
        raise InputError(
            f"preset {path}", got=f"{error.strerror}", wanted="a folder this user can write", do="choose another with --out"
        ) from error
    return path


def source_text(result: StudyResult, trial: FrozenTrial) -> str:
    """Study, trials by state, budget, objective against the default, and data, in one line."""
    attributes, states = result.attributes, result.states
    counted = ", ".join(
        f"{len(n)} {name}"
        for name, n in (("complete", states.complete), ("pruned", states.pruned), ("failed", states.failed))
        if n
    )
    seeds = ", ".join(map(str, attributes["seeds"]))
    found = "; ".join(_against(name, i, result, trial) for i, name in enumerate(attributes["objectives"]))
    return (
        f"sweep {result.name}, trial {trial.number} of {states.finished} trials ({counted}), budget "
        f"{attributes['budget']}, {found} (validation of {'+'.join(attributes['recommenders']) or 'SIDs'}, run seeds "
        f"{seeds}), data {attributes['data_hash'][:12]}"
    )


def _against(name: str, place: int, result: StudyResult, trial: FrozenTrial) -> str:
    value = f"{name} {(trial.values or [])[place]:.6g}"
    default = result.default
    return value if default is None else f"{value} against {(default.values or [])[place]:.6g} by default"


def _tables(result: StudyResult, trial: FrozenTrial) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(table -> setting -> value), and what a preset cannot hold, as ``name=value``."""
    attributes = result.attributes
    parsed = [parse_override(text) for text in attributes["fixed"]]
    values = {**{o.key_or_group: plain_value(o.value()) for o in parsed}, **decode(trial.params)}
    by_task = {str(installed().find("recommender", n).info["task"]): n for n in attributes["recommenders"]}
    tables: dict[str, dict[str, Any]] = {"tokenizer": {}}
    left = [] if attributes["collisions"] == "none" else [f"--collisions {attributes['collisions']}"]
    for name, value in values.items():
        group, _, field = name.partition(".")
        if value is None and attributes["default"].get(name, 0) is None:
            continue  # the default stays: TOML has no word for it
        if value is None:
            raise InputError(
                f"{name} of trial {trial.number}",
                got="none",
                wanted="a value that a preset can hold",
                do=f"choose another with --trial, or give {name}=null on the command line of the run",
            )
        if group == "tokenizer":
            tables[group][field] = value
        elif group in TASKS and TASKS[group] in by_task and name in trial.params:
            tables.setdefault(f"recommender.{by_task[TASKS[group]]}", {})[field] = value
        else:
            left.append(f"{name}={json.dumps(value)}")
    return tables, left


def _toml(value: Any) -> str:
    """A TOML value; JSON's strings, numbers, booleans and arrays are written alike there."""
    if isinstance(value, Mapping):
        raise InputError("preset value", got=value, wanted="no table")
    if isinstance(value, float):
        return repr(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
