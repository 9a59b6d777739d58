"""RQ-VAE++: one RQ-VAE per modality, codes side by side.

A baseline of Xu et al., "MMQ-v2", arXiv 2510.25622, section 4.1.3, which defines it in one sentence: pretrained content
and collaborative embeddings are quantised by RQ-VAE into textual, visual and collaborative SIDs. Read here as three
independent RQ-VAEs (arXiv 2305.05065, section 3.1) with the loss ``L = sum_m (L_recon,m + L_rq,m)`` and the SID
``[text | vision | behaviour]``. No loss connects the modalities.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.quantisers.multimodal_autoencoder import MultimodalAutoencoder
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderConfig

INFO = TokenizerInfo(
    title="RQ-VAE++: one RQ-VAE per modality",
    version=1,
    paper="Xu et al., MMQ-v2, arXiv 2510.25622, section 4.1.3",
    year=2025,
    url="https://arxiv.org/abs/2510.25622",
    bibtex="@misc{xu2025mmqv2,\n"
    "  title={MMQ-v2: Align, Denoise, and Amplify: Adaptive Behavior Mining for Semantic IDs Learning in Recommendation},\n"
    "  author={Xu and others}, year={2025}, eprint={2510.25622}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2510.25622}}",
    modalities=("text", "vision", "behaviour"),
    required=("behaviour", "text|vision"),
    ordered=False,
    variable_length=True,
    deviations=(
        "The split of positions is not published: even shares, the remainder to the first of text, vision, behaviour.",
        "A modality that the data lack gives its positions to the others.",
        "A position of a modality that an item lacks is PAD, and the item does not count in its loss.",
        "Declared unordered: a code refines only those before it of its own modality.",
        "The towers share one optimiser, so the bound on the gradient norm and the kept state are common to them.",
        "Losses are means over dimensions and levels; network, optimiser, warm-up and k-means start are those of "
        "this suite's rqvae.",
        "The state of least summed reconstruction error on held-out items (5 %) is kept.",
    ),
)


@dataclass(frozen=True)
class RqVaePpConfig(AutoencoderConfig):
    """Settings of RQ-VAE++; ``code_length`` counts the positions of all modalities together."""


class RqVaePp(MultimodalAutoencoder):
    """RQ-VAE++; ``net_`` holds one autoencoder per modality."""

    info = INFO
    config_class = RqVaePpConfig
