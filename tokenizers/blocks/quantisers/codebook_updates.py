"""How codebooks move: by the gradient of the VQ loss, or as moving averages of what they quantise.

VQ-VAE (van den Oord et al. 2017), its appendix A.1 for the moving averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def vq_loss(x: Tensor, code: Tensor, beta: float, *, move: bool = True) -> Tensor:
    """``||sg[x] - c||^2 + beta ||x - sg[c]||^2``, mean over batch and dimensions; both ``[B, d]``.

    ``move=False`` leaves the first term out: the codebook moves by other means.
    """
    commitment = beta * F.mse_loss(x, code.detach())
    return F.mse_loss(code, x.detach()) + commitment if move else commitment


class MovingAverage:
    """Codebooks as moving averages of the latents they quantise, with Laplace-smoothed counts.

    ``n_k <- g n_k + (1-g) count_k``, ``m_k <- g m_k + (1-g) sum x``, ``c_k = m_k / n_k`` after
    ``n_k <- (n_k + eps) / (sum n + K eps) * sum n``. Its state belongs into ``TrainingPlan.extra_state``.

    Parameters: codebooks ``[P, K, d]``, changed in place. decay: ``g``. The averages start at the first call: every code
    counts its even share of that batch, at its present place.
    """

    def __init__(self, codebooks: Tensor, *, decay: float = 0.99, epsilon: float = 1e-5) -> None:
        self.codebooks, self.decay, self.epsilon = codebooks, decay, epsilon
        self.counts = torch.zeros(codebooks.shape[:2], device=codebooks.device)
        self.sums = torch.zeros_like(codebooks.data)

    @torch.no_grad()
    def after_step(self, latents: Tensor, codes: Tensor) -> None:
        """Count one batch: latents ``[P, B, d]``, what each position quantised; codes int64 ``[B, P]``."""
        positions, size, width = self.codebooks.shape
        flat = (codes + torch.arange(positions, device=codes.device) * size).t().reshape(-1)
        counts = torch.bincount(flat, minlength=positions * size).view(positions, size).to(self.counts.dtype)
        sums = latents.new_zeros(positions * size, width).index_add_(0, flat, latents.reshape(-1, width))
        if not bool(self.counts.any()):
            self.counts.fill_(len(codes) / size)
            self.sums.copy_(self.codebooks.data * self.counts[..., None])
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums.view_as(self.sums), alpha=1 - self.decay)
        total = self.counts.sum(1, keepdim=True)
        smoothed = (self.counts + self.epsilon) / (total + size * self.epsilon) * total
        self.codebooks.data.copy_(self.sums / smoothed[..., None])

    @torch.no_grad()
    def place(self, replaced: Tensor) -> None:
        """Restart the averages of codes that were put elsewhere, bool ``[P, K]``: their even share, at the new place."""
        even = self.counts.mean(1, keepdim=True).expand_as(self.counts)
        self.counts = torch.where(replaced, even, self.counts)
        self.sums = torch.where(replaced[..., None], self.codebooks.data * self.counts[..., None], self.sums)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"average_counts": self.counts, "average_sums": self.sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self.counts = state["average_counts"].to(self.codebooks.device).clone()
        self.sums = state["average_sums"].to(self.codebooks.device).clone()
