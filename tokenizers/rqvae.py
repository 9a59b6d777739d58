"""RQ-VAE: an autoencoder whose latent is residually quantised (TIGER).

Rajput et al., "Recommender Systems with Generative Retrieval", arXiv 2305.05065, section 3.1. ``z = Enc(e)``,
``r_0 = z``, ``c_p = argmin_k ||r_{p-1} - C_p[k]||^2``, ``r_p = r_{p-1} - C_p[c_p]``,
``e_hat = Dec(STE(z, sum_p C_p[c_p]))``;

    L = ||e - e_hat||^2 + sum_p ( ||sg[r_{p-1}] - C_p[c_p]||^2 + beta ||r_{p-1} - sg[C_p[c_p]]||^2 )

with means over dimensions (first term) and over dimensions and levels (second) in place of the sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderConfig, ResidualAutoencoder

INFO = TokenizerInfo(
    title="RQ-VAE: residual-quantised autoencoder (TIGER)",
    version=1,
    paper="Rajput et al., arXiv 2305.05065",
    year=2023,
    url="https://arxiv.org/abs/2305.05065",
    bibtex="@misc{rajput2023tiger,\n"
    "  title={Recommender Systems with Generative Retrieval}, author={Rajput and others}, year={2023},\n"
    "  eprint={2305.05065}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2305.05065}}",
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


@dataclass(frozen=True)
class RqVaeConfig(AutoencoderConfig):
    """Settings of RQ-VAE."""


class RqVae(ResidualAutoencoder):
    """RQ-VAE; ``net_`` is the trained network."""

    info = INFO
    config_class = RqVaeConfig
