"""CoST: RQ-VAE trained to tell items apart instead of to copy them.

Zhu et al., "CoST: Contrastive Quantization based Semantic Tokenization for Generative Recommendation", RecSys 2024,
arXiv 2404.14774. The reconstruction error of RQ-VAE gives way to a contrast within the batch,

    L = - mean_i log [ exp(cos(e_hat_i, e_i) / tau) / sum_j exp(cos(e_hat_i, e_j) / tau) ] + L_rq,

``e_hat = Dec(STE(z, z_hat))``, ``L_rq`` as in RQ-VAE: a reconstruction has to be nearer to its own input than to the
other inputs of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.losses.alignment import info_nce
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import (
    AutoencoderConfig,
    AutoencoderNet,
    Objective,
    ResidualAutoencoder,
)
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import BLOCK_ROWS
from sidbench.tokenizers.blocks.training.content import content_rows, fitting_rows

INFO = TokenizerInfo(
    title="CoST: contrastive residual quantisation",
    version=1,
    paper="Zhu et al., arXiv 2404.14774",
    year=2024,
    url="https://arxiv.org/abs/2404.14774",
    bibtex="@misc{zhu2024cost,\n"
    "  title={CoST: Contrastive Quantization based Semantic Tokenization for Generative Recommendation},\n"
    "  author={Zhu and others}, year={2024}, eprint={2404.14774}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2404.14774}}",
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "Temperature 0.1 and the cosine similarity are choices of this suite.",
        "The loss has one direction, from reconstructions to inputs.",
        "Network, optimiser and starts are those of this suite's rqvae (latent width 64, AdamW 1e-3, k-means).",
        "The loss does not see lengths, so the exported reconstruction has one length for all items, fitted to them.",
        "The state of least contrastive loss on held-out items (5 %) is kept.",
    ),
)


@dataclass(frozen=True)
class CostConfig(AutoencoderConfig):
    """Settings of CoST."""

    contrast_temperature: float = setting(0.1, "tau of the contrastive loss", low=1e-3, high=10, sweep=(0.05, 0.1, 0.2, 0.5))


class CostNet(AutoencoderNet):
    """The autoencoder, whose exported reconstructions all have length ``length`` (in the scale of the content)."""

    length: Tensor

    def __init__(self, config: CostConfig, inputs: int, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator)
        self.register_buffer("length", torch.ones((), device=generator.device))

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Tensor:
        """Content vectors ``[N, D_c]`` in their own scale from codes ``[N, L]``."""
        return self.length * F.normalize(super().reconstruct(codes), dim=1)

    @torch.no_grad()
    def fit_length(self, content: Tensor) -> None:
        """Set ``length`` to the one of least squared error on content ``[N, D_c]``."""
        self.length.fill_(1.0)
        along = [
            (part * self.reconstruct(self.quantiser.encode(self.latents(part)))).sum() for part in content.split(BLOCK_ROWS)
        ]
        self.length.copy_((torch.stack(along).sum() / len(content)).clamp(min=0))


class CostObjective(Objective):
    """RQ-VAE's loss with the contrast in place of the reconstruction error."""

    def reconstruction(self, decoded: Tensor, inputs: Tensor) -> Tensor:
        every = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
        return info_nce(
            F.normalize(decoded, dim=1), F.normalize(inputs, dim=1), every, self.config.contrast_temperature
        ).mean()


class Cost(ResidualAutoencoder):
    """CoST; ``net_`` is the trained network."""

    info = INFO
    config_class = CostConfig
    objective_class = CostObjective
    net_: CostNet

    def network(self, inputs: int, generator: torch.Generator) -> CostNet:
        return CostNet(self.config, inputs, generator)

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        super().fit(features, rng, runtime)
        rows = fitting_rows(features, self.config.fit_items, self.name, runtime)
        self.net_.fit_length(runtime.tensor(content_rows(features, rows)))
        return self
