"""RQ-VAE: the properties of the specification on planted features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import FitData, Objective
from sidbench.tokenizers.rqvae import RqVae, RqVaeConfig

RUNTIME = local_runtime()
SMALL = {
    "code_length": 3,
    "codebook_size": 16,
    "hidden": (32,),
    "latent_dim": 8,
    "steps": 150,
    "warmup_steps": 10,
    "batch_size": 128,
    "autoencoder_steps": 30,
    "learning_rate": 3e-3,
}


def fit(features: ItemFeatures, **settings: object) -> tuple[RqVae, SemanticIds]:
    tokenizer = RqVae(RqVaeConfig(**{**SMALL, **settings}))  # type: ignore[arg-type]
    tokenizer.fit(features, Rng(0), RUNTIME)
    return tokenizer, tokenizer.encode(features, RUNTIME)


@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    return planted_features(500)


@pytest.fixture(scope="module")
def fitted(features: ItemFeatures) -> RqVae:
    return fit(features)[0]


def error(features: ItemFeatures, sids: SemanticIds) -> float:
    return sum(float(((features.modalities[m] - e) ** 2).sum(1).mean()) for m, e in sids.reconstruction.items())


def test_training_beats_the_mean_and_the_start(features: ItemFeatures, fitted: RqVae) -> None:
    sids = fitted.encode(features, RUNTIME)
    variance = sum(float(features.modalities[m].var(0).sum()) for m in ("text", "vision"))
    assert error(features, sids) < 0.5 * variance
    assert error(features, sids) < error(features, fit(features, steps=1, autoencoder_steps=0)[1])


def test_quantisation_costs_reconstruction(features: ItemFeatures, fitted: RqVae) -> None:
    content = torch.from_numpy(features.concatenated())
    net = fitted.net_
    with torch.no_grad():
        z = net.latents(content)
        free = float(F.mse_loss(net.decoder(z) / net.scale, content))
        coded = float(F.mse_loss(net.reconstruct(net.quantiser.encode(z)), content))
    assert free < coded


def test_residuals_shrink_with_the_level(features: ItemFeatures, fitted: RqVae) -> None:
    z = fitted.net_.latents(torch.from_numpy(features.concatenated()[features.fit_rows("train")]))
    norms = fitted.net_.quantiser.residuals(z, fitted.net_.quantiser.encode(z)).square().sum(2).mean(1)
    assert norms[0] > norms[1] > norms[2]


def test_one_code_gives_a_constant_reconstruction(features: ItemFeatures) -> None:
    sids = fit(features, codebook_size=1, steps=20)[1]
    assert float(np.ptp(sids.reconstruction["text"], axis=0).max()) == 0


def test_reconstruction_does_not_notice_a_renaming_of_codes(features: ItemFeatures, fitted: RqVae) -> None:
    before = fitted.encode(features, RUNTIME)
    renamed = RqVae(fitted.config)
    state = fitted.state_dict()
    order = np.random.default_rng(0).permutation(16)
    state["quantiser.codebooks"] = state["quantiser.codebooks"][:, order].copy()
    renamed.load_state_dict(state)
    after = renamed.encode(features, RUNTIME)
    np.testing.assert_allclose(after.reconstruction["text"], before.reconstruction["text"], atol=1e-6)
    np.testing.assert_array_equal(order[after.codes], before.codes)


def test_loss_is_the_sum_of_its_stated_means(fitted: RqVae) -> None:
    content = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    net = fitted.net_
    data = FitData(torch.arange(len(content)), content, content[:0], {}, len(content))
    objective = Objective(net, data, Rng(0), RqVaeConfig())
    objective.quantised = True
    with torch.no_grad():
        parts = objective.loss(torch.arange(20), 0)
        e = content * net.scale
        z = net.encoder(e)
        codes = net.quantiser.encode(z)
        residual, levels = z, []
        for p in range(3):
            chosen = net.quantiser.codebooks[p][codes[:, p]]
            levels.append(1.25 * ((residual - chosen) ** 2).mean())
            residual = residual - chosen
        recon = ((net.decoder(z - residual) - e) ** 2).mean()
    assert float(parts["reconstruction"]) == pytest.approx(float(recon), rel=1e-4)
    assert float(parts["quantiser"]) == pytest.approx(float(torch.stack(levels).mean()), rel=1e-4)
    assert float(parts["loss"]) == pytest.approx(float(parts["reconstruction"] + parts["quantiser"]), rel=1e-5)


def test_k_means_start_uses_the_codebooks(fitted: RqVae) -> None:
    assert fitted.diagnostics()["utilisation_fit"] > 0.9
    assert fitted.diagnostics()["best_epoch"] > 0


def test_fit_that_was_interrupted_ends_the_same(
    features: ItemFeatures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**SMALL, "restart_dead_codes": True, "steps": 40}
    straight = RqVae(RqVaeConfig(**settings)).fit(features, Rng(0), RUNTIME)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        plain, calls = Objective.loss, iter(range(1000))

        def interrupted(self: Objective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if next(calls) == 30:
                raise KeyboardInterrupt
            return plain(self, rows, step)

        patch.setattr(Objective, "loss", interrupted)
        with RUNTIME.checkpointing(tmp_path), pytest.raises(KeyboardInterrupt):
            RqVae(RqVaeConfig(**settings)).fit(features, Rng(0), RUNTIME)  # type: ignore[arg-type]
    with RUNTIME.checkpointing(tmp_path):
        resumed = RqVae(RqVaeConfig(**settings)).fit(features, Rng(0), RUNTIME)  # type: ignore[arg-type]
    for name, array in straight.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array, err_msg=name)


def test_state_of_another_width_is_refused(fitted: RqVae) -> None:
    other = RqVae(RqVaeConfig(**{**SMALL, "latent_dim": 9}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rqvae state entry .*wanted shape"):
        other.load_state_dict(fitted.state_dict())
