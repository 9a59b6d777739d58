"""Trained codebooks: nearest codes, the gradient VQ loss, straight-through residual quantisation, dead-code restart.

VQ-VAE (van den Oord et al. 2017), residual quantisation as in RQ-VAE (Lee et al. 2022) and TIGER (arXiv 2305.05065).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.kmeans import kmeans, row_argmin
from sidbench.tokenizers.blocks.runtime import Runtime

BLOCK_ROWS = 8192


def nearest_l2(x: Tensor, codebook: Tensor) -> Tensor:
    """Code of least squared L2 distance, int64 ``[B]`` of x ``[B, d]`` and codebook ``[K, d]``; no gradient."""
    with torch.no_grad():
        return row_argmin(torch.addmm((codebook * codebook).sum(1), x, codebook.t(), alpha=-2))


def nearest_cosine(x: Tensor, codebook: Tensor) -> Tensor:
    """Code of largest cosine similarity, int64 ``[B]`` of x ``[B, d]`` and codebook ``[K, d]``; no gradient."""
    with torch.no_grad():
        return row_argmin(-(x @ F.normalize(codebook, dim=1).t()))


NEAREST: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": nearest_l2, "cosine": nearest_cosine}


def vq_loss(x: Tensor, code: Tensor, beta: float) -> Tensor:
    """``||sg[x] - c||^2 + beta ||x - sg[c]||^2``, mean over batch and dimensions; both ``[B, d]``."""
    return F.mse_loss(code, x.detach()) + beta * F.mse_loss(x, code.detach())


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """Value of ``quantised``, gradient of the identity on ``x``."""
    return x + (quantised - x).detach()


@dataclass(frozen=True)
class Quantised:
    """One pass: ``value`` float ``[B, d]`` (straight-through), ``loss`` scalar, ``codes`` int64 ``[B, L]``."""

    value: Tensor
    loss: Tensor
    codes: Tensor


class ResidualQuantiser(nn.Module):
    """``L`` codebooks of ``K`` vectors, each quantising what the earlier ones left.

    Parameters
    ----------
    levels, size, width: ``L``, ``K``, ``d``. nearest: how a code is chosen, "l2" or "cosine"; residuals are plain
        differences in both. beta: commitment weight.
    residual_mode: "sg": ``r_{p+1} = r_p - sg(c_p)`` and one straight-through of the sum, so that the commitment term of
        every level reaches the encoder. "ste": ``r_{p+1} = r_p - STE(r_p, c_p)`` as in public repositories: its
        derivative is 0, so only the first level's commitment does. Equal values, different gradients.
    """

    def __init__(self, levels: int, size: int, width: int, device: torch.device, *, nearest: str = "l2",
                 beta: float = 0.25, residual_mode: str = "sg") -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(levels, size, width, device=device))
        self.nearest, self.beta, self.residual_mode = NEAREST[nearest], beta, residual_mode

    def forward(self, z: Tensor) -> Quantised:
        """Quantise latents ``[B, d]``; the loss is the mean of ``vq_loss`` over levels."""
        residual, total, loss, codes = z, torch.zeros_like(z), z.new_zeros(()), []
        for codebook in self.codebooks:
            code = self.nearest(residual, codebook)
            chosen = F.embedding(code, codebook)
            loss = loss + vq_loss(residual, chosen, self.beta)
            codes.append(code)
            if self.residual_mode == "ste":
                value = straight_through(residual, chosen)
                total, residual = total + value, residual - value
            else:
                residual = residual - chosen.detach()
        value = total if self.residual_mode == "ste" else straight_through(z, z - residual)
        return Quantised(value, loss / len(self.codebooks), torch.stack(codes, 1))

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes int64 ``[N, L]`` of latents ``[N, d]``."""
        codes = torch.empty(len(z), len(self.codebooks), dtype=torch.int64, device=z.device)
        for start in range(0, len(z), BLOCK_ROWS):
            residual = z[start:start + BLOCK_ROWS]
            for level, codebook in enumerate(self.codebooks):
                code = self.nearest(residual, codebook)
                codes[start:start + BLOCK_ROWS, level] = code
                residual = residual - codebook[code]
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the chosen vectors ``[N, d]`` of codes ``[N, L]``."""
        return torch.stack([book[codes[:, level]] for level, book in enumerate(self.codebooks)]).sum(0)

    @torch.no_grad()
    def residuals(self, z: Tensor, codes: Tensor) -> Tensor:
        """What each level is given: ``[L, N, d]``, the first being ``z`` itself."""
        chosen = torch.stack([book[codes[:, level]] for level, book in enumerate(self.codebooks)])
        return z - torch.cat([torch.zeros_like(chosen[:1]), chosen[:-1].cumsum(0)])

    @torch.no_grad()
    def initialise(self, z: Tensor, rng: Rng, runtime: Runtime, iterations: int = 100) -> None:
        """Set the codebooks level by level to k-means centres of the residuals of latents ``z`` ``[N, d]``."""
        residual, size = z, self.codebooks.shape[1]
        for level in range(len(self.codebooks)):
            result = kmeans(residual, size, rng.child("level", level), runtime, iterations=iterations)
            self.codebooks[level] = result.centres
            residual = residual - result.centres[result.codes]


class DeadCodeRestart:
    """Replaces codes that fell out of use by latents of the batch.

    Keeps a moving average of each code's share of its position (decay 0.99 a step); every ``every`` steps codes below
    ``threshold / K`` become random latents of the current batch plus normal noise of ``noise`` times their root mean
    square. Its state belongs into ``TrainingPlan.extra_state``.

    Parameters: codebooks ``[P, K, d]``, changed in place. rng: node of the draws. last_step: no restart after this many
    steps, so that every new code still has time to move from a raw latent to the mean of its items.
    """

    def __init__(self, codebooks: Tensor, rng: Rng, *, every: int = 200, decay: float = 0.99, threshold: float = 0.1,
                 noise: float = 1e-3, last_step: int | None = None) -> None:
        self.codebooks, self.rng, self.last_step = codebooks, rng, last_step
        self.every, self.decay, self.threshold, self.noise = every, decay, threshold, noise
        positions, size, _ = codebooks.shape
        self.usage = torch.full((positions, size), 1 / size, device=codebooks.device)
        self.steps, self.restarted = 0, 0

    @torch.no_grad()
    def after_step(self, latents: Tensor, codes: Tensor, used: Tensor | None = None) -> int:
        """Count one step and restart when due; returns how many codes were replaced.

        latents ``[P, B, d]``: what each position quantised. codes int64 ``[B, P]``. used bool ``[B, P]``: False where a
        row does not use the position (its code does not count and its latent is not taken).
        """
        positions, size = self.usage.shape
        offset = torch.arange(positions, device=codes.device) * size
        weights = None if used is None else used.reshape(-1).to(self.usage.dtype)
        counts = torch.bincount((codes + offset).reshape(-1), weights, positions * size).view(positions, size)
        share = counts / counts.sum(1, keepdim=True).clamp(min=1)
        self.usage.mul_(self.decay).add_(share, alpha=1 - self.decay)
        self.steps += 1
        if self.steps % self.every or (self.last_step is not None and self.steps > self.last_step):
            return 0
        replaced = 0
        for position in range(positions):
            dead = (self.usage[position] < self.threshold / size).nonzero()[:, 0]
            pool = latents[position] if used is None else latents[position][used[:, position]]
            if len(dead) and len(pool):
                replaced += self._replace(position, dead, pool)
        self.restarted += replaced
        return replaced

    def _replace(self, position: int, dead: Tensor, pool: Tensor) -> int:
        draw = self.rng.child("restart", self.steps, position).numpy()
        rows = draw.choice(len(pool), size=len(dead), replace=len(dead) > len(pool))
        chosen = pool[torch.as_tensor(rows, device=pool.device)]
        scale = self.noise * float(pool.square().mean().sqrt())
        jitter = torch.as_tensor(draw.standard_normal(tuple(chosen.shape)), dtype=chosen.dtype, device=chosen.device)
        self.codebooks.data[position, dead] = chosen + scale * jitter
        self.usage[position, dead] = 1 / self.usage.shape[1]
        return len(dead)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"restart_usage": self.usage, "restart_steps": self.steps, "restarted": self.restarted}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self.usage = state["restart_usage"].to(self.codebooks.device).clone()
        self.steps, self.restarted = int(state["restart_steps"]), int(state["restarted"])


def utilisation(codes: Tensor, size: int) -> float:
    """Share of the codes that occur, mean over positions, of codes int ``[N, L]``; at most ``N`` codes can occur."""
    possible = min(size, len(codes))
    return sum(len(torch.unique(column)) for column in codes.t()) / (codes.shape[1] * possible)


def collision_rate(codes: Tensor) -> float:
    """Share of the rows of codes int ``[N, L]`` that have the same codes as another row."""
    counts = torch.unique(codes, dim=0, return_counts=True)[1]
    return float(counts[counts > 1].sum()) / len(codes)
