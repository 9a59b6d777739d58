"""A fitted plugin as a value: what stages hand on and the cache keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.plugins.identity import Code
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.benchmark.store.serialization import load_state
from sidbench.recommenders.base import Recommender
from sidbench.tokenizers.base import Tokenizer

_TRAINING_NUMBERS = ("steps", "epochs", "wall_seconds", "examples_per_second", "step_ms", "processes")


@dataclass(frozen=True)
class Fitted:
    """A fitted plugin: learned state, facts about the fit, the key of its stage, and the code it ran with.

    facts: "diagnostics" (name -> number), "n_parameters", and "training" (name of a training -> its log).
    """

    state: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    key: str
    code: Code

    @property
    def curves(self) -> dict[str, tuple[float, ...]]:
        """Losses and validation values of every training of the fit, for plots."""
        wanted = (("losses", "loss"), ("validations", "validation"))
        return {
            f"{log}_{name}": tuple(float(v) for v in values[key])
            for log, values in self.facts["training"].items()
            for key, name in wanted
            if values.get(key)
        }

    @property
    def training_numbers(self) -> dict[str, float]:
        """What the trainings of the fit took, as ``<training>_<number>``."""
        return {
            f"{log}_{name}": float(value)
            for log, values in self.facts["training"].items()
            for name, value in values.items()
            if name in _TRAINING_NUMBERS
        }


def fit_facts(plugin: Tokenizer | Recommender, runtime: StageRuntime) -> dict[str, Any]:
    """Numbers about the fit of ``plugin`` on ``runtime``, checked to be finite so that they can stand in a record."""
    logs = {name: vars(log) for name, log in runtime.logs.items()}
    diagnostics = {name: float(value) for name, value in plugin.diagnostics().items() if np.isfinite(value)}
    return {"diagnostics": diagnostics, "n_parameters": plugin.n_parameters, "training": logs}


def load_fitted(stage_key: str, code: Code, folder: Path) -> Fitted:
    """What ``save_state`` wrote to the entry of a fit."""
    state, facts = load_state(folder)
    return Fitted(state, facts, stage_key, code)
