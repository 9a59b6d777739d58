"""Restart of codes that fell out of use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sidbench.datasets.foundation.seeds import Rng


class DeadCodeRestart:
    """Replaces codes that fell out of use by latents of the batch.

    Keeps a moving average of each code's share of its position (decay 0.99 a step); every ``every`` steps codes below
    ``threshold / K`` become random latents of the current batch plus normal noise of ``noise`` times their root mean
    square. Its state belongs into ``TrainingPlan.extra_state``.

    Parameters: codebooks ``[P, K, d]``, changed in place. rng: node of the draws. last_step: no restart after this many
    steps, so that every new code still has time to move from a raw latent to the mean of its items.
    """

    def __init__(
        self,
        codebooks: Tensor,
        rng: Rng,
        *,
        every: int = 200,
        decay: float = 0.99,
        threshold: float = 0.1,
        noise: float = 1e-3,
        last_step: int | None = None,
    ) -> None:
        self.codebooks, self.rng, self.last_step = codebooks, rng, last_step
        self.every, self.decay, self.threshold, self.noise = every, decay, threshold, noise
        positions, size, _ = codebooks.shape
        self.usage = torch.full((positions, size), 1 / size, device=codebooks.device)
        self.steps, self.restarted = 0, 0

    @torch.no_grad()
    def after_step(self, latents: Tensor, codes: Tensor, used: Tensor | None = None, step: int | None = None) -> int:
        """Count one step and restart when due; returns how many codes were replaced.

        step: number of the step, which may come in strides (``--accumulate``); ``None``: the one after the last.

        latents ``[P, B, d]``: what each position quantised. codes int64 ``[B, P]``. used bool ``[B, P]``: False where a
        row does not use the position (its code does not count and its latent is not taken).
        """
        positions, size = self.usage.shape
        offset = torch.arange(positions, device=codes.device) * size
        weights = None if used is None else used.reshape(-1).to(self.usage.dtype)
        counts = torch.bincount((codes + offset).reshape(-1), weights, positions * size).view(positions, size)
        share = counts / counts.sum(1, keepdim=True).clamp(min=1)
        self.usage.mul_(self.decay).add_(share, alpha=1 - self.decay)
        before, self.steps = self.steps, self.steps + 1 if step is None else step + 1
        if self.steps // self.every == before // self.every or (self.last_step is not None and self.steps > self.last_step):
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
