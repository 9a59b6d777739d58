"""Shared and modality-specific experts with a cosine codebook each: the network of MMQ (arXiv 2508.15281).

Slots stand in the order shared, text, vision; ``S`` is their number, ``d`` the latent width, ``K`` the codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.adaptive_experts import Batch, Layout, mix
from sidbench.tokenizers.blocks.estimators import soft_index
from sidbench.tokenizers.blocks.kmeans import kmeans
from sidbench.tokenizers.blocks.mlp import mlp
from sidbench.tokenizers.blocks.runtime import Runtime

KMEANS_ITERATIONS = 25


@dataclass(frozen=True)
class Latents:
    """What the experts make of a batch: rows of length 1 ``[S, B, d]`` and gates ``[B, S]``, 0 where a slot is PAD."""

    value: Tensor
    gates: Tensor


class ExpertQuantiser(nn.Module):
    """Projections, square experts, gates, codebooks, the decoder of all modalities and one decoder for each.

    Parameters: layout: sizes (``layout.hidden`` is not used: an expert is one ``d x d`` matrix). temperature: of the soft
    indices. generator: draws the initial weights; its device is the network's.
    """

    def __init__(self, layout: Layout, temperature: float, generator: torch.Generator) -> None:
        super().__init__()
        self.layout, self.temperature = layout, temperature
        dims, slots, d, device = layout.dims, layout.slots, layout.width, generator.device
        own = {m: n for m, n in dims.items() if slots[m]}
        bound = 1 / math.sqrt(d)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.rand(shape, generator=generator, device=device).mul_(2 * bound).sub_(bound))

        self.project = nn.ModuleDict({m: mlp((n, d, d), generator, "gelu") for m, n in dims.items()})
        self.experts = uniform(layout.n_slots, d, d)
        self.bias = nn.Parameter(torch.zeros(layout.n_slots, 1, d, device=device))
        self.gate = nn.ModuleDict({m: mlp((n, d, slots[m]), generator, "gelu") for m, n in own.items()})
        self.codebook = uniform(layout.n_slots, layout.codebook_size, d)
        self.decoder = mlp((d, 2 * d, 4 * d, sum(dims.values())), generator, "gelu")
        self.decoders = nn.ModuleDict({m: mlp((d, 2 * d, n), generator, "gelu") for m, n in own.items()})

    def encode(self, batch: Batch) -> Latents:
        """Latents of all experts. The shared ones see the sum of the projections of the modalities an item has."""
        slots = self.layout.slots
        # Coordinates of unit variance, which the initialisation assumes.
        e = {m: batch.embeddings[m] * math.sqrt(n) for m, n in self.layout.dims.items()}
        h = {m: self.project[m](x) * batch.available[m][:, None] for m, x in e.items()}
        inputs = {"shared": torch.stack(list(h.values())).sum(0), **h}
        stacked = torch.stack([inputs[group] for group, n in slots.items() for _ in range(n)])  # [S, B, d]
        value = F.normalize(torch.baddbmm(self.bias, stacked, self.experts), dim=-1)
        gates = [value.new_ones(len(batch), slots["shared"])]
        gates += [torch.softmax(self.gate[m](e[m]), 1) * batch.available[m][:, None] for m in self.gate]
        return Latents(value, torch.cat(gates, dim=1))

    def directions(self) -> Tensor:
        """Codebook vectors of length 1 ``[S, K, d]``."""
        return F.normalize(self.codebook, dim=-1)

    def quantise(self, value: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
        """Codes int64 ``[S, B]`` of largest cosine to latents ``[S, B, d]``, and their directions ``[S, B, d]``.

        soft: index back-propagation, ``zq = ind C`` with ``ind = soft + sg(hard - soft)``; gradient to all ``K`` codes.
        """
        directions = self.directions()
        s, k, d = directions.shape
        cosine = torch.bmm(value, directions.transpose(1, 2))  # [S, B, K]
        if soft:
            codes, index = soft_index(cosine.reshape(-1, k), self.temperature, noisy=False)
            return codes.view(s, -1), torch.bmm(index.view(s, -1, k), directions)
        codes = cosine.argmax(-1)
        row = codes + torch.arange(s, device=codes.device)[:, None] * k
        return codes, F.embedding(row, directions.reshape(s * k, d))

    def decode(self, mixture: Tensor) -> dict[str, Tensor]:
        """Gated sum over all slots ``[B, d]`` -> modality -> reconstruction ``[B, D_m]``."""
        dims = self.layout.dims
        return dict(zip(dims, self.decoder(mixture).split(list(dims.values()), dim=1), strict=True))

    def decode_alone(self, quantised: Tensor, gates: Tensor) -> dict[str, Tensor]:
        """Modality -> reconstruction ``[B, D_m]`` from the gated sum of its own slots only."""
        found = {}
        for m, decoder in self.decoders.items():
            span = self.layout.span(m)
            found[m] = decoder(mix(quantised[span], gates[:, span]))
        return found

    def orthogonality(self) -> Tensor:
        """``L_ortho``: sum over modalities of ``||V V^T - I||_F^2``, rows of V the flattened shared and own experts."""
        rows = F.normalize(self.experts.flatten(1), dim=1)
        shared, total = rows[self.layout.span("shared")], rows.new_zeros(())
        for m in self.layout.dims:
            v = torch.cat([shared, rows[self.layout.span(m)]])
            total = total + (v @ v.t() - torch.eye(len(v), device=v.device)).square().sum()
        return total

    @torch.no_grad()
    def quantise_all(self, items: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Codes int64 ``[N, S]``, gates ``[N, S]`` and quantised mixtures ``[N, d]`` of many items."""
        codes, gates, mixtures = [], [], []
        for part in items.parts():
            latents = self.encode(part)
            code, quantised = self.quantise(latents.value)
            codes.append(code.T)
            gates.append(latents.gates)
            mixtures.append(mix(quantised, latents.gates))
        return torch.cat(codes), torch.cat(gates), torch.cat(mixtures)

    @torch.no_grad()
    def start_codebooks(self, items: Batch, rng: Rng, runtime: Runtime) -> None:
        """Set every codebook to the spherical k-means centres of its slot's latents of ``items``."""
        value = torch.cat([self.encode(part).value for part in items.parts()], dim=1)
        for slot, x in enumerate(value):
            self.codebook[slot] = kmeans(x, self.layout.codebook_size, rng.child(slot), runtime,
                                         iterations=KMEANS_ITERATIONS, spherical=True).centres


def content_batch(features: ItemFeatures, dims: Mapping[str, int], runtime: Runtime, rows: np.ndarray | None = None,
                  ) -> Batch:
    """The items ``rows`` (default: all) with the modalities ``dims``, on the runtime's device."""
    index = slice(None) if rows is None else rows
    return Batch({m: runtime.tensor(features.modalities[m][index], torch.float32) for m in dims},
                 {m: runtime.tensor(features.available[m][index], torch.bool) for m in dims},
                 runtime.tensor(features.richness[index], torch.float32))
