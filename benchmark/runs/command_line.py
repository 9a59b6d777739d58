"""A run as the words of one command: what a worker is started with, and what repeats a failed run.

The words follow from the options declared on the fields of ``RunConfig`` and ``RunSpec``. Reading them back gives the
same ``RunSpec``; only ``command_line``, what the user typed, is not part of them.
"""

from __future__ import annotations

import dataclasses
import shlex

from sidbench.benchmark.config.run_config import option_words
from sidbench.benchmark.runs.spec import RunSpec

_USUAL_RERUN = "failed"


def arguments(spec: RunSpec) -> tuple[str, ...]:
    """The words after ``bench`` that run ``spec`` and nothing else."""
    usual, unusual = option_words(spec.config, always=True), option_words(spec.config, always=False)
    return ("run", *usual, *unusual, *option_words(spec, always=False), *spec.overrides)


def repeat_command(spec: RunSpec) -> str:
    """The shell command that tries a failed run again: what is finished stays, whatever rule the run came with."""
    return shlex.join(("bench", *arguments(dataclasses.replace(spec, rerun=_USUAL_RERUN))))
