"""CoST: the contrast by hand and against torch, and what it does to reconstructions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import FitData
from sidbench.tokenizers.cost import Cost, CostConfig, CostNet, CostObjective

RUNTIME = local_runtime()
SMALL = {
    "code_length": 3,
    "codebook_size": 12,
    "hidden": (32,),
    "latent_dim": 8,
    "steps": 150,
    "warmup_steps": 10,
    "batch_size": 128,
    "autoencoder_steps": 30,
    "learning_rate": 3e-3,
}


def config(**settings: object) -> CostConfig:
    return CostConfig(**{**SMALL, **settings})  # type: ignore[arg-type]


def objective(content: torch.Tensor, validation: torch.Tensor, **settings: object) -> CostObjective:
    c = config(**settings)
    net = CostNet(c, content.shape[1], torch.Generator().manual_seed(0))
    torch.nn.init.normal_(net.quantiser.codebooks, generator=torch.Generator().manual_seed(1))
    return CostObjective(net, FitData(torch.arange(len(content)), content, validation, {}, len(content)), Rng(0), c)


def test_contrast_by_hand() -> None:
    loss = objective(torch.eye(2), torch.eye(2), contrast_temperature=0.5)
    got = loss.reconstruction(torch.tensor([[5.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    # cosines of the first row: 1 and 0; of the second: equal. Lengths do not matter.
    assert float(got) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2, rel=1e-5)


def test_contrast_is_cross_entropy_from_reconstructions_to_inputs() -> None:
    draw = torch.Generator().manual_seed(0)
    decoded, inputs = torch.randn(30, 5, generator=draw), torch.randn(30, 5, generator=draw)
    loss = objective(inputs, inputs)
    logits = F.normalize(decoded, dim=1) @ F.normalize(inputs, dim=1).t() / 0.1
    torch.testing.assert_close(loss.reconstruction(decoded, inputs), F.cross_entropy(logits, torch.arange(30)))


def test_validation_is_the_contrast_of_held_out_items_from_their_codes() -> None:
    draw = torch.Generator().manual_seed(0)
    content, validation = torch.randn(20, 5, generator=draw), torch.randn(9, 5, generator=draw)
    loss = objective(content, validation)
    net = loss.net
    with torch.no_grad():
        decoded = net.reconstruct(net.quantiser.encode(net.latents(validation)))
        wanted = float(loss.reconstruction(decoded, validation))
        assert loss.validate() == pytest.approx(-wanted, rel=1e-5)


@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    return planted_features(300)


@pytest.fixture(scope="module")
def fitted(features: ItemFeatures) -> Cost:
    return Cost(config()).fit(features, Rng(0), RUNTIME)


def found_first(tokenizer: Cost, features: ItemFeatures) -> float:
    """Mean share of the inputs that are farther from a reconstruction than its own input."""
    sids = tokenizer.encode(features, RUNTIME)
    decoded = np.concatenate([sids.reconstruction[m] for m in features.content_names()], 1)
    content = features.concatenated()
    cosines = (decoded / np.linalg.norm(decoded, axis=1, keepdims=True)) @ (
        content / np.linalg.norm(content, axis=1, keepdims=True)
    ).T
    return float((cosines < np.diag(cosines)[:, None]).mean())


def test_training_brings_reconstructions_to_their_own_inputs(features: ItemFeatures, fitted: Cost) -> None:
    untrained = Cost(config(steps=1, autoencoder_steps=0)).fit(features, Rng(0), RUNTIME)
    assert found_first(fitted, features) > 0.95 > found_first(untrained, features) + 0.05


def test_reconstructions_share_the_length_of_least_error(features: ItemFeatures, fitted: Cost) -> None:
    sids = fitted.encode(features, RUNTIME)
    decoded = np.concatenate([sids.reconstruction[m] for m in features.content_names()], 1)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), float(fitted.net_.length), rtol=1e-4)
    rows = features.fit_rows("train")
    content = features.concatenated()[rows]
    errors = [float(((content - factor * decoded[rows]) ** 2).sum()) for factor in (0.98, 1.0, 1.02)]
    assert errors[1] == min(errors)
    assert errors[1] < float((content**2).sum())
