"""What RQ-VAE and its kin share: held-out items are not fitted, codebooks start and move as the settings say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.quantisers.codebook_starts import STARTS
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderNet, FitData, Objective
from sidbench.tokenizers.blocks.training.content import content_rows
from sidbench.tokenizers.rqvae import RqVae, RqVaeConfig

RUNTIME = local_runtime(threads=1)


def config(**settings: Any) -> RqVaeConfig:
    base = {"code_length": 2, "codebook_size": 6, "hidden": (16,), "latent_dim": 4, "steps": 4, "batch_size": 64}
    return RqVaeConfig(**{**base, "autoencoder_steps": 1, **settings})


def objective(**settings: Any) -> Objective:
    c, content = config(**settings), torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    net = AutoencoderNet(c, 5, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(net.quantiser.codebooks, generator=torch.Generator().manual_seed(2))
    found = Objective(net, FitData(torch.arange(40), content, content[:0], {}, 40), Rng(0), c)
    found.quantised = True
    return found


class Kept(RqVae):
    """RqVae that keeps what its fit sees."""

    data: FitData

    def objective(self, data: FitData, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Objective:
        self.data = data
        return super().objective(data, features, rng, runtime)


@pytest.mark.parametrize("fit_items", ["train", "all"])
def test_held_out_items_choose_the_state_and_are_not_fitted(fit_items: str) -> None:
    features = planted_features(200)
    kept = Kept(config(validation_share=0.2, fit_items=fit_items))
    data = kept.fit(features, Rng(0), RUNTIME).data
    rows = features.fit_rows(fit_items)
    fitted = data.items.numpy()
    held_out = np.setdiff1d(rows, fitted)
    assert len(fitted) == len(set(fitted.tolist())) and set(fitted.tolist()) < set(rows.tolist())
    assert len(held_out) == len(data.validation) == int(0.2 * len(rows))
    np.testing.assert_array_equal(data.content.numpy(), content_rows(features, fitted))
    in_any_order = np.sort(data.validation.numpy(), axis=0)
    np.testing.assert_array_equal(in_any_order, np.sort(content_rows(features, held_out), axis=0))


@pytest.mark.parametrize("start", sorted(STARTS))
def test_codebooks_start_where_the_settings_say(start: str) -> None:
    loss = objective(codebook_start=start)
    tokenizer = RqVae(loss.config)
    tokenizer.net_ = loss.net
    tokenizer.start(loss, Rng(0), RUNTIME)
    first = STARTS[start](loss.net.latents(loss.content), 6, Rng(0).child("kmeans").child("level", 0), RUNTIME)
    torch.testing.assert_close(loss.net.quantiser.codebooks.data[0], first)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_after_a_step_averages_move_used_codes_and_unused_ones_restart(update: str, restart: bool) -> None:
    loss = objective(codebook_update=update, restart_dead_codes=restart)
    loss.restart.every, loss.restart.decay = 1, 0.0  # a code that this batch leaves out is dead
    loss.loss(torch.arange(40), 0)
    before = loss.net.quantiser.codebooks.detach().clone()
    assert loss._last is not None
    z, codes = loss._last
    used = torch.stack([torch.bincount(level, minlength=6) > 0 for level in codes.t()])
    assert not bool(used.all())
    loss.after_step(0)
    after = loss.net.quantiser.codebooks.detach()
    moved = (after - before).abs().amax(2) > 1e-4
    assert torch.equal(moved, (used & (update == "ema")) | (~used & restart))
    if update == "ema":
        average = loss.average
        assert average is not None
        code = int(codes[0, 0])
        share = 40 / 6  # of every code at first
        count = 0.99 * share + 0.01 * float((codes[:, 0] == code).sum())
        total = 0.99 * share * before[0, code] + 0.01 * z[codes[:, 0] == code].sum(0)
        torch.testing.assert_close(after[0, code], total / count, rtol=1e-4, atol=1e-4)
