"""Shared and modality-specific experts with a cosine codebook each: the network of MMQ (arXiv 2508.15281).

Slots stand in the order shared, text, vision; ``S`` is their number, ``d`` the latent width, ``K`` the codebook size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.tokenizers.blocks.experts.expert_slots import Batch, Encoded, ExpertSlots, Layout, mix, uniform
from sidbench.tokenizers.blocks.training.mlp import mlp


class ExpertQuantiser(ExpertSlots):
    """Projections, square experts, gates, codebooks, the decoder of all modalities and one decoder for each.

    Parameters: layout: sizes (``layout.hidden`` is not used: an expert is one ``d x d`` matrix). temperature: of the soft
    indices. generator: draws the initial weights; its device is the network's.
    """

    def __init__(self, layout: Layout, temperature: float, generator: torch.Generator) -> None:
        super().__init__(layout, temperature)
        dims, slots, d, device = layout.dims, layout.slots, layout.width, generator.device
        own = {m: n for m, n in dims.items() if slots[m]}
        self.project = nn.ModuleDict({m: mlp((n, d, d), generator, "gelu") for m, n in dims.items()})
        self.experts = nn.Parameter(uniform((layout.n_slots, d, d), d, generator))
        self.bias = nn.Parameter(torch.zeros(layout.n_slots, 1, d, device=device))
        self.gate = nn.ModuleDict({m: mlp((n, d, slots[m]), generator, "gelu") for m, n in own.items()})
        self.add_codebooks(generator)
        self.decoders = nn.ModuleDict({m: mlp((d, 2 * d, n), generator, "gelu") for m, n in own.items()})

    def encode(self, batch: Batch) -> Encoded:
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
        return Encoded(value, torch.cat(gates, dim=1))

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
