"""What networks of experts with a codebook each share: sizes, batches, cosine codes, the decoder of the mixture.

Used by ADA-SID (MMQ-v2, arXiv 2510.25622, whose equation numbers stand here) and MMQ (arXiv 2508.15281). Slots stand in
the order shared, text, vision, behaviour; ``S`` is their number, ``d`` the latent width, ``K`` the codebook size.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.clustering.kmeans import kmeans
from sidbench.tokenizers.blocks.losses.alignment import mean_over
from sidbench.tokenizers.blocks.quantisers.estimators import soft_index
from sidbench.tokenizers.blocks.training.code_figures import collision_rate, utilisation
from sidbench.tokenizers.blocks.training.mlp import mlp

KMEANS_ITERATIONS = 25
BLOCK_ROWS = 4096  # items encoded at once
MONITOR_ROWS = 4096


@dataclass(frozen=True)
class Layout:
    """Sizes of the network.

    dims: modality -> input width. slots: group -> number of experts, for "shared" and the modalities of ``dims``, in
    slot order. width ``d``, hidden: of the experts; codebook_size ``K``.
    """

    dims: Mapping[str, int]
    slots: Mapping[str, int]
    width: int
    hidden: int
    codebook_size: int

    @property
    def n_slots(self) -> int:
        return sum(self.slots.values())

    def span(self, group: str) -> slice:
        """The slots of one group."""
        names = list(self.slots)
        start = sum(self.slots[name] for name in names[: names.index(group)])
        return slice(start, start + self.slots[group])

    def names(self) -> tuple[str, ...]:
        """One name per slot: "shared", "text", "behaviour 1"."""
        return tuple(group if n == 1 else f"{group} {i + 1}" for group, n in self.slots.items() for i in range(n))


@dataclass(frozen=True)
class Batch:
    """Items: embeddings ``[B, D_m]`` and availability bool ``[B]`` by modality; richness ``[B]`` (N_norm of eq. 13)."""

    embeddings: Mapping[str, Tensor]
    available: Mapping[str, Tensor]
    richness: Tensor

    @staticmethod
    def of(features: ItemFeatures, modalities: Iterable[str], runtime: Runtime, rows: np.ndarray | None = None) -> Batch:
        """The items ``rows`` (default: all) with the named modalities, on the runtime's device."""
        names, index = tuple(modalities), slice(None) if rows is None else rows
        return Batch(
            {m: runtime.tensor(features.modalities[m][index], torch.float32) for m in names},
            {m: runtime.tensor(features.available[m][index], torch.bool) for m in names},
            runtime.tensor(features.richness[index], torch.float32),
        )

    def __len__(self) -> int:
        return len(self.richness)

    def take(self, rows: Tensor) -> Batch:
        """The items ``rows`` int64 ``[M]``."""
        return Batch(
            {m: e[rows] for m, e in self.embeddings.items()},
            {m: a[rows] for m, a in self.available.items()},
            self.richness[rows],
        )

    def sample(self) -> Batch:
        """At most ``MONITOR_ROWS`` items, evenly spaced, for live figures."""
        n = len(self)
        return self.take(torch.arange(0, n, max(1, -(-n // MONITOR_ROWS)), device=self.richness.device))

    def parts(self) -> Iterator[Batch]:
        """Consecutive parts of at most ``BLOCK_ROWS`` items."""
        for rows in torch.arange(len(self), device=self.richness.device).split(BLOCK_ROWS):
            yield self.take(rows)


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of a batch: latents, rows of length 1 ``[S, B, d]`` (eqs. 4, 6), and gates float ``[B, S]``,
    0 where a slot is not used."""

    latents: Tensor
    gates: Tensor


class ExpertSlots(nn.Module):
    """Codebooks ``[S, K, d]``, whose codes are compared by cosine, and the decoder of the gated sum over slots.

    Parameters: layout: sizes. temperature: of soft indices. A subclass makes its encoder between ``__init__`` and
    ``add_codebooks``, so that weights are drawn from one generator in the order of the network.
    """

    def __init__(self, layout: Layout, temperature: float) -> None:
        super().__init__()
        self.layout, self.temperature = layout, temperature

    def add_codebooks(self, generator: torch.Generator) -> None:
        """Draw codebooks and decoder."""
        layout, d = self.layout, self.layout.width
        self.codebook = nn.Parameter(uniform((layout.n_slots, layout.codebook_size, d), d, generator))
        self.decoder = mlp((d, 2 * d, 4 * d, sum(layout.dims.values())), generator, "gelu")

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Latents and gates of a batch."""

    def directions(self) -> Tensor:
        """Codebook vectors of length 1 ``[S, K, d]``."""
        return F.normalize(self.codebook, dim=-1)

    def quantise(self, latents: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
        """Codes int64 ``[S, B]`` of largest cosine (eq. 5) to latents ``[S, B, d]``, and their directions ``[S, B, d]``.

        soft: index back-propagation (IBQ, arXiv 2412.02692), which gives gradient to the latents and to all ``K`` codes.
        """
        directions = self.directions()
        s, k, d = directions.shape
        cosine = torch.bmm(latents, directions.transpose(1, 2))  # [S, B, K]
        if soft:
            codes, index = soft_index(cosine.reshape(-1, k), self.temperature, noisy=False)
            return codes.view(s, -1), torch.bmm(index.view(s, -1, k), directions)
        codes = cosine.argmax(-1)
        row = codes + torch.arange(s, device=codes.device)[:, None] * k
        return codes, F.embedding(row, directions.reshape(s * k, d))

    def decode(self, mixture: Tensor) -> dict[str, Tensor]:
        """Mixture ``[B, d]`` -> modality -> reconstruction ``[B, D_m]``."""
        dims = self.layout.dims
        return dict(zip(dims, self.decoder(mixture).split(list(dims.values()), dim=1), strict=True))

    @torch.no_grad()
    def quantise_all(self, items: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Codes int64 ``[N, S]``, gates ``[N, S]`` and quantised mixtures ``[N, d]`` (eq. 8) of many items."""
        codes, gates, mixtures = [], [], []
        for part in items.parts():
            encoded = self.encode(part)
            code, quantised = self.quantise(encoded.latents)
            codes.append(code.T)
            gates.append(encoded.gates)
            mixtures.append(mix(quantised, encoded.gates))
        return torch.cat(codes), torch.cat(gates), torch.cat(mixtures)

    @torch.no_grad()
    def start_codebooks(self, items: Batch, rng: Rng, runtime: Runtime) -> None:
        """Set every codebook to the spherical k-means centres of its slot's latents of ``items``."""
        latents = torch.cat([self.encode(part).latents for part in items.parts()], dim=1)
        for slot, x in enumerate(latents):
            self.codebook[slot] = kmeans(
                x.float(), self.layout.codebook_size, rng.child(slot), runtime, iterations=KMEANS_ITERATIONS, spherical=True
            ).centres


def live_figures(codes: Tensor, gates: Tensor, size: int) -> dict[str, float]:
    """Mean utilisation and collision rate of codes int64 ``[N, S]`` where gates ``[N, S]`` are on; size: codes a slot."""
    sids = torch.where(gates > 0, codes, PAD)
    return {"utilisation": utilisation(sids, size), "collision_rate": collision_rate(sids)}


def codebook_loss(latents: Tensor, quantised: Tensor, used: Tensor, commitment: float) -> Tensor:
    """``||sg[z] - z_q||^2 + commitment ||z - sg[z_q]||^2``, mean over the slots in use (A3).

    latents, quantised: rows of length 1 ``[S, B, d]``, so that ``||a - b||^2 = 2 - 2 <a, b>``; used bool ``[S, B]``.
    """

    def distance(one: Tensor, two: Tensor) -> Tensor:
        return 2 - 2 * (one * two).sum(-1)

    loss = commitment * distance(latents, quantised.detach())
    if quantised.requires_grad:  # not with moving-average codebooks
        loss = loss + distance(latents.detach(), quantised)
    return mean_over(loss, used)


def mix(latents: Tensor, gates: Tensor) -> Tensor:
    """Gated sum over slots, eqs. 7 and 8: ``[S, B, d]``, ``[B, S]`` -> ``[B, d]``."""
    return torch.bmm(gates[:, None], latents.transpose(0, 1))[:, 0]


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform on +-1/sqrt(fan_in), as torch initialises a linear layer."""
    bound = 1 / math.sqrt(fan_in)
    return torch.rand(shape, generator=generator, device=generator.device).mul_(2 * bound).sub_(bound)
