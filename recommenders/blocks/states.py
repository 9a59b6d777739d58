"""What every neural recommender hands out: its state as numpy arrays, and figures of its training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import TrainingLog, to_numpy
from sidbench.recommenders.base import MEAN, SAME
from sidbench.recommenders.blocks.prefixes import PrefixInstances
from sidbench.recommenders.blocks.windows import TrainingWindows


def numpy_state(module: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and persistent buffers of ``module`` as numpy arrays."""
    return {name: to_numpy(value) for name, value in module.state_dict().items()}


def load_into(module: nn.Module, state: Mapping[str, np.ndarray], who: str) -> None:
    """Restore ``numpy_state``. Raises ``InputError`` naming the first missing, unknown or misshapen entry."""
    wanted = module.state_dict()
    for name in sorted(wanted.keys() ^ state.keys()):
        raise InputError(
            f"{who}: saved state",
            got=f"{'no' if name in wanted else 'unknown'} entry {name}",
            wanted=f"a state of {who} with the same config",
            do="use the config it was trained with",
        )
    for name, value in wanted.items():
        if tuple(value.shape) != state[name].shape:
            raise InputError(
                f"{who}: saved state entry {name}",
                got=f"shape {state[name].shape}",
                wanted=f"{tuple(value.shape)}",
                do="use the config it was trained with",
            )
    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})


TRAINING_COMBINE = {
    **dict.fromkeys(("examples_per_second", "training_seconds"), MEAN),  # every process has its own clock
    **dict.fromkeys(("best_epoch", "epochs", "validation_ndcg_at_10"), SAME),
    **dict.fromkeys(("train_targets", "train_truncated_histories", "train_users_without_target"), SAME),
}


def training_notes(log: TrainingLog, windows: TrainingWindows | PrefixInstances) -> dict[str, float]:
    """Diagnostics every sequence model shares, the names of ``TRAINING_COMBINE``; examples are labelled positions,
    histories are users' sequences, and NDCG@10 is what selected the epoch."""
    return {
        "examples_per_second": log.examples_per_second,
        "best_epoch": float(log.best_epoch),
        "epochs": float(log.epochs),
        "training_seconds": log.wall_seconds,
        "train_targets": float(windows.n_targets),
        "train_truncated_histories": float(windows.n_truncated),
        "train_users_without_target": float(windows.n_without_target),
        "validation_ndcg_at_10": max(log.validations),
    }
