"""A run as the words of one command: what a worker is started with, and what repeats a failed run.

Reading the words back gives the same ``RunSpec``; only ``command_line``, what the user typed, is not part of them.
"""

from __future__ import annotations

import dataclasses
import shlex

from sidbench.benchmark.config.compose import RunConfig
from sidbench.benchmark.runs.spec import RunSpec

NONE = "none"
# Field of RunConfig -> option. Options that stand at their default are left out, except those that say what the run is.
_ALWAYS = {"dataset": "--dataset", "recommenders": "--recommender", "seed": "--seed", "budget": "--budget", "ties": "--ties"}
_UNUSUAL = {
    "collisions": "--collisions",
    "precision": "--precision",
    "accumulate": "--accumulate",
    "device": "--device",
    "threads": "--threads",
}
_USUAL_RERUN = "failed"


def arguments(spec: RunSpec) -> tuple[str, ...]:
    """The words after ``bench`` that run ``spec`` and nothing else."""
    config, usual = spec.config, RunConfig()
    words = ["run", "--tokenizer", config.tokenizer or NONE]
    if config.compile:
        words.append("--compile")
    if spec.preset is not None:
        words += ["--preset", spec.preset.name]
    for field, option in _UNUSUAL.items():
        if getattr(config, field) != getattr(usual, field):
            words += [option, str(getattr(config, field))]
    if spec.data_dir is not None:
        words += ["--data-dir", str(spec.data_dir)]
    if spec.rerun != _USUAL_RERUN:
        words += ["--rerun", spec.rerun]
    for field, option in _ALWAYS.items():
        value = getattr(config, field)
        words += [option, (",".join(value) or NONE) if isinstance(value, tuple) else str(value)]
    return (*words, *spec.overrides)


def repeat_command(spec: RunSpec) -> str:
    """The shell command that tries a failed run again: what is finished stays, whatever rule the run came with."""
    return shlex.join(("bench", *arguments(dataclasses.replace(spec, rerun=_USUAL_RERUN))))
