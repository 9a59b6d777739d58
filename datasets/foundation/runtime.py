"""The contract between neural stages and the machine: ``Runtime`` places tensors and runs the one training loop.

Stages never name a device, never step an optimiser and never open a file. They describe a training as a
``TrainingPlan`` and call ``runtime.train(plan)``; the implementation (``sidbench.benchmark.runtime.local``) adds devices,
precision, gradient clipping, schedules, checkpoints that survive ``kill -9``, early stopping, progress and the
non-finite-loss guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.datasets.foundation.seeds import Rng


@dataclass
class TrainingPlan:
    """Everything the training loop needs to know about one neural stage.

    name: short name for progress and errors ("rqvae").
    model: module already on ``runtime.device``.
    steps_per_epoch, epochs: length; the loop works through ``steps_per_epoch * epochs`` batches at most. A step here and
        below is a batch, of which ``--accumulate A`` puts A into one optimiser step; with A = 1, the default, the two
        are the same. Warm-up and schedule therefore end after the same data whatever A is.
    batch: ``(epoch, index) -> batch``; must be a pure function of its arguments (a resume calls it again, and of
        several processes each makes only its own batches).
    loss: ``(batch, step) -> scalar Tensor`` or mapping with key "loss" and parts to log.
    rng: seed node for dropout noise; noise at a step depends on (rng, step) only, so a resumed run is identical.
    learning_rate, betas, weight_decay: AdamW. no_decay: parameter names (substring match) without weight decay.
    warmup_steps, schedule: linear warm-up, then "constant", "cosine" (to ``final_lr_share``) or "inverse_sqrt".
    clip_norm: gradient norm bound, 0 for none.
    after_step: ``(step) -> None`` after each optimiser step, with the number of its last batch (adaptive coefficients,
        dead-code restart). What ``loss`` left for it is of that last batch.
    validate: ``() -> float`` (higher is better) run every ``validate_every`` epochs; the best state is restored at the end.
    patience: validations without improvement before stopping, 0 for never.
    monitor: ``() -> dict`` of live figures (utilisation, collision rate), called every ``monitor_every`` steps.
    extra_state / load_extra_state: stage state outside the model that must survive a resume (tensors, floats).
    sharded: several processes may share the batches of an optimiser step. False where ``loss`` or ``after_step`` changes
        state by other ways than gradients (moving averages, dead codes): every process then runs every batch.
    batch_setting: name and value of the setting that sizes a batch, ``("batch_size", 1024)``, for the error when memory
        runs out.
    """

    name: str
    model: nn.Module
    steps_per_epoch: int
    epochs: int
    batch: Callable[[int, int], Any]
    loss: Callable[[Any, int], Tensor | Mapping[str, Tensor]]
    rng: Rng
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    no_decay: Sequence[str] = ("bias", "norm", "codebook")
    warmup_steps: int = 0
    schedule: str = "constant"
    final_lr_share: float = 0.01
    clip_norm: float = 1.0
    after_step: Callable[[int], None] | None = None
    validate: Callable[[], float] | None = None
    validate_every: int = 1
    patience: int = 0
    monitor: Callable[[], Mapping[str, float]] | None = None
    monitor_every: int = 100
    extra_state: Callable[[], dict[str, Any]] | None = None
    load_extra_state: Callable[[dict[str, Any]], None] | None = None
    sharded: bool = True
    batch_setting: tuple[str, int] | None = None


@dataclass
class TrainingLog:
    """What a training did: optimiser steps, wall seconds, per-epoch mean losses, validation values, why it stopped.

    step_ms: median wall milliseconds of the latest optimiser steps. processes: how many shared the batches of a step (1
    also where each of several ran all of them).
    """

    steps: int = 0
    epochs: int = 0
    wall_seconds: float = 0.0
    examples_per_second: float = 0.0
    losses: list[float] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)
    best_epoch: int = -1
    stopped: str = "budget"
    parts: dict[str, float] = field(default_factory=dict)
    monitor: dict[str, float] = field(default_factory=dict)
    step_ms: float = 0.0
    processes: int = 1


class Runtime(Protocol):
    """Device, precision and progress, as stages see them."""

    @property
    def device(self) -> torch.device:
        """Where every tensor of a stage must live."""

    def tensor(self, array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        """Copy a numpy array to the runtime's device."""

    def generator(self, rng: Rng) -> torch.Generator:
        """A torch generator on the runtime's device, seeded by ``rng``."""

    def train(self, plan: TrainingPlan) -> TrainingLog:
        """Run the training loop. Raises ``NonFiniteLoss`` naming stage and step; resumes from a checkpoint if one exists."""

    def report(self, message: str) -> None:
        """One progress line."""

    def warn(self, message: str) -> None:
        """A warning that also goes on the record."""


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Detach and copy to host memory."""
    return tensor.detach().cpu().numpy()
