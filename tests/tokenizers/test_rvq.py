"""R-VQ: the count-weighted step by hand and against autograd, distortion against full k-means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig
from sidbench.tokenizers.rvq import Rvq, RvqConfig, count_step

RUNTIME = local_runtime()


def test_count_step_by_hand() -> None:
    centres, counts = torch.tensor([[0.0], [10.0]]), torch.tensor([2.0, 0.0])
    centres, counts = count_step(torch.tensor([[1.0], [3.0], [12.0]]), centres, counts)
    # code 0: n = 2 of N = 4, mean 2: 0 - 1/2 (0 - 2) = 1. Code 1: n = N = 1: its row.
    assert centres.tolist() == [[1.0], [12.0]]
    assert counts.tolist() == [4.0, 1.0]
    centres, counts = count_step(torch.tensor([[13.0]]), centres, counts)
    assert centres.tolist() == [[1.0], [12.5]]  # a code without rows stays


def test_count_step_is_gradient_descent_of_rate_one_half() -> None:
    draw = torch.Generator().manual_seed(0)
    batch, centres = torch.randn(40, 3, generator=draw), torch.randn(5, 3, generator=draw)
    before = torch.tensor([4.0, 0.0, 9.0, 1.0, 7.0])
    moved, after = count_step(batch, centres, before)
    parameter = centres.clone().requires_grad_()
    codes = torch.cdist(batch, centres).argmin(1)
    now = torch.bincount(codes, minlength=5).float()
    means = torch.stack([batch[codes == k].mean(0) if now[k] else centres[k] for k in range(5)])
    (now / after.clamp(min=1) * (parameter - means).square().sum(1)).sum().backward()
    assert parameter.grad is not None
    torch.testing.assert_close(moved, centres - 0.5 * parameter.grad, atol=1e-5, rtol=1e-4)


def test_running_means_over_one_code_are_the_mean_of_all_rows() -> None:
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    centres, counts = x[:1].clone(), torch.zeros(1)
    for part in x.split(20):
        centres, counts = count_step(part, centres, counts)
    torch.testing.assert_close(centres[0], x.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("optimiser", "bound"), [("count_sgd", 1.1), ("adamw", 1.5)])
def test_distortion_is_near_that_of_full_kmeans(optimiser: str, bound: float) -> None:
    features = planted_features(600)
    common: dict[str, Any] = {"code_length": 3, "codebook_size": 16}
    config = RvqConfig(**common, optimiser=optimiser, steps=180, batch_size=200)
    mine = Rvq(config).fit(features, Rng(0), RUNTIME)
    full = RqKMeans(RqKMeansConfig(**common)).fit(features, Rng(0), RUNTIME)
    assert mine.diagnostics()["loss_native"] <= bound * full.diagnostics()["loss_native"]
    sids = mine.encode(features, RUNTIME)
    total = sum(mine.centres_[p][sids.codes[:, p]] for p in range(3))
    decoded = np.concatenate([sids.reconstruction["text"], sids.reconstruction["vision"]], axis=1)
    np.testing.assert_allclose(decoded, total, atol=1e-5)


def test_training_lowers_the_error_of_the_start() -> None:
    features = planted_features(600)
    losses = [
        Rvq(RvqConfig(code_length=1, codebook_size=40, batch_size=64, steps=s))
        .fit(features, Rng(0), RUNTIME)
        .diagnostics()["loss_native"]
        for s in (1, 60)
    ]
    assert losses[1] < losses[0]
