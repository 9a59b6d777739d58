"""The one training loop: schedules, clipping, early stopping, checkpoints, live figures, and guards.

The loop is deterministic: the batch is a function of (epoch, index) and dropout noise of (rng, step), so a training
resumed from a checkpoint continues bit for bit on the same machine type.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sidbench.benchmark.checkpoints import (
    flatten,
    load_optimiser_state,
    optimiser_state,
    read_checkpoint,
    section,
    write_checkpoint,
)
from sidbench.benchmark.progress import Reporter
from sidbench.datasets.foundation.errors import NonFiniteLoss
from sidbench.tokenizers.blocks.runtime import TrainingLog, TrainingPlan

CHECKPOINT_SECONDS = 20.0
COLLAPSE_UTILISATION = 0.2
COLLAPSE_SHARE = 0.25  # share of the steps after which low utilisation is an alarm rather than a beginning


def learning_rate_factor(plan: TrainingPlan, step: int) -> float:
    """Multiplier of the learning rate at a 0-based step: linear warm-up, then the plan's schedule."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    if plan.schedule == "constant":
        return 1.0
    if plan.schedule == "inverse_sqrt":
        return math.sqrt(max(plan.warmup_steps, 1) / max(step, 1))
    total = max(plan.steps_per_epoch * plan.epochs - plan.warmup_steps, 1)
    done = min((step - plan.warmup_steps) / total, 1.0)
    return plan.final_lr_share + (1 - plan.final_lr_share) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimiser(plan: TrainingPlan) -> torch.optim.AdamW:
    """AdamW with weight decay on every parameter whose name holds none of ``plan.no_decay``."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in plan.model.named_parameters():
        if parameter.requires_grad:
            (free if any(word in name for word in plan.no_decay) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=plan.betas, weight_decay=0.0, fused=True)


class Training:
    """One execution of a plan; holds what a checkpoint must hold."""

    def __init__(self, plan: TrainingPlan, accelerator: Accelerator, reporter: Reporter, checkpoint: Path | None) -> None:
        self.plan, self.accelerator, self.reporter, self.path = plan, accelerator, reporter, checkpoint
        self.optimiser = make_optimiser(plan)
        self.log = TrainingLog()
        self.best_value, self.bad = -math.inf, 0
        self.best_state: dict[str, Tensor] | None = None
        self.step, self.epoch, self.index, self.done = 0, 0, 0, False
        self.loss_sum = torch.zeros((), device=accelerator.device)
        self.alarmed = False
        self.saved_at = time.monotonic()
        self.previous_seconds = 0.0
        self.examples = 0

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write a checkpoint of the present state."""
        if self.path is None:
            return
        tensors: dict[str, Tensor] = {}
        log = {**vars(self.log), "wall_seconds": self.previous_seconds}
        plain: dict[str, Any] = {"log": log, "counters": [self.step, self.epoch, self.index, self.bad, self.examples],
                                 "best_value": None if self.best_value == -math.inf else self.best_value,
                                 "done": self.done}
        flatten("model", dict(self.plan.model.state_dict()), tensors, plain)
        flatten("optimiser", optimiser_state(self.optimiser), tensors, plain)
        flatten("best", self.best_state or {}, tensors, plain)
        flatten("extra", self.plan.extra_state() if self.plan.extra_state else {}, tensors, plain)
        tensors["loss_sum"] = self.loss_sum.detach().cpu().clone()
        write_checkpoint(self.path, tensors, plain)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Continue from the checkpoint if a readable one exists."""
        entries = None if self.path is None else read_checkpoint(self.path)
        if entries is None:
            return
        device = self.accelerator.device
        self.plan.model.load_state_dict(section("model", entries))
        load_optimiser_state(self.optimiser, section("optimiser", entries))
        best = section("best", entries)
        self.best_state = {name: value.to(device) for name, value in best.items()} or None
        self.best_value = -math.inf if entries["best_value"] is None else entries["best_value"]
        self.step, self.epoch, self.index, self.bad, self.examples = entries["counters"]
        self.loss_sum = entries["loss_sum"].to(device)
        self.log = TrainingLog(**entries["log"])
        self.previous_seconds = self.log.wall_seconds
        self.done = entries["done"]
        if self.plan.load_extra_state is not None:
            extra = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in section("extra", entries).items()}
            self.plan.load_extra_state(extra)
        self.reporter.line(f"  {self.plan.name}: continuing at step {self.step}")

    # -- the loop ------------------------------------------------------------------------------------------------
    def run(self) -> TrainingLog:
        """Train to the end of the plan, or until patience runs out."""
        self.restore()
        start = time.perf_counter()
        earlier = self.previous_seconds
        total = self.plan.steps_per_epoch * self.plan.epochs
        if not self.done:
            self.reporter.begin(self.plan.name, total)
            devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                try:
                    while self.epoch < self.plan.epochs and not self.done:
                        self._epoch(start, earlier)
                except KeyboardInterrupt:
                    self.previous_seconds = earlier + time.perf_counter() - start
                    self.save()
                    raise
                finally:
                    self.reporter.end()
            self.done = True
            self.previous_seconds = earlier + time.perf_counter() - start
            if self.best_state is not None:
                self.plan.model.load_state_dict(self.best_state)
            self.save()
        self.log.wall_seconds = self.previous_seconds
        self.log.examples_per_second = self.examples / max(self.log.wall_seconds, 1e-9)
        self.plan.model.eval()
        return self.log

    def _epoch(self, start: float, earlier: float) -> None:
        plan = self.plan
        plan.model.train()
        while self.index < plan.steps_per_epoch:
            self._step()
            self.index += 1
            self.previous_seconds = earlier + time.perf_counter() - start
            if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                self.save()
        self.log.losses.append(float(self.loss_sum) / max(plan.steps_per_epoch, 1))
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.epoch, self.index = self.epoch + 1, 0
        self.log.epochs = self.epoch
        if plan.validate is not None and (self.epoch % plan.validate_every == 0 or self.epoch == plan.epochs):
            self._validate()

    def _step(self) -> None:
        plan, step = self.plan, self.step
        factor = learning_rate_factor(plan, step)
        for group in self.optimiser.param_groups:
            group["lr"] = plan.learning_rate * factor
        torch.manual_seed(plan.rng.child("noise", step).integer())
        batch = plan.batch(self.epoch, self.index)
        with self.accelerator.autocast():
            result = plan.loss(batch, step)
        parts: Mapping[str, Tensor] = result if isinstance(result, Mapping) else {"loss": result}
        loss = parts["loss"]
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(plan.model.parameters(), plan.clip_norm or math.inf)
        if not bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)):
            kept = self.path is not None and self.path.exists()
            good = "the last good checkpoint is kept" if kept else "no checkpoint was due yet"
            raise NonFiniteLoss(
                f"{plan.name}: loss or gradient became {loss.item():g} (gradient norm {float(norm):g}) at step {step} of "
                f"{plan.steps_per_epoch * plan.epochs}; {good}. "
                f"To do: lower the learning rate (now {plan.learning_rate:g}) or check the input embeddings for outliers.")
        self.optimiser.step()
        self.loss_sum += loss.detach()
        self.examples += _batch_examples(batch)
        self.step += 1
        self.log.steps = self.step
        if plan.after_step is not None:
            plan.after_step(step)
        self._report(parts, step)

    def _report(self, parts: Mapping[str, Tensor], step: int) -> None:
        plan, total = self.plan, self.plan.steps_per_epoch * self.plan.epochs
        if (step + 1) % plan.monitor_every and step + 1 != total:
            return
        self.log.parts = {name: float(value.detach()) for name, value in parts.items()}
        if plan.monitor is not None:
            self.log.monitor = {name: float(value) for name, value in plan.monitor().items()}
            self._alarm(step, total)
        self.reporter.step(step + 1, {"loss": self.log.parts["loss"], **self.log.monitor})

    def _alarm(self, step: int, total: int) -> None:
        used = self.log.monitor.get("utilisation")
        if used is not None and used < COLLAPSE_UTILISATION and step > COLLAPSE_SHARE * total and not self.alarmed:
            self.alarmed = True
            self.reporter.warn(
                f"{self.plan.name}: codebook collapse, {used:.0%} of the codes are in use at step {step + 1}. Usual causes: "
                "codebooks not initialised from the data, a learning rate that is too high, or latents of almost no "
                "variance. Remedies: k-means initialisation, dead-code restart, a lower learning rate, a smaller codebook.")

    def _validate(self) -> None:
        plan = self.plan
        plan.model.eval()
        with torch.no_grad():
            value = float(plan.validate()) if plan.validate is not None else math.nan
        self.log.validations.append(value)
        if value > self.best_value:
            self.best_value, self.bad, self.log.best_epoch = value, 0, self.epoch
            self.best_state = {name: t.detach().clone() for name, t in plan.model.state_dict().items()}
        else:
            self.bad += 1
            if plan.patience and self.bad >= plan.patience:
                self.done, self.log.stopped = True, "patience"
        self.reporter.step(self.step, {"epoch": self.epoch, "validation": value})


def _batch_examples(batch: Any) -> int:
    """Rows of a batch: length of the first tensor-like member."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()))
    elif isinstance(batch, (tuple, list)):
        batch = batch[0]
    shape = getattr(batch, "shape", None)
    return int(shape[0]) if shape else 0
