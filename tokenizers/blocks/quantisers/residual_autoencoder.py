"""What RQ-VAE and the tokenizers built on it share: network, training, encoding, state.

An autoencoder whose latent is residually quantised (TIGER, arXiv 2305.05065, section 3.1). A method adds its own loss
by a subclass of ``Objective``, its own trained modules by ``ResidualAutoencoder.network``, and what the loss reads of
the items beside their content by ``ResidualAutoencoder.side_information``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds, Tokenizer, check_capacity, check_content
from sidbench.tokenizers.blocks.quantisers.codebook_updates import MovingAverage
from sidbench.tokenizers.blocks.quantisers.dead_codes import DeadCodeRestart
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import (
    BLOCK_ROWS,
    Quantised,
    QuantiserConfig,
    ResidualQuantiser,
)
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.training.code_figures import collision_rate, utilisation
from sidbench.tokenizers.blocks.training.content import (
    content_like,
    content_rows,
    content_widths,
    fitting_rows,
    load_module,
    split_content,
    widths_from_state,
    widths_state,
)
from sidbench.tokenizers.blocks.training.mlp import mlp

MONITOR_ROWS = 4096
VALIDATIONS = 40


@dataclass(frozen=True)
class AutoencoderConfig(QuantiserConfig):
    """Settings of a residually quantised autoencoder and its training."""

    hidden: tuple[int, ...] = setting(
        (512, 256, 128), "hidden widths of the encoder, mirrored in the decoder", paper=(512, 256, 128)
    )
    latent_dim: int = setting(
        64, "latent width d; 32 in profile A", unit="dimensions", low=1, high=4096, paper=32, sweep=(32, 64, 128)
    )
    steps: int = setting(20000, "optimiser steps with quantisation", unit="steps", low=1, high=10_000_000)
    warmup_steps: int = setting(500, "linear warm-up of the learning rate", unit="steps", low=0, high=1_000_000)
    autoencoder_steps: int = setting(
        200, "unquantised steps before the codebooks start (at most steps / 4)", unit="steps", low=0, high=1_000_000
    )
    batch_size: int = setting(1024, "items a step", unit="items", low=1, high=1_000_000, paper=1024)
    learning_rate: float = setting(1e-3, "of AdamW", low=1e-8, high=1, sweep=(1e-4, 3e-3))
    weight_decay: float = setting(1e-4, "of AdamW, not on biases and codebooks", low=0, high=1)
    validation_share: float = setting(0.05, "fitted items held out to choose the state; 0: the last", low=0, high=0.5)


class AutoencoderNet(nn.Module):
    """Encoder, residual quantiser and decoder; ``scale`` multiplies the inputs."""

    scale: Tensor

    def __init__(
        self,
        config: AutoencoderConfig,
        inputs: int,
        generator: torch.Generator,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs, *config.hidden, config.latent_dim]
        self.encoder, self.decoder = mlp(widths, generator), mlp(widths[::-1], generator)
        self.quantiser = ResidualQuantiser.from_config(config, config.latent_dim, generator.device, levels)
        self.register_buffer("scale", torch.ones((), device=generator.device))

    @torch.no_grad()
    def latents(self, content: Tensor) -> Tensor:
        """``z`` ``[N, d]`` of content vectors ``[N, D_c]`` in their own scale."""
        return torch.cat([self.encoder(part * self.scale) for part in content.split(BLOCK_ROWS)])

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Tensor:
        """Content vectors ``[N, D_c]`` in their own scale from codes ``[N, L]``."""
        return torch.cat([self.decoder(self.quantiser.decode(part)) / self.scale for part in codes.split(BLOCK_ROWS)])


@dataclass(frozen=True)
class FitData:
    """What one fit sees, on the device.

    items int64 ``[n]``: catalogue index of each row of ``content [n, D_c]``; validation ``[v, D_c]``: held-out items.
    side: name -> ``[n, ...]`` rows of what the method reads beside the content. n_items: size of the catalogue.
    """

    items: Tensor
    content: Tensor
    validation: Tensor
    side: Mapping[str, Tensor]
    n_items: int


class Objective:
    """Loss of one fit; ``quantised`` is False during the unquantised steps. Subclasses add to ``extra`` or replace parts."""

    def __init__(self, net: AutoencoderNet, data: FitData, rng: Rng, config: Any) -> None:
        self.net, self.data, self.config, self.rng, self.quantised = net, data, config, rng, False
        self.model: nn.Module = net  # what training moves and a checkpoint holds; a method may add modules of its own
        self.content, self.validation = data.content, data.validation
        self.inputs = data.content * net.scale
        self.restart = DeadCodeRestart(net.quantiser.codebooks, rng.child("restart"), last_step=int(0.9 * config.steps))
        self.average = MovingAverage(net.quantiser.codebooks) if config.codebook_update == "ema" else None
        self._last: tuple[Tensor, Tensor] | None = None

    # -- what methods change -------------------------------------------------------------------------------------
    def reconstruction(self, decoded: Tensor, inputs: Tensor) -> Tensor:
        """Scalar loss of decoded ``[B, D_c]`` against inputs ``[B, D_c]``; mean squared error."""
        return F.mse_loss(decoded, inputs)

    def penalty(self, level: int, codes: Tensor, codebook: Tensor) -> Tensor | None:
        """Loss of one level beside the VQ loss, from codes int64 ``[B]`` and codebook ``[K, d]``; ``None`` for none."""
        return None

    def extra(self, rows: Tensor, z: Tensor, quantised: Quantised, step: int) -> Mapping[str, Tensor]:
        """Named, already weighted losses of rows int64 ``[B]`` with latents z ``[B, d]``; they are added."""
        return {}

    # -- training ------------------------------------------------------------------------------------------------
    def loss(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        """All losses of rows int64 ``[B]`` and, under "loss", their sum."""
        e = self.inputs[rows]
        z = self.net.encoder(e)
        if not self.quantised:
            return {"loss": self.reconstruction(self.net.decoder(z), e)}
        quantised = self.net.quantiser(z, self.penalty)
        self._last = (z.detach(), quantised.codes)
        parts = {
            "reconstruction": self.reconstruction(self.net.decoder(quantised.value), e),
            "quantiser": quantised.loss,
            **self.extra(rows, z, quantised, step),
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    @torch.no_grad()
    def fitted_loss(self) -> dict[str, float]:
        """Losses over all fitted items, in batches as in training, for the state that is kept."""
        totals: dict[str, float] = {}
        size = self.config.batch_size
        for rows in torch.arange(len(self.content), device=self.content.device).split(size):
            for name, part in self.loss(rows, 0).items():
                key = "loss_native" if name == "loss" else f"loss_{name}"
                totals[key] = totals.get(key, 0.0) + float(part) * len(rows) / len(self.content)
        return totals

    @property
    def sharded(self) -> bool:
        """Whether gradients alone move the state: no moving average, no restart of dead codes."""
        return not self.quantised or (self.average is None and not self.config.restart_dead_codes)

    def after_step(self, step: int) -> None:
        """Moving averages and the restart of dead codes, where asked for."""
        if self.sharded or self._last is None:
            return
        z, codes = self._last
        residuals = self.net.quantiser.residuals(z, codes)
        if self.average is not None:
            self.average.after_step(residuals, codes)
        if self.config.restart_dead_codes:
            before = self.net.quantiser.codebooks.data.clone() if self.average is not None else None
            if self.restart.after_step(residuals, codes, step=step) and self.average is not None and before is not None:
                self.average.place((before != self.net.quantiser.codebooks.data).any(2))

    def validate(self) -> float:
        """Negative ``reconstruction`` of the held-out items from their codes, in batches as in training."""
        total = 0.0
        for part in self.validation.split(self.config.batch_size):
            decoded = self.net.decoder(self.net.quantiser.decode(self.net.quantiser.encode(self.net.latents(part))))
            total += float(self.reconstruction(decoded, part * self.net.scale)) * len(part)
        return -total / len(self.validation)

    def monitor(self) -> dict[str, Any]:
        """Utilisation and collision rate of a fixed sample of the fitted items."""
        codes = self.net.quantiser.encode(self.net.latents(self.content[:MONITOR_ROWS]))
        return {
            "utilisation": utilisation(codes, self.net.quantiser.codebooks.shape[1]),
            "collision_rate": collision_rate(codes),
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the network."""
        return {**self.restart.state(), **({} if self.average is None else self.average.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self.restart.load_state(state)
        if self.average is not None:
            self.average.load_state(state)


def train_in_two_phases(
    who: str,
    net: nn.Module,
    objective: Objective,
    config: AutoencoderConfig,
    start: Callable[[], None],
    rng: Rng,
    runtime: Runtime,
) -> dict[str, float]:
    """Train without quantisation, place the codebooks (``start``), train with it; returns figures for the record."""
    figures: dict[str, float] = {}
    autoencoder_steps = min(config.autoencoder_steps, config.steps // 4)
    if autoencoder_steps:
        log = runtime.train(_training_plan(f"{who}.warm", autoencoder_steps, net, objective, config, rng, runtime))
        figures["loss_unquantised"] = log.parts["loss"]
    start()
    objective.quantised = True
    log = runtime.train(_training_plan(who, config.steps, net, objective, config, rng, runtime))
    return {
        **figures,
        **objective.fitted_loss(),
        "examples_per_second": log.examples_per_second,
        "best_epoch": float(log.best_epoch),
    }


def _training_plan(
    name: str, steps: int, net: nn.Module, objective: Objective, config: AutoencoderConfig, rng: Rng, runtime: Runtime
) -> TrainingPlan:
    """At least ``steps`` steps of ``net`` on ``objective``; the best state on held-out items is kept once it quantises."""
    c = config
    batches = ShuffledBatches(len(objective.content), c.batch_size, rng.child("batches", name), runtime)
    epochs = batches.epochs(steps)
    choose = objective.quantised and len(objective.validation) > 0
    return TrainingPlan(
        name=name,
        model=net,
        steps_per_epoch=batches.steps_per_epoch,
        epochs=epochs,
        batch=batches,
        loss=objective.loss,
        rng=rng.child("noise", name),
        learning_rate=c.learning_rate,
        weight_decay=c.weight_decay,
        warmup_steps=min(c.warmup_steps, steps // 4),
        schedule="cosine" if objective.quantised else "constant",
        validate=objective.validate if choose else None,
        validate_every=max(1, epochs // VALIDATIONS),
        after_step=objective.after_step,
        monitor=objective.monitor if objective.quantised else None,
        extra_state=objective.state,
        load_extra_state=objective.load_state,
        sharded=objective.sharded,
        batch_setting=("batch_size", c.batch_size),
    )


class ResidualAutoencoder(Tokenizer):
    """Base of tokenizers that train one residually quantised autoencoder on content; ``net_`` is the trained network.

    ``objective_class``: the method's loss.
    """

    objective_class: ClassVar[type[Objective]] = Objective
    config_class: ClassVar[type[Any]] = AutoencoderConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = NEURAL_BUDGETS
    net_: AutoencoderNet

    # -- what methods change -------------------------------------------------------------------------------------
    def network(self, inputs: int, generator: torch.Generator) -> AutoencoderNet:
        """The network for content vectors of width ``inputs``; may hold further modules, which are trained and saved."""
        return AutoencoderNet(self.config, inputs, generator)

    def side_information(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Mapping[str, np.ndarray]:
        """name -> array ``[N, ...]`` with one row per catalogue item that the loss reads beside the content."""
        return {}

    def objective(self, data: FitData, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Objective:
        """The loss of this fit; for methods whose loss reads more than rows of items."""
        return self.objective_class(self.net_, data, rng, self.config)

    def start(self, objective: Objective, rng: Rng, runtime: Runtime) -> None:
        """Place the codebooks before quantisation begins."""
        latents = self.net_.latents(objective.content)
        self.net_.quantiser.initialise(latents, rng.child("kmeans"), runtime, self.config.codebook_start)

    # -- the life cycle ------------------------------------------------------------------------------------------
    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c = self.config
        rows = fitting_rows(features, c.fit_items, self.name, runtime)
        check_capacity(c, len(rows), self.name)
        held_out = min(int(c.validation_share * len(rows)), len(rows) - c.codebook_size)
        check_content(features, self.name)
        self.widths_ = content_widths(features)
        self.net_ = self.network(sum(self.widths_.values()), runtime.generator(rng.child("init")))
        order = rng.child("held out").numpy().permutation(rows)
        side = self.side_information(features, rng.child("side"), runtime)
        data = FitData(
            runtime.tensor(order[held_out:]),
            runtime.tensor(content_rows(features, order[held_out:])),
            runtime.tensor(content_rows(features, order[:held_out])),
            {name: runtime.tensor(array[order[held_out:]]) for name, array in side.items()},
            features.n_items,
        )
        self.net_.scale.fill_(1 / max(float(data.content.square().mean().sqrt()), 1e-12))
        objective = self.objective(data, features, rng, runtime)
        figures = train_in_two_phases(
            self.name, objective.model, objective, c, lambda: self.start(objective, rng, runtime), rng, runtime
        )
        codes = self.net_.quantiser.encode(self.net_.latents(data.content))
        self._diagnostics |= {
            **figures,
            "restarted_codes": float(objective.restart.restarted),
            "utilisation_fit": utilisation(codes, c.codebook_size),
        }
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c = self.config
        content = runtime.tensor(content_like(features, self.widths_, self.name))
        net = self.net_.to(runtime.device)
        codes = net.quantiser.encode(net.latents(content))
        return SemanticIds(
            codes=to_numpy(codes).astype(np.int32),
            sizes=np.full(c.code_length, c.codebook_size, np.int32),
            ordered=True,
            reconstruction=split_content(to_numpy(net.reconstruct(codes)), self.widths_),
        )

    def code_costs(self, features: ItemFeatures, runtime: Runtime) -> np.ndarray:
        """Distance of each item's last residual to every code of the last level, float32 ``[N, K]``."""
        net = self.net_.to(runtime.device)
        content = runtime.tensor(content_like(features, self.widths_, self.name))
        return to_numpy(net.quantiser.last_costs(net.latents(content))).astype(np.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {**{name: to_numpy(t) for name, t in self.net_.state_dict().items()}, **widths_state(self.widths_)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.widths_ = widths_from_state(state, self.name)
        self.net_ = self.network(sum(self.widths_.values()), torch.Generator())
        load_module(self.net_, state, self.name)
