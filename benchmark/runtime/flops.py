"""What a machine and a training step can do: the matrix-product peak, and the operations of one step of a plan."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.foundation.runtime import TrainingPlan

WIDTH, REPEATS = 2048, 5


def matmul_peak(runtime: LocalRuntime, width: int = WIDTH) -> float:
    """GFLOP/s of the best of five float32 products of two ``[width, width]`` matrices on the runtime's device."""
    generator = torch.Generator(device=runtime.device).manual_seed(0)
    left, right = (torch.randn(width, width, device=runtime.device, generator=generator) for _ in range(2))
    out, best = torch.mm(left, right), float("inf")
    for _ in range(REPEATS):
        _wait(runtime)
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(runtime)
        best = min(best, time.perf_counter() - start)
    return 2 * width**3 / best / 1e9


def plan_gflops(plan: TrainingPlan, steps: int = 8) -> float:
    """Mean GFLOP of matrix products in forward and backward of the first ``steps`` batches of a plan.

    The weights stay as they are; state that the loss keeps elsewhere is not undone, so give it a plan of its own.
    """
    count = min(steps, plan.steps_per_epoch)
    counter = FlopCounterMode(display=False)
    with counter:
        for index in range(count):
            result = plan.loss(plan.batch(0, index), index)
            (result["loss"] if isinstance(result, Mapping) else result).backward()
    plan.model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / count / 1e9


def _wait(runtime: LocalRuntime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
