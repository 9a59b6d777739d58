"""MBGen: a vector-quantised auto-encoder, k-means inside each of its clusters, and a number inside each bucket.

Liu et al., "Multi-Behavior Generative Recommendation", CIKM 2024 (arXiv 2405.16871), its item identifiers. Contents
are standardised by dimension. ``z = Enc(e)``, ``c_1 = argmin_k ||z - C_1[k]||^2``, ``e_hat = Dec(STE(z, C_1[c_1]))``;

    L = ||e - e_hat||^2 + 0.05 ||z - sg[C_1[c_1]]||^2,

with ``C_1`` a moving average of its latents (decay 0.99). Then ``c_2`` is the nearest of ``K`` centres that k-means found
among the residuals ``z - C_1[c_1]`` of the same first cluster, and ``c_3`` tells the items of a bucket ``(c_1, c_2)``
apart: a running index, or a hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds, TokenizerInfo
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.blocks.clustering.kmeans import assign, kmeans
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import (
    AutoencoderConfig,
    AutoencoderNet,
    FitData,
    Objective,
    ResidualAutoencoder,
)
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import BLOCK_ROWS
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.training.content import content_like, content_rows, fitting_rows, split_content, state_entry

INFO = TokenizerInfo(
    title="MBGen: VQ, k-means inside clusters, index inside buckets",
    version=1,
    paper="Liu et al., CIKM 2024, arXiv 2405.16871",
    year=2024,
    url="https://arxiv.org/abs/2405.16871",
    bibtex="@misc{liu2024mbgen,\n"
    "  title={Multi-Behavior Generative Recommendation}, author={Liu and others}, year={2024},\n"
    "  eprint={2405.16871}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2405.16871}}",
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "The codebook starts at k-means centres with moving averages of their own counts; the released code scrambles "
        "the centres by a reshape and starts the sums at means.",
        "A short unquantised warm-up and AdamW 1e-3 with cosine instead of Adagrad 1e-3 for 1,000 epochs.",
        "The running index follows the item order within one call of encode: items encoded apart from the catalogue "
        "count from 0 again. last=hash gives every item a number of its own content instead, with collisions.",
        "Buckets with more items than bucket_slots number on from 0, so that items share a SID; they are counted.",
        "First clusters of fewer than K fitted items have fewer centres.",
        "Reconstruction decodes the first code alone, since the decoder is trained on nothing finer.",
        "Budget quick narrows the auto-encoder to 512-256.",
    ),
)


@dataclass(frozen=True)
class MbgenConfig(AutoencoderConfig):
    """Settings of MBGen; ``codebook_size`` is K of the first two positions."""

    code_length: int = setting(3, "code, code in its cluster, number in its bucket", unit="codes", low=3, high=3, paper=3)
    codebook_size: int = setting(
        100, "codes of the first and of the second position", unit="codes", low=1, high=65536, paper=64, sweep=(64, 100, 256)
    )
    bucket_slots: int = setting(128, "numbers of the third position", unit="codes", low=1, high=1_000_000, paper=128)
    last: str = setting(
        "index",
        "third position: running index in the bucket, or hash of the item's content",
        choices=("index", "hash"),
        paper="index",
    )
    expand_id2: bool = setting(
        False, "second codes of different first codes are different tokens (K * K of them)", paper=False, sweep=(False, True)
    )
    iterations: int = setting(100, "most Lloyd iterations of each k-means", unit="iterations", low=1, high=10_000)
    beta: float = setting(0.05, "weight of the commitment loss", low=0, high=10, paper=0.05)
    codebook_update: str = setting("ema", "how the codebook moves", choices=("ema", "gradient", "ibq"), paper="ema")
    residual_mode: str = setting("sg", "there is one quantised level, on which all modes agree", choices=("sg",))
    hidden: tuple[int, ...] = setting(
        (2048, 1024, 512, 256), "hidden widths of the encoder, mirrored in the decoder", paper=(2048, 1024, 512, 256)
    )
    latent_dim: int = setting(32, "latent width d", unit="dimensions", low=1, high=4096, paper=32)
    batch_size: int = setting(2048, "items a step", unit="items", low=1, high=1_000_000, paper=2048)


class Standardise(nn.Module):
    """``(x - mean) / deviation`` by dimension; ``undo`` is its inverse."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, device=device))
        self.register_buffer("deviation", torch.ones(width, device=device))

    def learn(self, x: Tensor) -> None:
        """Mean and standard deviation of rows ``[N, D]``; constant dimensions keep deviation 1."""
        deviation = x.std(0, unbiased=False)
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6 * deviation.max(), deviation, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    def undo(self, x: Tensor) -> Tensor:
        """Rows in the scale of the input."""
        return x * self.deviation + self.mean


class MbgenNet(AutoencoderNet):
    """Auto-encoder of standardised contents with one codebook."""

    def __init__(self, config: MbgenConfig, inputs: int, generator: torch.Generator) -> None:
        super().__init__(config, inputs, generator, levels=1)
        self.standard = Standardise(inputs, generator.device)

    @torch.no_grad()
    def latents(self, content: Tensor) -> Tensor:
        return torch.cat([self.encoder(self.standard(part)) for part in content.split(BLOCK_ROWS)])

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Tensor:
        return torch.cat([self.standard.undo(self.decoder(self.quantiser.decode(part))) for part in codes.split(BLOCK_ROWS)])


class MbgenObjective(Objective):
    """The loss on standardised contents."""

    def __init__(self, net: Any, data: FitData, rng: Rng, config: Any) -> None:
        super().__init__(net, data, rng, config)
        net.scale.fill_(1)
        net.standard.learn(data.content)
        self.inputs = net.standard(data.content)


class Mbgen(ResidualAutoencoder):
    """MBGen; ``net_``, second-level centres ``children_ [K, K, d]`` with ``counts_ int64 [K]`` of them in use."""

    info = INFO
    itemwise = False
    config_class = MbgenConfig
    objective_class = MbgenObjective
    net_: MbgenNet
    budgets = {
        "smoke": {**NEURAL_BUDGETS["smoke"], "hidden": (64, 32), "iterations": 10},
        "quick": {**NEURAL_BUDGETS["quick"], "hidden": (512, 256), "batch_size": 1024},
        "standard": NEURAL_BUDGETS["standard"],
        "paper": {**NEURAL_BUDGETS["paper"], "codebook_size": 64},
    }
    expected_failures = {"one code": "the third position numbers the items of a bucket, however many codes there are"}

    def network(self, inputs: int, generator: torch.Generator) -> MbgenNet:
        return MbgenNet(self.config, inputs, generator)

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: MbgenConfig = self.config
        super().fit(features, rng, runtime)
        content = content_rows(features, fitting_rows(features, c.fit_items, self.name, runtime))
        first, residual = self._first(runtime.tensor(content))
        centres = torch.zeros(c.codebook_size, c.codebook_size, residual.shape[1], device=residual.device)
        counts = np.zeros(c.codebook_size, np.int64)
        for code in range(c.codebook_size):
            rows = residual[first == code]
            counts[code] = max(1, min(c.codebook_size, len(rows)))  # an empty cluster keeps one centre: no residual
            if len(rows):
                found = kmeans(rows, int(counts[code]), rng.child("cluster", code), runtime, iterations=c.iterations)
                centres[code, : counts[code]] = found.centres
        self.children_, self.counts_ = to_numpy(centres), counts
        draw = rng.child("hash").numpy()
        self.multipliers_ = draw.integers(1 << 62, size=2 * content.shape[1], dtype=np.int64).astype(np.uint64) * 2 + 1
        codes = self._codes(content, runtime)
        bucket = np.bincount(_bucket(codes, c))
        sharing = np.unique(codes, axis=0, return_counts=True)[1]
        self._diagnostics |= {
            "largest_bucket": float(bucket.max()),
            "items_sharing_a_sid": float(sharing[sharing > 1].sum()),
            "first_codes_unused": float(c.codebook_size - len(np.unique(codes[:, 0]))),
        }
        return self

    def _first(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """First codes int64 ``[N]`` and residuals ``[N, d]``."""
        z = self.net_.to(content.device).latents(content)
        first = self.net_.quantiser.encode(z)
        return first[:, 0], z - self.net_.quantiser.decode(first)

    def _codes(self, content: np.ndarray, runtime: Runtime) -> np.ndarray:
        """int64 ``[N, 3]``; the second code counts inside its cluster."""
        c: MbgenConfig = self.config
        first, residual = self._first(runtime.tensor(content))
        children, codes = runtime.tensor(self.children_), np.zeros((len(content), 3), np.int64)
        codes[:, 0] = to_numpy(first)
        for code in np.unique(codes[:, 0]):
            rows = np.flatnonzero(codes[:, 0] == code)
            part = residual[torch.as_tensor(rows, device=residual.device)]
            codes[rows, 1] = to_numpy(assign(part, children[code, : int(self.counts_[code])])[0])
        number = content_hash(content, self.multipliers_) if c.last == "hash" else group_ranks(_bucket(codes, c))
        codes[:, 2] = number % c.bucket_slots
        return codes

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: MbgenConfig = self.config
        codes = self._codes(content_like(features, self.widths_, self.name), runtime)
        decoded = self.net_.reconstruct(runtime.tensor(codes[:, :1]))
        sizes = np.array([c.codebook_size, c.codebook_size, c.bucket_slots], np.int32)
        if c.expand_id2:
            codes[:, 1] = _bucket(codes, c)
            sizes[1] = c.codebook_size**2
        return SemanticIds(
            codes.astype(np.int32), sizes, ordered=True, reconstruction=split_content(to_numpy(decoded), self.widths_)
        )

    def code_costs(self, features: ItemFeatures, runtime: Runtime) -> None:  # type: ignore[override]
        """``None``: the last position is a number, which no distance belongs to."""
        return

    def state_dict(self) -> dict[str, np.ndarray]:
        return {**super().state_dict(), "children": self.children_, "counts": self.counts_, "multipliers": self.multipliers_}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: MbgenConfig = self.config
        super().load_state_dict(state)
        k, total = c.codebook_size, sum(self.widths_.values())
        self.children_ = state_entry(state, "children", (k, k, c.latent_dim), self.name)
        self.counts_ = state_entry(state, "counts", (k,), self.name)
        self.multipliers_ = state_entry(state, "multipliers", (2 * total,), self.name)


def _bucket(codes: np.ndarray, config: MbgenConfig) -> np.ndarray:
    """int64 ``[N]`` number of the bucket ``(c_1, c_2)``."""
    return codes[:, 0] * config.codebook_size + codes[:, 1]


def content_hash(content: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Multilinear hash (Lemire and Kaser 2014) of rows float32 ``[N, D]``: int64 ``[N]`` of 31 bits; a row by itself."""
    words = np.ascontiguousarray(content, np.float32).view(np.uint32).astype(np.uint64)
    width = words.shape[1]
    mixed = (words * multipliers[:width] + multipliers[width:]).sum(1, dtype=np.uint64)
    return (mixed >> np.uint64(33)).astype(np.int64)
