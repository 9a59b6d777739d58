"""LETTER: a learnable tokenizer with collaborative and diversity regularisation.

Wang et al., "Learnable Item Tokenization for Generative Recommendation", arXiv 2405.07314, section 3.1: RQ-VAE with two
losses more,

    L = L_sem + alpha L_CF + beta_d L_div
    L_sem = ||e - e_hat||^2 + mean_p ( ||sg[r_{p-1}] - c_p||^2 + beta ||r_{p-1} - sg[c_p]||^2 )
    L_CF  = - mean_i log softmax_j( <z_hat_i, h_j> )[i]      over the batch, no normalisation, no temperature
    L_div = mean over levels of the diversity loss (``blocks/losses/code_diversity.py``)

``e`` is the item's content, ``h`` its behaviour embedding, ``z_hat`` the quantised latent with straight-through gradient,
so that ``L_CF`` moves the encoder and not the codebooks. During training the last level assigns its codes evenly within
the batch (Sinkhorn); codebooks start from k-means with bounded cluster sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.losses.alignment import info_nce, mean_over
from sidbench.tokenizers.blocks.losses.code_diversity import CodeGroups, diversity_loss
from sidbench.tokenizers.blocks.quantisers.codebook_starts import STARTS
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderConfig, Objective, ResidualAutoencoder
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import Quantised
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.training.content import usable_modality

INFO = TokenizerInfo(
    title="LETTER: RQ-VAE with behaviour alignment and code diversity",
    version=1,
    paper="Wang et al., arXiv 2405.07314",
    year=2024,
    url="https://arxiv.org/abs/2405.07314",
    bibtex="@misc{wang2024letter,\n"
    "  title={Learnable Item Tokenization for Generative Recommendation}, author={Wang and others},\n"
    "  year={2024}, eprint={2405.07314}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2405.07314}}",
    modalities=("text", "vision", "behaviour"),
    required=("behaviour", "text|vision"),
    ordered=True,
    deviations=(
        "Profile B (6 x 100, latent width 64, hidden 512-256-128); paper: 4 x 256, 32, hidden 2048 to 64.",
        "Behaviour embeddings have mean squared norm 1; of wider ones the d main directions about the origin are kept, "
        "narrower ones are filled up with zeros.",
        "Items without behaviour are left out of L_CF, as anchors and as negatives.",
        "The positive code of L_div is averaged over its group instead of drawn: the same expected loss and gradient.",
        "Code groups hold 2 codes or more and at most twice the even share (paper's code: 60 of 256 codes).",
        "Groups are refreshed once an epoch, at least 10 steps apart, by k-means that goes on from the last groups.",
        "Codebooks start after a short unquantised warm-up from clusters of half to twice the even share of all items.",
        "AdamW 1e-3 with warm-up and cosine; inputs are multiplied by one scalar so that their mean square entry is 1.",
        "residual_mode=sg (default) gives every level's commitment a gradient; ste is what the authors' code computes.",
        "The state of least reconstruction error on held-out items (5 %) is kept.",
        "Codes are nearest ones at export; the authors' Sinkhorn rounds for colliding items are a collision policy.",
        "The ranking-guided generation loss belongs to the recommender and is not part of the tokenizer.",
    ),
)

LEAST_STEPS_BETWEEN_GROUPINGS = 10


@dataclass(frozen=True)
class LetterConfig(AutoencoderConfig):
    """Settings of LETTER."""

    hidden: tuple[int, ...] = setting(
        (512, 256, 128), "hidden widths of the encoder, mirrored in the decoder", paper=(2048, 1024, 512, 256, 128, 64)
    )
    alpha: float = setting(0.01, "weight of the behaviour loss", low=0, high=100, paper=0.02, sweep=(0.1, 0.02, 0.01, 0.001))
    beta_d: float = setting(1e-4, "weight of the diversity loss", low=0, high=100, paper=1e-4, sweep=(1e-5, 1e-2))
    codebook_start: str = setting("constrained", "where codebooks start", choices=tuple(STARTS), paper="constrained")
    sinkhorn: str = setting(
        "last",
        "levels whose codes are assigned evenly within a batch of the training",
        choices=("none", "last", "all"),
        paper="last",
        sweep=("none", "last"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebook_update == "ema" and self.beta_d > 0:
            raise InputError(
                "tokenizer.codebook_update=ema",
                got=f"beta_d={self.beta_d:g}",
                wanted="codebooks that move by gradient, since the diversity loss has no other effect",
                do="set tokenizer.codebook_update=gradient or tokenizer.beta_d=0",
            )


class LetterObjective(Objective):
    """Loss of RQ-VAE and the two regularisers; ``groups`` are set when the codebooks have been placed."""

    groups: CodeGroups | None = None

    def extra(self, rows: Tensor, z: Tensor, quantised: Quantised, step: int) -> Mapping[str, Tensor]:
        c, losses = self.config, {}
        if c.alpha:
            present = self.data.side["has_behaviour"][rows]
            found = info_nce(quantised.value, self.data.side["behaviour"][rows], present, temperature=1.0)
            losses["behaviour"] = c.alpha * mean_over(found, present)
        if self.groups is not None:
            losses["diversity"] = c.beta_d * diversity_loss(
                quantised.codes, self.net.quantiser.codebooks, self.groups.groups
            )
        return losses

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self.groups is not None:
            self.groups.after_step(step)

    def state(self) -> dict[str, Any]:
        return {**super().state(), **({} if self.groups is None else self.groups.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        if self.groups is not None:
            self.groups.load_state(state)


class Letter(ResidualAutoencoder):
    """LETTER; ``net_`` is the trained network."""

    info = INFO
    config_class = LetterConfig
    budgets = {
        **NEURAL_BUDGETS,
        "paper": {**NEURAL_BUDGETS["paper"], "hidden": (2048, 1024, 512, 256, 128, 64), "latent_dim": 32},
    }
    objective_class = LetterObjective

    def side_information(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Mapping[str, np.ndarray]:
        behaviour, present = usable_modality(features, "behaviour", self.name)
        rows = features.fit_rows(self.config.fit_items)
        targets, kept = to_width(behaviour, rows[present[rows]], self.config.latent_dim)
        self._diagnostics |= {"fit_items_without_behaviour": float((~present[rows]).sum()), "behaviour_energy_kept": kept}
        return {"behaviour": targets, "has_behaviour": present}

    def start(self, objective: Objective, rng: Rng, runtime: Runtime) -> None:
        super().start(objective, rng, runtime)
        c = self.config
        if isinstance(objective, LetterObjective) and c.beta_d and c.codebook_size > 1:
            epoch = -(-len(objective.content) // c.batch_size)
            objective.groups = CodeGroups(
                self.net_.quantiser.codebooks, max(epoch, LEAST_STEPS_BETWEEN_GROUPINGS), rng.child("code groups"), runtime
            )


def to_width(x: np.ndarray, rows: np.ndarray, width: int) -> tuple[np.ndarray, float]:
    """Rows float32 ``[N, width]`` whose inner products are as near as can be to those of x ``[N, D]``, and the share of
    the squared norm of ``rows`` that is kept.

    Wider x is projected on the main directions of ``rows`` about the origin, narrower x is filled up with zeros.
    """
    if x.shape[1] <= width:
        return np.pad(x, ((0, 0), (0, width - x.shape[1]))), 1.0
    energies, directions = np.linalg.eigh(x[rows].T.astype(np.float64) @ x[rows])  # ascending
    kept = float(energies[-width:].sum() / max(energies.sum(), 1e-12))
    return (x @ directions[:, -width:]).astype(np.float32), kept
