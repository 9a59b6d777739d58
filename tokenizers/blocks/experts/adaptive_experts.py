"""The network of ADA-SID (MMQ-v2, arXiv 2510.25622): experts, dynamic router, codebooks per expert, decoder.

Slots stand in the order shared, text, vision, behaviour; ``S`` is their number, ``d`` the latent width, ``K`` the
codebook size. Equation numbers are those of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.tokenizers.blocks.experts.expert_slots import Batch, Encoded, ExpertSlots, Layout, uniform
from sidbench.tokenizers.blocks.losses.alignment import alignment_weight
from sidbench.tokenizers.blocks.training.mlp import mlp

IBQ_TEMPERATURE = 0.1


@dataclass(frozen=True)
class AdaptiveEncoded(Encoded):
    """projected: modality -> h_m ``[B, d]`` (eq. 2). router: the behaviour gates ``r`` ``[B, N_b]`` among the gates."""

    projected: Mapping[str, Tensor]
    router: Tensor


class Experts(nn.Module):
    """``n`` two-layer experts ``Linear(in, hidden)-GELU-Linear(hidden, d)`` on one input, computed together."""

    def __init__(self, n: int, n_in: int, hidden: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        device = generator.device
        self.n, self.hidden = n, hidden
        self.weight_in = nn.Parameter(uniform((n_in, n * hidden), n_in, generator))
        self.bias_in = nn.Parameter(torch.zeros(n * hidden, device=device))
        self.weight_out = nn.Parameter(uniform((n, hidden, width), hidden, generator))
        self.bias_out = nn.Parameter(torch.zeros(n, 1, width, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x ``[B, in]`` -> rows of length 1 ``[n, B, d]``."""
        inner = F.gelu(torch.addmm(self.bias_in, x, self.weight_in))  # [B, n * hidden]
        inner = inner.view(len(x), self.n, self.hidden).transpose(0, 1)  # [n, B, hidden]
        return F.normalize(torch.baddbmm(self.bias_out, inner, self.weight_out), dim=-1)


class AdaptiveExperts(ExpertSlots):
    """Encoder, codebooks and decoder of ADA-SID.

    Parameters
    ----------
    layout: sizes.
    generator: draws the initial weights; its device is the network's.
    router: "behaviour" (eq. 18) or "softmax" (the ablation without router: no slot is ever off).
    richness_gate: the popularity factor of eq. 18, see ``_popularity``.
    alpha, beta: of eq. 14, used by ``richness_gate="curve"``.
    """

    def __init__(
        self, layout: Layout, generator: torch.Generator, *, router: str, richness_gate: str, alpha: float, beta: float
    ) -> None:
        super().__init__(layout, IBQ_TEMPERATURE)
        self.router_kind, self.richness_gate = router, richness_gate
        self.alpha, self.beta = alpha, beta
        dims, slots, d = layout.dims, layout.slots, layout.width
        self.project = nn.ModuleDict({m: mlp((n, d, d), generator, "gelu") for m, n in dims.items()})
        widths = {group: d * len(dims) if group == "shared" else dims[group] for group in slots}
        self.experts = nn.ModuleDict(
            {group: Experts(n, widths[group], layout.hidden, d, generator) for group, n in slots.items() if n}
        )
        self.gate = nn.ModuleDict({m: mlp((dims[m], d, slots[m]), generator, "gelu") for m in dims})
        torch.nn.init.ones_(self.gate["behaviour"].get_parameter("2.bias"))  # every behaviour expert starts active (A26)
        self.add_codebooks(generator)

    def encode(self, batch: Batch) -> AdaptiveEncoded:
        """Eqs. 2-7, 9, 10 and 18. A slot of a modality that an item lacks has gate 0."""
        slots = self.layout.slots
        # Coordinates of unit variance: with rows of length 1 all items would cross the router's threshold together.
        e = {m: x * math.sqrt(self.layout.dims[m]) for m, x in batch.embeddings.items()}
        h = {m: self.project[m](x) for m, x in e.items()}  # (2)
        inputs = {"shared": torch.cat(list(h.values()), dim=1), **e}  # (3)
        latents = torch.cat([self.experts[g](inputs[g]) for g in slots if slots[g]])  # (4), (6)  [S, B, d]
        gates = {m: torch.softmax(self.gate[m](x), dim=1) for m, x in e.items() if m != "behaviour"}  # (9), (10)
        gates["behaviour"] = self.route(e["behaviour"], batch.richness)
        gates = {m: g * batch.available[m][:, None] for m, g in gates.items()}
        ones = latents.new_ones(len(batch), slots["shared"])
        return AdaptiveEncoded(latents, torch.cat([ones, *(gates[m] for m in e)], dim=1), h, gates["behaviour"])

    def route(self, e_b: Tensor, richness: Tensor) -> Tensor:
        """Behaviour gates ``[B, N_b]``: ``R(e_b) = sigma(N_norm) relu(MLP(e_b) + b)``, eq. 18."""
        logits = self.gate["behaviour"](e_b)
        if self.router_kind == "softmax":
            return torch.softmax(logits, dim=1)
        return self._popularity(richness)[:, None] * torch.relu(logits)

    def _popularity(self, richness: Tensor) -> Tensor:
        if self.richness_gate == "sigmoid":
            return torch.sigmoid(richness)  # literal: between .5 and .731 (A17)
        if self.richness_gate == "curve":
            return alignment_weight(richness, self.alpha, self.beta)
        return richness

    @torch.no_grad()
    def move_codebooks(self, latents: Tensor, codes: Tensor, used: Tensor, decay: float) -> None:
        """Move codes towards the mean of their latents on the sphere; latents ``[S, B, d]``, codes, used ``[S, B]``."""
        s, k, d = self.codebook.shape
        flat = (codes + torch.arange(s, device=codes.device)[:, None] * k)[used]
        sums = latents.new_zeros(s * k, d).index_add_(0, flat, latents[used])
        counts = torch.bincount(flat, minlength=s * k)[:, None]
        old = self.directions().reshape(s * k, d)
        moved = F.normalize(decay * old + (1 - decay) * sums / counts.clamp(min=1), dim=1)
        self.codebook.copy_(torch.where(counts > 0, moved, old).view(s, k, d))
