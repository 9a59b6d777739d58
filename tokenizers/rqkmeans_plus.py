"""RQ-KMeans+: a residual auto-encoder that starts as RQ-KMeans and is trained on as an RQ-VAE.

As released with MiniOneRec (arXiv 2510.24431), which credits GPR. ``z = e + f(e)`` with an MLP ``f`` whose last layer
starts at zero; codebooks start at the centres of RQ-KMeans; ``z_hat = sum_p C_p[c_p]``, ``e_hat = q + g(q)`` with
``q = STE(z, z_hat)`` and ``g`` an MLP like ``f``;

    L = ||e - e_hat||^2 + sum_p ( ||sg[r_{p-1}] - C_p[c_p]||^2 + beta ||r_{p-1} - sg[C_p[c_p]]||^2 )

So before the first step codes and reconstruction are those of RQ-KMeans, and training can only be judged by what it
adds to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.clustering.kmeans import kmeans
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderNet, Objective, ResidualAutoencoder
from sidbench.tokenizers.blocks.quantisers.residual_kmeans import Level, fit_levels
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import QuantiserConfig, ResidualQuantiser
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.training.code_figures import collision_rate
from sidbench.tokenizers.blocks.training.mlp import mlp

INFO = TokenizerInfo(
    title="RQ-KMeans+: RQ-KMeans trained on as a residual auto-encoder",
    version=1,
    paper="MiniOneRec, arXiv 2510.24431 (credited to GPR)",
    year=2025,
    url="https://arxiv.org/abs/2510.24431",
    bibtex="@misc{minionerec2025,\n"
    "  title={MiniOneRec: An Open-Source Framework for Scaling Generative Recommendation}, year={2025},\n"
    "  eprint={2510.24431}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2510.24431}}",
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "The decoder has the same residual form as the encoder, so that training starts at RQ-KMeans's reconstruction.",
        "One hidden layer of 512 units in encoder and decoder; the sources give no widths.",
        "AdamW 1e-4 with warm-up and cosine for a number of steps set by the budget instead of 5,000 epochs.",
        "Inputs are multiplied by the power of two that brings their mean square entry nearest to 1, which changes no "
        "code of RQ-KMeans and suits the initialisation of the MLPs.",
        "The state of least reconstruction error on held-out items (5 %) is kept; these are not in the warm start.",
    ),
)


@dataclass(frozen=True)
class RqKMeansPlusConfig(QuantiserConfig):
    """Settings of RQ-KMeans+; the latent is as wide as the content."""

    autoencoder_steps: ClassVar[int] = 0  # there is nothing to warm up: the codebooks fit the first latents

    codebook_start: str = setting("kmeans", "where codebooks start: RQ-KMeans", choices=("kmeans",), paper="kmeans")
    hidden: tuple[int, ...] = setting((512,), "hidden widths of encoder and decoder MLP")
    iterations: int = setting(
        100, "most Lloyd iterations per level of the warm start", unit="iterations", low=1, high=10_000, paper=100
    )
    steps: int = setting(20000, "optimiser steps", unit="steps", low=1, high=10_000_000)
    warmup_steps: int = setting(500, "linear warm-up of the learning rate", unit="steps", low=0, high=1_000_000)
    batch_size: int = setting(1024, "items a step", unit="items", low=1, high=1_000_000, paper=1024)
    learning_rate: float = setting(1e-4, "of AdamW", low=1e-8, high=1, paper=1e-4, sweep=(1e-5, 1e-3))
    weight_decay: float = setting(1e-4, "of AdamW, not on biases and codebooks", low=0, high=1)
    validation_share: float = setting(0.05, "fitted items held out to choose the state; 0: the last", low=0, high=0.5)


class ResidualMlp(nn.Module):
    """``x + f(x)``, the identity at first."""

    def __init__(self, width: int, hidden: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.change = mlp((width, *hidden, width), generator)
        nn.init.zeros_(self.change.get_parameter(f"{len(self.change) - 1}.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D]`` -> ``[B, D]``."""
        changed: Tensor = x + self.change(x)
        return changed


class RqKMeansPlusNet(AutoencoderNet):
    """Residual encoder and decoder around a residual quantiser of the width of the content."""

    def __init__(self, config: RqKMeansPlusConfig, inputs: int, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.encoder = ResidualMlp(inputs, config.hidden, generator)  # type: ignore[assignment]
        self.decoder = ResidualMlp(inputs, config.hidden, generator)  # type: ignore[assignment]
        self.quantiser = ResidualQuantiser.from_config(config, inputs, generator.device)
        self.register_buffer("scale", torch.ones((), device=generator.device))


class RqKMeansPlus(ResidualAutoencoder):
    """RQ-KMeans+; ``net_`` is the trained network."""

    info = INFO
    config_class = RqKMeansPlusConfig
    budgets = {
        "smoke": {**NEURAL_BUDGETS["smoke"], "iterations": 10},
        "quick": {**NEURAL_BUDGETS["quick"], "steps": 1000, "iterations": 50},
        "standard": NEURAL_BUDGETS["standard"],
        "paper": NEURAL_BUDGETS["paper"],
    }

    def network(self, inputs: int, generator: torch.Generator) -> RqKMeansPlusNet:
        return RqKMeansPlusNet(self.config, inputs, generator)

    def start(self, objective: Objective, rng: Rng, runtime: Runtime) -> None:
        """RQ-KMeans on the content of the fitted items, in catalogue order, so that it is the plugin ``rqkmeans``."""
        c: RqKMeansPlusConfig = self.config
        content = objective.content[objective.data.items.argsort()]

        def level(residual: Tensor, node: Rng) -> Level:
            found = kmeans(residual, c.codebook_size, node, runtime, iterations=c.iterations)
            return Level(found.centres, found.codes)

        levels = fit_levels(content, c.code_length, level, rng)
        scale = 2.0 ** round(math.log2(float(self.net_.scale)))  # a power of two rounds nothing
        with torch.no_grad():
            self.net_.scale.fill_(scale)
            self.net_.quantiser.codebooks.copy_(levels.centres * scale)
        objective.inputs = objective.content * scale
        self._diagnostics |= {"start_loss": levels.energies[-1], "start_collision_rate": collision_rate(levels.codes)}
