"""MM-RQ-VAE: MMD by hand and against a double loop, alignment, and what they do to planted items."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.losses.mmd import squared_mmd
from sidbench.tokenizers.blocks.quantisers.multimodal_autoencoder import MultimodalNet
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import FitData
from sidbench.tokenizers.mm_rqvae import MmObjective, MmRqVae, MmRqVaeConfig

RUNTIME = local_runtime()
SMALL = {
    "code_length": 6,
    "codebook_size": 12,
    "hidden": (32,),
    "latent_dim": 8,
    "steps": 120,
    "warmup_steps": 10,
    "batch_size": 128,
    "autoencoder_steps": 20,
    "learning_rate": 3e-3,
}


def config(**settings: object) -> MmRqVaeConfig:
    return MmRqVaeConfig(**{**SMALL, **settings})  # type: ignore[arg-type]


# -- maximum mean discrepancy ----------------------------------------------------------------------------------------
def test_mmd_of_two_points_by_hand() -> None:
    # Joint batch {0, 2}: squared distances 0, 4, 4, 0, mean 2, s = 1; k(0, 2) = exp(-4 / 2).
    got = squared_mmd(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
    assert float(got) == pytest.approx(2 - 2 * math.exp(-2), rel=1e-6)


@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
def test_mmd_equals_a_double_loop(bandwidth: float) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((7, 3)), 1 + draw.standard_normal((5, 3))
    joint = np.concatenate([x, y])
    spread = bandwidth * np.mean([((a - b) ** 2).sum() for a in joint for b in joint])

    def mean_kernel(one: np.ndarray, two: np.ndarray) -> float:
        return float(np.mean([math.exp(-((a - b) ** 2).sum() / (2 * spread)) for a in one for b in two]))

    wanted = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    got = squared_mmd(torch.from_numpy(x), torch.from_numpy(y), bandwidth)
    assert float(got) == pytest.approx(wanted, rel=1e-9)


def test_mmd_is_zero_for_equal_batches_and_grows_with_the_shift() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    values = [float(squared_mmd(x + shift, x)) for shift in (0.0, 0.2, 1.0, 5.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2] < values[3] < 2


def test_mmd_does_not_see_the_order_of_items_nor_the_scale() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=draw), torch.randn(30, 4, generator=draw) + 0.5
    shuffled = x[torch.randperm(30, generator=draw)]
    torch.testing.assert_close(squared_mmd(shuffled, y), squared_mmd(x, y))
    torch.testing.assert_close(squared_mmd(x, shuffled), torch.zeros(()), atol=1e-6, rtol=0)
    torch.testing.assert_close(squared_mmd(100 * x, 100 * y), squared_mmd(x, y), rtol=1e-4, atol=1e-6)


def test_mmd_of_one_common_point_is_zero_with_a_finite_gradient() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    loss = squared_mmd(x, torch.ones(4, 2))
    loss.backward()
    assert float(loss.detach()) == 0 and x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_descent_on_mmd_moves_a_batch_onto_the_other() -> None:
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(50, 2, generator=draw) + torch.tensor([1.5, -1.0])
    x = torch.nn.Parameter(torch.randn(50, 2, generator=draw))
    start = float(squared_mmd(x.detach(), target))
    optimiser = torch.optim.Adam([x], 0.1)
    for _ in range(60):
        optimiser.zero_grad()
        squared_mmd(x, target).backward()
        optimiser.step()
    assert float(squared_mmd(x.detach(), target)) < 0.05 * start


# -- the objective ---------------------------------------------------------------------------------------------------
def objective(present: list[bool], **settings: object) -> MmObjective:
    c, draw, n = config(**settings), torch.Generator().manual_seed(0), len(present)
    net = MultimodalNet(c, {"text": 5, "vision": 4, "behaviour": 3}, torch.Generator().manual_seed(1), "mm_rqvae")
    data = {}
    for m, width in {"text": 5, "vision": 4, "behaviour": 3}.items():
        torch.nn.init.normal_(net.tower(m).quantiser.codebooks, generator=draw)
        content = torch.randn(n, width, generator=draw)
        has = torch.tensor(present) if m == "vision" else torch.ones(n, dtype=torch.bool)
        data[m] = FitData(torch.arange(n), content * has[:, None], content[:0], {"present": has}, n)
    found = MmObjective(net, data, Rng(0), c)
    found.quantised = True
    return found


def test_alignment_is_cross_entropy_from_behaviour_to_content() -> None:
    draw = torch.Generator().manual_seed(0)
    behaviour, other = torch.randn(12, 8, generator=draw), torch.randn(12, 8, generator=draw)
    both = torch.arange(12) < 9
    logits = F.normalize(behaviour[:9], dim=1) @ F.normalize(other[:9], dim=1).t() / 0.07
    torch.testing.assert_close(
        objective([True] * 4).alignment(behaviour, other, both), F.cross_entropy(logits, torch.arange(9))
    )
    torch.testing.assert_close(
        objective([True] * 4, alignment="mmd").alignment(behaviour, other, both), squared_mmd(behaviour[:9], other[:9])
    )


@pytest.mark.parametrize("kind", ["infonce", "mmd"])
def test_alignment_of_a_batch_without_any_pair_is_zero(kind: str) -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert float(objective([True] * 4, alignment=kind).alignment(x, x, torch.zeros(4, dtype=torch.bool))) == 0


@pytest.mark.parametrize(("reconstruction", "mse"), [("mmd", 0.0), ("mmd+mse", 0.1)])
def test_loss_is_the_weighted_sum_of_its_terms(reconstruction: str, mse: float) -> None:
    present = [True, False, True, True, False, True]
    loss = objective(present, reconstruction=reconstruction, alignment_weight=0.5, sinkhorn="none")
    rows = torch.arange(6)
    with torch.no_grad():
        parts = loss.loss(rows, 0)
        zq, total = {}, 0.0
        for m, tower in loss.towers.items():
            net, own = tower.net, rows[loss.present[m]]
            z = net.encoder(tower.inputs[own])
            quantised = net.quantiser(z)
            decoded = net.decoder(quantised.value)
            term = 3 * (squared_mmd(decoded, tower.inputs[own]) + mse * F.mse_loss(decoded, tower.inputs[own]))
            torch.testing.assert_close(parts[f"reconstruction_{m}"], term)
            torch.testing.assert_close(parts[f"quantiser_{m}"], quantised.loss)
            zq[m] = torch.zeros(6, 8)
            zq[m][own] = quantised.value
            total += float(term + quantised.loss)
        for m in ("text", "vision"):
            term = 0.5 * loss.alignment(zq["behaviour"], zq[m], loss.present[m])
            torch.testing.assert_close(parts[f"alignment_{m}"], term)
            total += float(term)
    assert float(parts["loss"]) == pytest.approx(total, rel=1e-5)


def test_batch_of_items_that_all_lack_a_modality_drops_its_terms() -> None:
    loss = objective([True, True, False, False])
    loss.loss(torch.arange(4), 0)
    parts = loss.loss(torch.tensor([2, 3]), 1)
    loss.after_step(1)
    assert not any("vision" in name for name in parts)
    assert torch.isfinite(parts["loss"])


def test_alignment_reaches_both_encoders_and_no_codebook() -> None:
    loss = objective([True] * 8)
    loss.loss(torch.arange(8), 0)["alignment_text"].backward()
    for m, reached in {"text": True, "behaviour": True, "vision": False}.items():
        gradients = [p.grad for p in loss.nets.tower(m).encoder.parameters()]
        assert all((g is not None and bool(g.abs().sum() > 0)) == reached for g in gradients[:1])
        assert loss.nets.tower(m).quantiser.codebooks.grad is None


# -- the tokenizer ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    return planted_features(300, modalities=("text", "behaviour"))


def agreement(features: ItemFeatures, **settings: object) -> float:
    """Share of the pairs in which an item's behaviour latent is nearer to its own text latent than to another's."""
    tokenizer = MmRqVae(config(**settings)).fit(features, Rng(0), RUNTIME)
    rows = features.available["behaviour"]
    codes = torch.from_numpy(tokenizer.encode(features, RUNTIME).codes[rows]).long()
    text = F.normalize(tokenizer.net_.tower("text").quantiser.decode(codes[:, :3]), dim=1)
    behaviour = F.normalize(tokenizer.net_.tower("behaviour").quantiser.decode(codes[:, 3:]), dim=1)
    cosines = behaviour @ text.t()
    return float((cosines <= cosines.diagonal()[:, None]).float().mean())


def test_alignment_makes_modalities_agree(features: ItemFeatures) -> None:
    assert agreement(features, alignment_weight=1.0, steps=60) > agreement(features, alignment_weight=0.0, steps=60) + 0.2


def test_squared_error_has_to_be_asked_for(features: ItemFeatures) -> None:
    def error(**settings: object) -> float:
        sids = MmRqVae(config(steps=60, **settings)).fit(features, Rng(0), RUNTIME).encode(features, RUNTIME)
        return float(((sids.reconstruction["text"] - features.modalities["text"]) ** 2).sum(1).mean())

    assert error(reconstruction="mmd+mse") < error(reconstruction="mmd")


def test_missing_modality_is_counted_and_dropped(features: ItemFeatures) -> None:
    gone = features.available["text"].copy()
    gone[100:150] = False
    text = features.modalities["text"] * gone[:, None]
    partial = replace(
        features, available={**features.available, "text": gone}, modalities={**features.modalities, "text": text}
    )
    tokenizer = MmRqVae(config(steps=10)).fit(partial, Rng(0), RUNTIME)
    assert tokenizer.diagnostics()["fit_items_without_text"] == 50
    assert (tokenizer.encode(partial, RUNTIME).codes[100:150, :3] == -1).all()
