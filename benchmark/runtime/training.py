"""The one training loop: accumulation, clipping, early stopping, checkpoints, live figures, and guards.

The loop is deterministic: the batch is a function of (epoch, index) and dropout noise of (rng, batch number), so a
training resumed from a checkpoint continues bit for bit on the same machine type. An optimiser step averages the
gradients of ``accumulate`` consecutive batches; several processes deal these batches out among themselves, so that the
result depends on ``accumulate`` and not on how many processes there are, up to the order of a sum.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from sidbench.benchmark.runtime.checkpoints import (
    check_counters,
    check_signature,
    checked_log,
    flatten,
    load_optimiser_state,
    optimiser_state,
    plan_signature,
    read_checkpoint,
    section,
    write_checkpoint,
)
from sidbench.benchmark.runtime.compiling import compiled_loss
from sidbench.benchmark.runtime.optimisers import learning_rate_factor, make_optimiser, shared_places, sum_over_team
from sidbench.benchmark.runtime.process_group import ProcessGroup
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.datasets.foundation.errors import InputError, NonFiniteLoss, StageError
from sidbench.datasets.foundation.hashing import hash_arrays, hash_json
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan, to_numpy

CHECKPOINT_SECONDS = 20.0
COLLAPSE_UTILISATION = 0.2
COLLAPSE_SHARE = 0.25  # share of the steps after which low utilisation is an alarm rather than a beginning
TIMED_STEPS = 1001  # latest optimiser steps whose median time is reported


class Training:
    """One execution of a plan; holds what a checkpoint must hold.

    accumulate: batches of one optimiser step, a multiple of the process group's size. compiled: run the loss through
    ``torch.compile``.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        accelerator: Accelerator,
        reporter: Reporter,
        checkpoint: Path | None,
        *,
        process_group: ProcessGroup | None = None,
        accumulate: int = 1,
        compiled: bool = False,
    ) -> None:
        self.plan, self.accelerator, self.reporter, self.path = plan, accelerator, reporter, checkpoint
        self.process_group, self.accumulate = process_group or ProcessGroup(), accumulate
        self.shared = plan.sharded and self.process_group.size > 1
        self.compute_loss = compiled_loss(plan) if compiled else plan.loss
        self.optimiser = make_optimiser(plan)
        self.parameters = list(plan.model.parameters())
        self.log = TrainingLog()
        self.best_value, self.bad = -math.inf, 0
        self.best_state: dict[str, Tensor] | None = None
        self.step, self.epoch, self.index, self.done = 0, 0, 0, False
        self.loss_sum = torch.zeros((), device=accelerator.device)
        self.alarmed = False
        self.saved_at = time.monotonic()
        self.previous_seconds = 0.0
        self.examples = 0
        self.step_seconds: deque[float] = deque(maxlen=TIMED_STEPS)

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write a checkpoint of the present state; of several processes the leader does."""
        if self.path is None or not self.process_group.is_main_process:
            return
        tensors: dict[str, Tensor] = {}
        log = {**vars(self.log), "wall_seconds": self.previous_seconds}
        plain: dict[str, Any] = {
            "log": log,
            "counters": [self.step, self.epoch, self.index, self.bad, self.examples],
            "best_value": None if self.best_value == -math.inf else self.best_value,
            "done": self.done,
            "signature": self._signature(),
        }
        flatten("model", dict(self.plan.model.state_dict()), tensors, plain)
        flatten("optimiser", optimiser_state(self.optimiser), tensors, plain)
        flatten("best", self.best_state or {}, tensors, plain)
        flatten("extra", self.plan.extra_state() if self.plan.extra_state else {}, tensors, plain)
        tensors["loss_sum"] = self.loss_sum.detach().cpu().clone()
        write_checkpoint(self.path, tensors, plain)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Continue from the checkpoint if there is one; a damaged one is told, and the training starts anew.

        Raises ``InputError`` for one of another plan, and for one whose entries no training wrote.
        """
        if self.path is None or not self.path.exists():
            return
        entries = read_checkpoint(self.path)
        if entries is None:
            self.reporter.warn(f"{self.plan.name}: its checkpoint {self.path.name} was damaged; the training started anew")
            return
        try:
            check_signature(self.path, self.plan.name, entries["signature"], self._signature())
            self._continue(entries)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"checkpoint {self.path} of {self.plan.name}",
                wanted="what this training wrote",
                got=f"{type(error).__name__}: {str(error)[:160]}",
                do="delete this file; the training then starts anew",
            ) from error
        self.reporter.line(f"  {self.plan.name}: continuing at step {self.step}")

    def _continue(self, entries: dict[str, Any]) -> None:
        """Take over the entries of a checkpoint. Raises what their wrong types and shapes make Python and torch raise."""
        check_counters(entries["counters"], entries["done"], entries["best_value"])
        device = self.accelerator.device
        self.plan.model.load_state_dict(section("model", entries))
        load_optimiser_state(self.optimiser, section("optimiser", entries))
        best = section("best", entries)
        self.best_state = {name: value.to(device) for name, value in best.items()} or None
        self.best_value = -math.inf if entries["best_value"] is None else entries["best_value"]
        self.step, self.epoch, self.index, self.bad, self.examples = entries["counters"]
        self.loss_sum = entries["loss_sum"].to(device)
        self.log = checked_log(entries["log"])
        self.previous_seconds = self.log.wall_seconds
        self.done = entries["done"]
        if self.plan.load_extra_state is not None:
            extra = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in section("extra", entries).items()}
            self.plan.load_extra_state(extra)

    def _signature(self) -> dict[str, Any]:
        return plan_signature(self.plan, self.accumulate, str(self.accelerator.mixed_precision))

    # -- the loop ------------------------------------------------------------------------------------------------
    def run(self) -> TrainingLog:
        """Train to the end of the plan, or until patience runs out."""
        self.restore()
        self._assemble()
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
            self._agree()
            self.log.step_ms = 1e3 * median(self.step_seconds) if self.step_seconds else 0.0
            self.save()
        self.log.wall_seconds = self.previous_seconds
        self.log.examples_per_second = self.examples / max(self.log.wall_seconds, 1e-9)
        self.log.processes = self.process_group.size if self.shared else 1
        self.plan.model.eval()
        return self.log

    def _assemble(self) -> None:
        """Several processes begin at one place with the leader's weights."""
        if self.process_group.size == 1:
            return
        places = self.process_group.gather([self.step, self.epoch, self.index, self.done])
        if any(place != places[0] for place in places):
            raise StageError(
                f"{self.plan.name}: the processes found different checkpoints (steps "
                f"{', '.join(str(p[0]) for p in places)}). To do: put SIDBENCH_HOME on a disk that all "
                "machines of this command share."
            )
        self.process_group.broadcast_tensors(dict(self.plan.model.state_dict()))
        if not self.shared:
            self.reporter.warn(
                f"{self.plan.name}: changes state by other ways than gradients, so each of the "
                f"{self.process_group.size} processes ran all of its batches"
            )

    def _agree(self) -> None:
        """The leader's weights on every process, after a check that a plan said rightly whether it can be shared."""
        if self.process_group.size == 1:
            return
        if self.shared:
            extra = self.plan.extra_state() if self.plan.extra_state else {}
            tensors = {**dict(self.plan.model.named_buffers()), **{n: v for n, v in extra.items() if isinstance(v, Tensor)}}
            plain = {n: v for n, v in extra.items() if not isinstance(v, Tensor)}
            digests = self.process_group.gather(
                [hash_arrays({n: to_numpy(t) for n, t in tensors.items()}), hash_json(plain)]
            )
            if any(digest != digests[0] for digest in digests):
                raise StageError(
                    f"{self.plan.name}: its buffers or extra state differ between the processes that shared "
                    "its batches, so gradients alone do not move its state. To do: declare sharded=False in "
                    "its TrainingPlan."
                )
        self.process_group.broadcast_tensors(dict(self.plan.model.state_dict()))

    def _epoch(self, start: float, earlier: float) -> None:
        plan = self.plan
        plan.model.train()
        while self.index < plan.steps_per_epoch:
            count = min(self.accumulate, plan.steps_per_epoch - self.index)
            began = time.perf_counter()
            self._step(count)
            self.index += count
            self.step_seconds.append(time.perf_counter() - began)
            self.previous_seconds = earlier + time.perf_counter() - start
            if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                self.save()
        self.log.losses.append(float(self.loss_sum) / max(plan.steps_per_epoch, 1))
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.epoch, self.index = self.epoch + 1, 0
        self.log.epochs = self.epoch
        if plan.validate is not None and (self.epoch % plan.validate_every == 0 or self.epoch == plan.epochs):
            self._validate()

    def _step(self, count: int) -> None:
        """One optimiser step over the next ``count`` batches; a step is known by the number of its last batch."""
        plan, first = self.plan, self.epoch * self.plan.steps_per_epoch + self.index
        last = first + count - 1
        factor = learning_rate_factor(plan, last)
        for group in self.optimiser.param_groups:
            group["lr"] = plan.learning_rate * factor
        self.optimiser.zero_grad(set_to_none=True)
        figures = torch.zeros(2, count, device=self.accelerator.device)  # loss and examples of each batch
        parts: Mapping[str, Tensor] = {}
        for place in shared_places(count, self.process_group) if self.shared else range(count):
            parts, examples = self._batch(self.index + place, first + place, count)
            figures[0, place], figures[1, place] = parts["loss"].detach(), float(examples)
        if self.shared:
            figures = sum_over_team(self.parameters, figures.flatten(), self.process_group).view(2, count)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, plan.clip_norm or math.inf)
        if not bool(torch.isfinite(figures[0]).all() & torch.isfinite(norm)):
            self._refuse(float(figures[0].mean()), float(norm), last)
        self.optimiser.step()
        for loss in figures[0]:
            self.loss_sum += loss
        self.examples += int(figures[1].sum())
        self.step += 1
        self.log.steps = self.step
        if plan.after_step is not None:
            plan.after_step(last)
        self._report(parts, first, last + 1, (count - 1) % self.process_group.size if self.shared else None)

    def _batch(self, index: int, number: int, count: int) -> tuple[Mapping[str, Tensor], int]:
        """Add the gradients of one of the ``count`` batches of a step; returns its loss with parts, and its rows."""
        plan = self.plan
        torch.manual_seed(plan.rng.child("noise", number).integer())
        try:
            batch = plan.batch(self.epoch, index)
            with self.accelerator.autocast():
                result = self.compute_loss(batch, number)
            parts: Mapping[str, Tensor] = result if isinstance(result, Mapping) else {"loss": result}
            self.accelerator.backward(parts["loss"] if count == 1 else parts["loss"] / count)
        except (MemoryError, RuntimeError) as error:
            if plan.batch_setting is None or not is_out_of_memory(error):
                raise
            name, value = plan.batch_setting
            raise StageError(
                f"{plan.name} ran out of memory at step {number} with {name}={value} ({str(error)[:200]}). To do: set "
                f"{name}={max(value // 2, 1)} for this stage, with --accumulate {2 * self.accumulate} to keep the "
                "examples of an optimiser step; finished stages are kept."
            ) from error
        return parts, _batch_examples(batch)

    def _refuse(self, loss: float, norm: float, step: int) -> None:
        plan, kept = self.plan, self.path is not None and self.path.exists()
        good = "the last good checkpoint is kept" if kept else "no checkpoint was due yet"
        raise NonFiniteLoss(
            f"{plan.name}: loss or gradient became {loss:g} (gradient norm {norm:g}) at step {step} of "
            f"{plan.steps_per_epoch * plan.epochs}; {good}. "
            f"To do: lower the learning rate (now {plan.learning_rate:g}) or check the input embeddings for outliers."
        )

    def _report(self, parts: Mapping[str, Tensor], first: int, done: int, source: int | None) -> None:
        """Live figures when a period of ``monitor_every`` batches ended; ``source``: the process with the last batch."""
        plan, total = self.plan, self.plan.steps_per_epoch * self.plan.epochs
        if done // plan.monitor_every == first // plan.monitor_every and done != total:
            return
        values = {name: float(value.detach()) for name, value in parts.items()}
        self.log.parts = values if source is None else self.process_group.broadcast(values, source)
        if plan.monitor is not None:
            self.log.monitor = {name: float(value) for name, value in plan.monitor().items()}
            self._alarm(done - 1, total)
        self.reporter.step(done, {"loss": self.log.parts["loss"], **self.log.monitor})

    def _alarm(self, step: int, total: int) -> None:
        used = self.log.monitor.get("utilisation")
        if used is not None and used < COLLAPSE_UTILISATION and step > COLLAPSE_SHARE * total and not self.alarmed:
            self.alarmed = True
            self.reporter.warn(
                f"{self.plan.name}: codebook collapse, {used:.0%} of the codes are in use at step {step + 1}. Usual causes: "
                "codebooks not initialised from the data, a learning rate that is too high, or latents of almost no "
                "variance. Remedies: k-means initialisation, dead-code restart, a lower learning rate, a smaller codebook."
            )

    def _validate(self) -> None:
        plan = self.plan
        plan.model.eval()
        with torch.no_grad():
            value = float(self.process_group.broadcast(float(plan.validate()))) if plan.validate is not None else math.nan
        self.log.validations.append(value)
        if value > self.best_value:
            self.best_value, self.bad, self.log.best_epoch = value, 0, self.epoch
            self.best_state = {name: t.detach().clone() for name, t in plan.model.state_dict().items()}
        else:
            self.bad += 1
            if plan.patience and self.bad >= plan.patience:
                self.done, self.log.stopped = True, "patience"
        self.reporter.step(self.epoch * plan.steps_per_epoch, {"epoch": self.epoch, "validation": value})


def _batch_examples(batch: Any) -> int:
    """Rows of a batch: length of the first tensor-like member."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()))
    elif isinstance(batch, (tuple, list)):
        batch = batch[0]
    shape = getattr(batch, "shape", None)
    return int(shape[0]) if shape else 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch's CPU allocator has no exception of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
