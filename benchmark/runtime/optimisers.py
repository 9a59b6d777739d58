"""How a plan moves its parameters: learning-rate schedule, AdamW groups, and gradients shared between processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidbench.benchmark.runtime.process_group import ProcessGroup
from sidbench.datasets.foundation.runtime import TrainingPlan


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


def shared_places(count: int, process_group: ProcessGroup) -> range:
    """Which of ``count`` batches of an optimiser step are this process's: dealt out in turn."""
    return range(process_group.rank, count, process_group.size)


def sum_over_team(parameters: Sequence[nn.Parameter], figures: Tensor, process_group: ProcessGroup) -> Tensor:
    """Sum the gradients over the processes, in place, and return the sum of ``figures`` float32 ``[F]``.

    Everything travels in one flat float32 vector, in the order of ``parameters``. A parameter that no process used keeps
    no gradient, as in one process; one that some used counts as zero on the others.
    """
    with torch.no_grad():
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=figures.device)
        flat = torch.cat(
            [figures, used, *((torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in parameters)]
        )
        process_group.all_reduce(flat)
        start = len(figures)
        present = (flat[start : start + len(parameters)] > 0).tolist()
        start += len(parameters)
        for parameter, some in zip(parameters, present, strict=True):
            part = flat[start : start + parameter.numel()].view_as(parameter)
            parameter.grad = part.to(parameter.dtype) if some else None
            start += parameter.numel()
        return flat[: len(figures)].clone()
