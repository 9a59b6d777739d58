"""RQ-VAE: an autoencoder whose latent is residually quantised (TIGER).

Rajput et al., "Recommender Systems with Generative Retrieval", arXiv 2305.05065, section 3.1. ``z = Enc(e)``,
``r_0 = z``, ``c_p = argmin_k ||r_{p-1} - C_p[k]||^2``, ``r_p = r_{p-1} - C_p[c_p]``,
``e_hat = Dec(STE(z, sum_p C_p[c_p]))``;

    L = ||e - e_hat||^2 + sum_p ( ||sg[r_{p-1}] - C_p[c_p]||^2 + beta ||r_{p-1} - sg[C_p[c_p]]||^2 )

with means over dimensions (first term) and over dimensions and levels (second) in place of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import (
    SemanticIds,
    Tokenizer,
    TokenizerConfig,
    TokenizerInfo,
    check_capacity,
    usable_content,
)
from sidbench.tokenizers.blocks.batches import ShuffledBatches
from sidbench.tokenizers.blocks.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.content import (
    content_like,
    content_widths,
    split_content,
    state_entry,
    widths_from_state,
    widths_state,
)
from sidbench.tokenizers.blocks.mlp import mlp
from sidbench.tokenizers.blocks.runtime import Runtime, TrainingPlan, to_numpy
from sidbench.tokenizers.blocks.vector_quantiser import (
    BLOCK_ROWS,
    DeadCodeRestart,
    ResidualQuantiser,
    collision_rate,
    utilisation,
)

INFO = TokenizerInfo(
    title="RQ-VAE: residual-quantised autoencoder (TIGER)",
    paper="Rajput et al., arXiv 2305.05065",
    year=2023,
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "AdamW 1e-3 with warm-up and cosine instead of Adagrad 0.4; latent width 64 (profile A: 32, the paper's).",
        "Losses are means over dimensions and levels, as in LC-Rec; the paper prints sums.",
        "Inputs are multiplied by one scalar so that their mean square entry is 1, which He initialisation assumes.",
        "A short unquantised warm-up, then k-means of all fitted latents level by level; TIGER uses its first batch.",
        "residual_mode=sg (default) gives every level's commitment a gradient; ste is what public code computes.",
        "The state of least reconstruction error on held-out items (5 %) is kept.",
    ),
)
MONITOR_ROWS = 4096
VALIDATIONS = 40


@dataclass(frozen=True)
class RqVaeConfig(TokenizerConfig):
    """Settings of RQ-VAE."""

    hidden: tuple[int, ...] = setting((512, 256, 128), "hidden widths of the encoder, mirrored in the decoder",
                                      paper=(512, 256, 128))
    latent_dim: int = setting(64, "latent width d; 32 in profile A", unit="dimensions", low=1, high=4096, paper=32,
                              sweep=(32, 64, 128))
    beta: float = setting(0.25, "weight of the commitment loss", low=0, high=10, paper=0.25, sweep=(0.1, 0.25, 1.0))
    distance: str = setting("l2", "how the nearest code is found", choices=("l2", "cosine"), paper="l2")
    residual_mode: str = setting("sg", "gradient of residuals: stop-gradient or straight-through",
                                 choices=("sg", "ste"), sweep=("sg", "ste"))
    restart_dead_codes: bool = setting(False, "replace unused codes by latents of the batch", paper=False,
                                       sweep=(False, True))
    steps: int = setting(20000, "optimiser steps with quantisation", unit="steps", low=1, high=10_000_000)
    warmup_steps: int = setting(500, "linear warm-up of the learning rate", unit="steps", low=0, high=1_000_000)
    autoencoder_steps: int = setting(200, "unquantised steps before the codebooks start (at most steps / 4)",
                                     unit="steps", low=0, high=1_000_000)
    batch_size: int = setting(1024, "items a step", unit="items", low=1, high=1_000_000, paper=1024)
    learning_rate: float = setting(1e-3, "of AdamW", low=1e-8, high=1, sweep=(1e-4, 3e-3))
    weight_decay: float = setting(1e-4, "of AdamW, not on biases and codebooks", low=0, high=1)
    validation_share: float = setting(0.05, "fitted items held out to choose the state; 0: the last", low=0, high=0.5)


class RqVaeNet(nn.Module):
    """Encoder, residual quantiser and decoder; ``scale`` multiplies the inputs."""

    scale: Tensor

    def __init__(self, config: RqVaeConfig, inputs: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = [inputs, *config.hidden, config.latent_dim]
        self.encoder, self.decoder = mlp(widths, generator), mlp(widths[::-1], generator)
        self.quantiser = ResidualQuantiser(
            config.code_length, config.codebook_size, config.latent_dim, generator.device, nearest=config.distance,
            beta=config.beta, residual_mode=config.residual_mode)
        self.register_buffer("scale", torch.ones((), device=generator.device))

    @torch.no_grad()
    def latents(self, content: Tensor) -> Tensor:
        """``z`` ``[N, d]`` of content vectors ``[N, D_c]`` in their own scale."""
        return torch.cat([self.encoder(part * self.scale) for part in content.split(BLOCK_ROWS)])

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Tensor:
        """Content vectors ``[N, D_c]`` in their own scale from codes ``[N, L]``."""
        return torch.cat([self.decoder(self.quantiser.decode(part)) / self.scale for part in codes.split(BLOCK_ROWS)])


class RqVae(Tokenizer):
    """RQ-VAE; ``net_`` is the trained network."""

    info = INFO
    config_class = RqVaeConfig
    budgets = NEURAL_BUDGETS
    net_: RqVaeNet

    def __init__(self, config: RqVaeConfig) -> None:
        super().__init__(config)
        self._diagnostics: dict[str, float] = {}

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: RqVaeConfig = self.config
        rows = features.fit_rows(c.fit_items)
        check_capacity(c, len(rows), "rqvae")
        held_out = min(int(c.validation_share * len(rows)), len(rows) - c.codebook_size)
        content = usable_content(features, "rqvae")
        self.widths_ = content_widths(features)
        self.net_ = RqVaeNet(c, content.shape[1], runtime.generator(rng.child("init")))
        order = rng.child("held out").numpy().permutation(rows)
        train, validation = runtime.tensor(content[order[held_out:]]), runtime.tensor(content[order[:held_out]])
        self.net_.scale.fill_(1 / max(float(train.square().mean().sqrt()), 1e-12))
        objective = Objective(self.net_, train, validation, rng.child("restart"), c)
        autoencoder_steps = min(c.autoencoder_steps, c.steps // 4)
        if autoencoder_steps:
            log = runtime.train(self._plan("rqvae.warm", autoencoder_steps, objective, rng, runtime))
            self._diagnostics["loss_unquantised"] = log.parts["loss"]
        self.net_.quantiser.initialise(self.net_.latents(train), rng.child("kmeans"), runtime)
        objective.quantised = True
        log = runtime.train(self._plan("rqvae", c.steps, objective, rng, runtime))
        codes = self.net_.quantiser.encode(self.net_.latents(train))
        self._diagnostics |= {
            **objective.fitted_loss(), "examples_per_second": log.examples_per_second,
            "restarted_codes": float(objective.restart.restarted),
            "utilisation_fit": utilisation(codes, c.codebook_size), "best_epoch": float(log.best_epoch),
        }
        return self

    def _plan(self, name: str, steps: int, objective: Objective, rng: Rng, runtime: Runtime) -> TrainingPlan:
        c: RqVaeConfig = self.config
        batches = ShuffledBatches(len(objective.content), c.batch_size, rng.child("batches", name), runtime)
        epochs = batches.epochs(steps)
        choose = objective.quantised and len(objective.validation) > 0
        return TrainingPlan(
            name=name, model=self.net_, steps_per_epoch=batches.steps_per_epoch, epochs=epochs, batch=batches,
            loss=objective.loss, rng=rng.child("noise", name),
            learning_rate=c.learning_rate, weight_decay=c.weight_decay,
            warmup_steps=min(c.warmup_steps, steps // 4), schedule="cosine" if objective.quantised else "constant",
            validate=objective.validate if choose else None, validate_every=max(1, epochs // VALIDATIONS),
            after_step=objective.after_step, monitor=objective.monitor if objective.quantised else None,
            extra_state=objective.restart.state, load_extra_state=objective.restart.load_state)

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: RqVaeConfig = self.config
        content = runtime.tensor(content_like(features, self.widths_, "rqvae"))
        net = self.net_.to(runtime.device)
        codes = net.quantiser.encode(net.latents(content))
        return SemanticIds(
            codes=to_numpy(codes).astype(np.int32),
            sizes=np.full(c.code_length, c.codebook_size, np.int32), ordered=True,
            reconstruction=split_content(to_numpy(net.reconstruct(codes)), self.widths_))

    def state_dict(self) -> dict[str, np.ndarray]:
        return {**{name: to_numpy(t) for name, t in self.net_.state_dict().items()}, **widths_state(self.widths_)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.widths_ = widths_from_state(state, "rqvae")
        net = RqVaeNet(self.config, sum(self.widths_.values()), torch.Generator())
        net.load_state_dict({name: torch.as_tensor(state_entry(state, name, tuple(t.shape), "rqvae").copy())
                             for name, t in net.state_dict().items()})
        self.net_ = net.eval()

    def diagnostics(self) -> dict[str, float]:
        return dict(self._diagnostics)


class Objective:
    """Loss of one fit on content ``[N, D_c]``; ``quantised`` is False during the unquantised steps."""

    def __init__(self, net: RqVaeNet, content: Tensor, validation: Tensor, rng: Rng, config: RqVaeConfig) -> None:
        self.net, self.content, self.validation, self.quantised = net, content, validation, False
        self.inputs = content * net.scale
        self.restart = DeadCodeRestart(net.quantiser.codebooks, rng, last_step=int(0.9 * config.steps))
        self.restarts = config.restart_dead_codes
        self._last: tuple[Tensor, Tensor] | None = None

    def loss(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        """Reconstruction plus quantiser loss of rows int64 ``[B]``."""
        e = self.inputs[rows]
        z = self.net.encoder(e)
        if not self.quantised:
            return {"loss": F.mse_loss(self.net.decoder(z), e)}
        quantised = self.net.quantiser(z)
        reconstruction = F.mse_loss(self.net.decoder(quantised.value), e)
        self._last = (z.detach(), quantised.codes)
        return {"loss": reconstruction + quantised.loss, "reconstruction": reconstruction, "quantiser": quantised.loss}

    @torch.no_grad()
    def fitted_loss(self) -> dict[str, float]:
        """Loss and its parts over all fitted items, for the state that is kept."""
        totals = {"loss_native": 0.0, "loss_reconstruction": 0.0, "loss_quantiser": 0.0}
        for rows in torch.arange(len(self.content), device=self.content.device).split(BLOCK_ROWS):
            parts = self.loss(rows, 0)
            for name, part in zip(totals, ("loss", "reconstruction", "quantiser"), strict=True):
                totals[name] += float(parts[part]) * len(rows) / len(self.content)
        return totals

    def after_step(self, step: int) -> None:
        """Restart of dead codes, where asked for."""
        if self.restarts and self.quantised and self._last is not None:
            z, codes = self._last
            self.restart.after_step(self.net.quantiser.residuals(z, codes), codes)

    def validate(self) -> float:
        """Negative mean squared error of the held-out items' reconstruction from codes."""
        codes = self.net.quantiser.encode(self.net.latents(self.validation))
        return -float(F.mse_loss(self.net.reconstruct(codes), self.validation))

    def monitor(self) -> dict[str, Any]:
        """Utilisation and collision rate of a fixed sample of the fitted items."""
        codes = self.net.quantiser.encode(self.net.latents(self.content[:MONITOR_ROWS]))
        return {"utilisation": utilisation(codes, self.net.quantiser.codebooks.shape[1]),
                "collision_rate": collision_rate(codes)}
