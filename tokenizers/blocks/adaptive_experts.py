"""The network of ADA-SID (MMQ-v2, arXiv 2510.25622): experts, dynamic router, codebooks per expert, decoder.

Slots stand in the order shared, text, vision, behaviour; ``S`` is their number, ``d`` the latent width, ``K`` the
codebook size. Equation numbers are those of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.alignment import alignment_weight, mean_over
from sidbench.tokenizers.blocks.kmeans import kmeans
from sidbench.tokenizers.blocks.mlp import mlp
from sidbench.tokenizers.blocks.runtime import Runtime

IBQ_TEMPERATURE = 0.1
KMEANS_ITERATIONS = 25
BLOCK_ROWS = 4096  # items encoded at once


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
        start = sum(self.slots[name] for name in names[:names.index(group)])
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

    def __len__(self) -> int:
        return len(self.richness)

    def take(self, rows: Tensor) -> Batch:
        """The items ``rows`` int64 ``[M]``."""
        return Batch({m: e[rows] for m, e in self.embeddings.items()},
                     {m: a[rows] for m, a in self.available.items()}, self.richness[rows])

    def parts(self) -> Iterator[Batch]:
        """Consecutive parts of at most ``BLOCK_ROWS`` items."""
        for rows in torch.arange(len(self), device=self.richness.device).split(BLOCK_ROWS):
            yield self.take(rows)


@dataclass(frozen=True)
class Encoded:
    """What the encoder half makes of a batch.

    projected: modality -> h_m ``[B, d]`` (eq. 2). latents: rows of length 1 ``[S, B, d]`` (eqs. 4, 6).
    gates: float ``[B, S]``, 0 where a slot is not used. router: the behaviour gates ``r`` ``[B, N_b]`` among them.
    """

    projected: Mapping[str, Tensor]
    latents: Tensor
    gates: Tensor
    router: Tensor


class Experts(nn.Module):
    """``n`` two-layer experts ``Linear(in, hidden)-GELU-Linear(hidden, d)`` on one input, computed together."""

    def __init__(self, n: int, n_in: int, hidden: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        device = generator.device
        self.n, self.hidden = n, hidden
        self.weight_in = nn.Parameter(_uniform((n_in, n * hidden), n_in, generator))
        self.bias_in = nn.Parameter(torch.zeros(n * hidden, device=device))
        self.weight_out = nn.Parameter(_uniform((n, hidden, width), hidden, generator))
        self.bias_out = nn.Parameter(torch.zeros(n, 1, width, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x ``[B, in]`` -> rows of length 1 ``[n, B, d]``."""
        inner = F.gelu(torch.addmm(self.bias_in, x, self.weight_in))  # [B, n * hidden]
        inner = inner.view(len(x), self.n, self.hidden).transpose(0, 1)  # [n, B, hidden]
        return F.normalize(torch.baddbmm(self.bias_out, inner, self.weight_out), dim=-1)


class AdaptiveExperts(nn.Module):
    """Encoder, codebooks and decoder of ADA-SID.

    Parameters
    ----------
    layout: sizes.
    generator: draws the initial weights; its device is the network's.
    router: "behaviour" (eq. 18) or "softmax" (the ablation without router: no slot is ever off).
    richness_gate: the popularity factor of eq. 18, see ``_popularity``.
    alpha, beta: of eq. 14, used by ``richness_gate="curve"``.
    """

    def __init__(self, layout: Layout, generator: torch.Generator, *, router: str, richness_gate: str,
                 alpha: float, beta: float) -> None:
        super().__init__()
        self.layout, self.router_kind, self.richness_gate = layout, router, richness_gate
        self.alpha, self.beta = alpha, beta
        dims, slots, d = layout.dims, layout.slots, layout.width
        self.project = nn.ModuleDict({m: mlp((n, d, d), generator, "gelu") for m, n in dims.items()})
        widths = {group: d * len(dims) if group == "shared" else dims[group] for group in slots}
        self.experts = nn.ModuleDict({
            group: Experts(n, widths[group], layout.hidden, d, generator) for group, n in slots.items() if n})
        self.gate = nn.ModuleDict({m: mlp((dims[m], d, slots[m]), generator, "gelu") for m in dims})
        torch.nn.init.ones_(self.gate["behaviour"].get_parameter("2.bias"))  # every behaviour expert starts active (A26)
        self.codebook = nn.Parameter(_uniform((layout.n_slots, layout.codebook_size, d), d, generator))
        self.decoder = mlp((d, 2 * d, 4 * d, sum(dims.values())), generator, "gelu")

    def encode(self, batch: Batch) -> Encoded:
        """Eqs. 2-7, 9, 10 and 18. A slot of a modality that an item lacks has gate 0."""
        slots = self.layout.slots
        # Coordinates of unit variance: with rows of length 1 all items would cross the router's threshold together.
        e = {m: x * math.sqrt(self.layout.dims[m]) for m, x in batch.embeddings.items()}
        h = {m: self.project[m](x) for m, x in e.items()}                                     # (2)
        inputs = {"shared": torch.cat(list(h.values()), dim=1), **e}                          # (3)
        latents = torch.cat([self.experts[g](inputs[g]) for g in slots if slots[g]])          # (4), (6)  [S, B, d]
        gates = {m: torch.softmax(self.gate[m](x), dim=1) for m, x in e.items() if m != "behaviour"}  # (9), (10)
        gates["behaviour"] = self.route(e["behaviour"], batch.richness)
        gates = {m: g * batch.available[m][:, None] for m, g in gates.items()}
        ones = latents.new_ones(len(batch), slots["shared"])
        return Encoded(h, latents, torch.cat([ones, *(gates[m] for m in e)], dim=1), gates["behaviour"])

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

    def directions(self) -> Tensor:
        """Codebook vectors of length 1 ``[S, K, d]``."""
        return F.normalize(self.codebook, dim=-1)

    def quantise(self, latents: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
        """Codes int64 ``[S, B]`` of latents ``[S, B, d]``, and their directions ``[S, B, d]``.

        The code is the arg max of the cosine, eq. 5 (A1). ``differentiable``: index back-propagation (IBQ, arXiv
        2412.02692), which gives gradient to the latents and to all ``K`` codes.
        """
        directions = self.directions()
        similarity = torch.bmm(latents, directions.transpose(1, 2))  # [S, B, K]
        codes = similarity.argmax(dim=-1)
        if not differentiable:
            s, k, d = directions.shape
            row = codes + torch.arange(s, device=codes.device)[:, None] * k
            return codes, F.embedding(row, directions.reshape(s * k, d))
        soft = torch.softmax(similarity / IBQ_TEMPERATURE, dim=-1)
        hard = F.one_hot(codes, similarity.shape[-1]).to(soft.dtype)
        return codes, torch.bmm(soft + (hard - soft).detach(), directions)

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
            result = kmeans(x.float(), self.layout.codebook_size, rng.child(slot), runtime,
                            iterations=KMEANS_ITERATIONS, spherical=True)
            self.codebook[slot] = result.centres

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

    def decode(self, mixture: Tensor) -> dict[str, Tensor]:
        """Mixture ``[B, d]`` -> modality -> reconstruction ``[B, D_m]``."""
        dims = self.layout.dims
        return dict(zip(dims, self.decoder(mixture).split(list(dims.values()), dim=1), strict=True))


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


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform on +-1/sqrt(fan_in), as torch initialises a linear layer."""
    bound = 1 / math.sqrt(fan_in)
    return torch.rand(shape, generator=generator, device=generator.device).mul_(2 * bound).sub_(bound)
