"""Share of the machine's matrix-product peak that training steps reach. Run by `make speed` on a quiet machine.

Prints GFLOP of a step, its milliseconds and the share of the peak measured in the same process; fails on no machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.stages.tasks import retrieval_data
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.mtp import Mtp
from sidbench.recommenders.sasrec import Sasrec
from sidbench.tokenizers.base import SemanticIds

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


class Measuring(LocalRuntime):
    """Counts the operations of the first plan it is given, trains one epoch of it, and keeps both figures."""

    gflops_per_step, step_ms = 0.0, 0.0

    def train(self, plan: TrainingPlan) -> TrainingLog:
        plan.model.train()
        self.gflops_per_step = plan_gflops(plan, plan.steps_per_epoch)
        log = super().train(plan)
        self.step_ms = 1e3 * log.wall_seconds / log.steps  # the mean, like the operations: shapes differ between batches
        return log


@pytest.fixture(scope="module")
def beauty() -> RetrievalData:
    dataset = Beauty(Beauty.config_class()).load(LocalFiles())
    split = leave_last_out(dataset.interactions, dataset.n_users, "shuffled", Rng(0))
    return retrieval_data(split, dataset.n_users, dataset.n_items)


def test_operations_of_a_step_by_hand() -> None:
    """One linear layer 8 -> 16 on 32 rows: the product and the weight's gradient, 2 x 32 x 8 x 16 each."""
    model = torch.nn.Linear(8, 16, bias=False)
    plan = TrainingPlan("linear", model, 3, 1, lambda e, i: torch.ones(32, 8), lambda x, step: model(x).sum(), Rng(0))
    assert plan_gflops(plan) == pytest.approx(2 * 2 * 32 * 8 * 16 / 1e9)
    assert model.weight.grad is None


@pytest.mark.data
@pytest.mark.parametrize("model", [Mtp, Sasrec])
def test_share_of_the_peak(benchmark: Any, beauty: RetrievalData, model: Any) -> None:
    runtime = Measuring("cpu", threads=os.cpu_count() or 1)
    codes = np.random.default_rng(0).integers(0, 256, (beauty.n_items, 4)).astype(np.int32)
    sids = SemanticIds(codes, np.full(4, 256, np.int32), ordered=True) if model.info.needs_sids else None
    config = model.config_class(**{**model.budgets["quick"], "epochs": 1, "validation_users": 10})
    peaks = [matmul_peak(runtime)]
    benchmark.pedantic(lambda: model(config).fit(beauty, sids, Rng(0), runtime), rounds=1)
    peaks.append(matmul_peak(runtime))  # before and after, so that a busy machine shows
    share = runtime.gflops_per_step / (runtime.step_ms / 1e3) / median(peaks)
    benchmark.extra_info |= {
        "gflops_per_step": runtime.gflops_per_step,
        "step_ms": runtime.step_ms,
        "peak_gflops": peaks,
        "peak_share": share,
    }
    assert 0 < share < 1.5
