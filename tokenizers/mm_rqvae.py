"""MM-RQ-VAE: one residually quantised autoencoder per modality, trained to keep distributions and to agree (MME-SID).

Xu et al., "MME-SID", arXiv 2509.02017. For m in text, vision, behaviour: ``z_m = Enc_m(e_m)``, ``zq_m = RQ_m(z_m)``,
``e_hat_m = Dec_m(zq_m)``;

    L = w_r sum_m MMD^2(e_hat_m, e_m) + sum_m L_rq,m + w_a [ A(zq_b, zq_v) + A(zq_b, zq_t) ]

MMD compares the batch of reconstructions with the batch of inputs as distributions (``blocks/losses/mmd.py``), so a
decoder may exchange items without loss: the error per item is no aim of this method unless ``reconstruction=mmd+mse``.
``A`` is a contrast within the batch in the paper and MMD in the released code; both are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.losses.alignment import info_nce, mean_over
from sidbench.tokenizers.blocks.losses.mmd import squared_mmd
from sidbench.tokenizers.blocks.quantisers.multimodal_autoencoder import JointObjective, MultimodalAutoencoder, Tower
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderConfig
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS

INFO = TokenizerInfo(
    title="MM-RQ-VAE: multimodal RQ-VAE with MMD and alignment (MME-SID)",
    version=1,
    paper="Xu et al., arXiv 2509.02017",
    year=2025,
    url="https://arxiv.org/abs/2509.02017",
    bibtex="@misc{xu2025mmesid,\n"
    "  title={Empowering Large Language Model for Sequential Recommendation via Multimodal Embeddings and Semantic IDs},\n"
    "  author={Xu and others}, year={2025}, eprint={2509.02017}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2509.02017}}",
    modalities=("text", "vision", "behaviour"),
    required=("behaviour", "text|vision"),
    ordered=False,
    variable_length=True,
    deviations=(
        "Latent width 64 and hidden 512-256 instead of 4096 and 4096 x 3; 6 positions in all, not 4 x 256 each.",
        "Positions: an even share each, the remainder to the first of text, vision, behaviour; an absent modality "
        "gives its positions to the others and its terms are dropped.",
        "Alignment is InfoNCE on cosines (tau 0.07) from behaviour to content, as the paper says; the code computes MMD.",
        "A position of a modality that an item lacks is PAD, and the item does not count in its terms.",
        "MMD is the V-statistic, which is 0 for equal batches and never negative.",
        "The commitment weight is 0.25; the released script passes it the alignment weight, 0.01, by re-using a parameter.",
        "Declared unordered: a code refines only those before it of its own modality.",
        "A short unquantised warm-up, k-means start, residual_mode=sg, scaled inputs and losses that are means over "
        "dimensions and levels are those of this suite's rqvae.",
        "AdamW with cosine for a fixed number of steps, 1e-3 in the short budgets (script: 2e-4).",
        "The state of least w_r sum MMD^2 on held-out items (5 %) is kept.",
    ),
)

MSE_WEIGHT = 0.1


@dataclass(frozen=True)
class MmRqVaeConfig(AutoencoderConfig):
    """Settings of MM-RQ-VAE; ``code_length`` counts the positions of all modalities together."""

    hidden: tuple[int, ...] = setting(
        (512, 256), "hidden widths of the encoders, mirrored in the decoders", paper=(4096, 4096, 4096)
    )
    latent_dim: int = setting(64, "latent width d", unit="dimensions", low=1, high=4096, paper=4096, sweep=(32, 64, 128))
    learning_rate: float = setting(2e-4, "of AdamW", low=1e-8, high=1, paper=2e-4, sweep=(1e-4, 1e-3))
    sinkhorn: str = setting(
        "last",
        "levels whose codes are assigned evenly within a batch of the training",
        choices=("none", "last", "all"),
        paper="last",
        sweep=("none", "last"),
    )
    reconstruction: str = setting(
        "mmd",
        "loss between reconstructions and inputs; mmd+mse adds 0.1 mean squared error",
        choices=("mmd", "mmd+mse"),
        paper="mmd",
        sweep=("mmd", "mmd+mse"),
    )
    reconstruction_weight: float = setting(3.0, "w_r", low=0, high=1000, paper=3, sweep=(1.0, 10.0))
    alignment: str = setting(
        "infonce",
        "loss between the quantised latents of behaviour and content",
        choices=("infonce", "mmd"),
        paper="infonce",
        sweep=("infonce", "mmd"),
    )
    alignment_weight: float = setting(0.01, "w_a", low=0, high=1000, paper=0.01, sweep=(1e-3, 1.0))
    alignment_temperature: float = setting(0.07, "tau of alignment=infonce", low=1e-3, high=10, sweep=(0.05, 0.2))


class MmTower(Tower):
    """Loss of one modality with MMD in place of the mean squared error."""

    def reconstruction(self, decoded: Tensor, inputs: Tensor) -> Tensor:
        loss = squared_mmd(decoded, inputs)
        if self.config.reconstruction == "mmd+mse":
            loss = loss + MSE_WEIGHT * F.mse_loss(decoded, inputs)
        return self.config.reconstruction_weight * loss


class MmObjective(JointObjective):
    """The towers' losses and the alignment of behaviour with each content modality."""

    tower_class = MmTower

    def joint(self, rows: Tensor) -> Mapping[str, Tensor]:
        values = self.values(rows)
        if "behaviour" not in values or not self.config.alignment_weight:
            return {}
        behaviour, has_behaviour = values.pop("behaviour")
        return {
            f"alignment_{m}": self.config.alignment_weight * self.alignment(behaviour, other, has_behaviour & present)
            for m, (other, present) in values.items()
        }

    def alignment(self, behaviour: Tensor, other: Tensor, present: Tensor) -> Tensor:
        """``A`` of quantised latents ``[B, d]`` over the items that have both (bool ``[B]``); scalar."""
        if self.config.alignment == "infonce":
            losses = info_nce(
                F.normalize(behaviour, dim=1), F.normalize(other, dim=1), present, self.config.alignment_temperature
            )
            return mean_over(losses, present)
        both = present.nonzero()[:, 0]
        return squared_mmd(behaviour[both], other[both]) if len(both) else behaviour.sum() * 0


class MmRqVae(MultimodalAutoencoder):
    """MM-RQ-VAE; ``net_`` holds one autoencoder per modality."""

    info = INFO
    config_class = MmRqVaeConfig
    budgets = {  # at 2e-4 a short training ends at twice the loss
        **NEURAL_BUDGETS,
        "smoke": {**NEURAL_BUDGETS["smoke"], "learning_rate": 1e-3},
        "quick": {**NEURAL_BUDGETS["quick"], "steps": 3600, "batch_size": 256, "learning_rate": 1e-3},
    }
    objective_class = MmObjective
