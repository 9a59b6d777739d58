"""Residual quantisation with trained codebooks, put together from strategies.

VQ-VAE (van den Oord et al. 2017), residual quantisation as in RQ-VAE (Lee et al. 2022) and TIGER (arXiv 2305.05065).
What may vary stands in modules of its own: the distance (here), gradient estimators (``estimators``), codebook updates
(``codebook_updates``), starts (``codebook_starts``), balanced assignment (``sinkhorn``), dead codes (``dead_codes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerConfig
from sidbench.tokenizers.blocks.clustering.kmeans import row_argmin
from sidbench.tokenizers.blocks.quantisers.codebook_starts import STARTS
from sidbench.tokenizers.blocks.quantisers.codebook_updates import vq_loss
from sidbench.tokenizers.blocks.quantisers.estimators import ESTIMATORS, soft_index, straight_through
from sidbench.tokenizers.blocks.quantisers.sinkhorn import sinkhorn_assign

BLOCK_ROWS = 8192
SINKHORN_EPSILON, SINKHORN_ITERATIONS = 0.003, 50  # LC-Rec and LETTER


@dataclass(frozen=True)
class QuantiserConfig(TokenizerConfig):
    """Settings of a trained residual quantiser; every one names a strategy or its strength."""

    beta: float = setting(0.25, "weight of the commitment loss", low=0, high=10, paper=0.25, sweep=(0.1, 0.25, 1.0))
    distance: str = setting("l2", "how the nearest code is found", choices=("l2", "cosine"), paper="l2")
    residual_mode: str = setting(
        "sg", "gradient of residuals: stop-gradient or straight-through", choices=("sg", "ste"), sweep=("sg", "ste")
    )
    estimator: str = setting("ste", "gradient through the choice of codes", choices=("ste", "rotation", "gumbel"))
    codebook_update: str = setting(
        "gradient", "how codebooks move; ibq is index back-propagation", choices=("gradient", "ema", "ibq")
    )
    temperature: float = setting(
        0.1, "softmax of gumbel and ibq, in units of the mean squared distance (of 1 with cosine)", low=1e-4, high=100
    )
    codebook_start: str = setting("kmeans", "where codebooks start", choices=tuple(STARTS))
    sinkhorn: str = setting(
        "none", "levels whose codes are assigned evenly within a batch of the training", choices=("none", "last", "all")
    )
    restart_dead_codes: bool = setting(
        False, "replace unused codes by latents of the batch", paper=False, sweep=(False, True)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebook_update == "ibq" and self.estimator != "ste":
            raise InputError(
                "tokenizer.codebook_update=ibq",
                got=f"estimator={self.estimator}",
                wanted="estimator=ste: index back-propagation is a gradient estimator itself",
                do="set one of the two",
            )
        if self.codebook_update == "ema" and self.estimator == "gumbel":
            raise InputError(
                "tokenizer.estimator=gumbel",
                got="codebook_update=ema",
                wanted="codebook_update=gradient, since its soft indices move codes by gradient",
                do="set one of the two",
            )


def squared_distances(x: Tensor, codebook: Tensor) -> Tensor:
    """``||x - c||^2 - ||x||^2`` float ``[B, K]`` of x ``[B, d]`` and codebook ``[K, d]``."""
    return torch.addmm((codebook * codebook).sum(1), x, codebook.t(), alpha=-2)


def negative_cosines(x: Tensor, codebook: Tensor) -> Tensor:
    """``-cos(x, c)`` times the length of x, float ``[B, K]``: orders the codes of each row as the cosine does."""
    return -(x @ F.normalize(codebook, dim=1).t())


COSTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": squared_distances, "cosine": negative_cosines}


def nearest_l2(x: Tensor, codebook: Tensor) -> Tensor:
    """Code of least squared L2 distance, int64 ``[B]`` of x ``[B, d]`` and codebook ``[K, d]``; no gradient."""
    with torch.no_grad():
        return row_argmin(squared_distances(x, codebook))


def nearest_cosine(x: Tensor, codebook: Tensor) -> Tensor:
    """Code of largest cosine similarity, int64 ``[B]`` of x ``[B, d]`` and codebook ``[K, d]``; no gradient."""
    with torch.no_grad():
        return row_argmin(negative_cosines(x, codebook))


NEAREST: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": nearest_l2, "cosine": nearest_cosine}


@dataclass(frozen=True)
class Quantised:
    """One pass: ``value`` float ``[B, d]`` (with the estimator's gradient), ``loss`` scalar, ``codes`` int64 ``[B, L]``."""

    value: Tensor
    loss: Tensor
    codes: Tensor


class ResidualQuantiser(nn.Module):
    """``L`` codebooks of ``K`` vectors, each quantising what the earlier ones left.

    Parameters
    ----------
    levels, size, width: ``L``, ``K``, ``d``. nearest: how a code is chosen, "l2" or "cosine"; residuals are plain
        differences in both. beta: commitment weight.
    residual_mode: "sg": ``r_{p+1} = r_p - sg(c_p)`` and one estimate of the sum, so that the commitment term of
        every level reaches the encoder. "ste": ``r_{p+1} = r_p - STE(r_p, c_p)`` as in public repositories: its
        derivative is 0, so only the first level's commitment does. Equal values, different gradients.
    estimator, update, temperature, sinkhorn: see ``QuantiserConfig``. Noise and Sinkhorn act in training mode only.
    """

    def __init__(
        self,
        levels: int,
        size: int,
        width: int,
        device: torch.device,
        *,
        nearest: str = "l2",
        beta: float = 0.25,
        residual_mode: str = "sg",
        estimator: str = "ste",
        update: str = "gradient",
        temperature: float = 0.1,
        sinkhorn: str = "none",
    ) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(levels, size, width, device=device), requires_grad=update != "ema")
        self.distance, self.nearest, self.beta, self.residual_mode = nearest, NEAREST[nearest], beta, residual_mode
        self.noisy, self.soft = estimator == "gumbel", estimator == "gumbel" or update == "ibq"
        self.moves = update != "ema"
        self.estimate = ESTIMATORS.get(estimator, straight_through)
        self.temperature = temperature
        self.even_levels = {"none": range(0), "last": range(levels - 1, levels), "all": range(levels)}[sinkhorn]

    @staticmethod
    def from_config(
        config: QuantiserConfig,
        width: int,
        device: torch.device,
        levels: int | None = None,
    ) -> ResidualQuantiser:
        """The quantiser of a config: ``config.code_length`` (or ``levels``) levels of ``config.codebook_size`` codes."""
        return ResidualQuantiser(
            config.code_length if levels is None else levels,
            config.codebook_size,
            width,
            device,
            nearest=config.distance,
            beta=config.beta,
            residual_mode=config.residual_mode,
            estimator=config.estimator,
            update=config.codebook_update,
            temperature=config.temperature,
            sinkhorn=config.sinkhorn,
        )

    def forward(self, z: Tensor, penalty: Callable[[int, Tensor, Tensor], Tensor | None] | None = None) -> Quantised:
        """Quantise latents ``[B, d]``; the loss is the mean of ``vq_loss`` over levels.

        penalty: ``(level, codes int64 [B], codebook [K, d]) -> scalar`` added to the level's loss, or ``None``.
        """
        residual, total, loss, codes = z, torch.zeros_like(z), z.new_zeros(()), []
        for level, codebook in enumerate(self.codebooks):
            code, value = self._select(level, residual, codebook)
            chosen = F.embedding(code, codebook)
            loss = loss + vq_loss(residual, chosen, self.beta, move=self.moves)
            extra = None if penalty is None else penalty(level, code, codebook)
            if extra is not None:
                loss = loss + extra
            codes.append(code)
            if self.residual_mode == "ste":
                value = self.estimate(residual, chosen) if value is None else value
                total, residual = total + value, residual - value
            else:
                total = total if value is None else total + value
                residual = residual - chosen.detach()
        if self.residual_mode == "sg" and not self.soft:
            total = self.estimate(z, (z - residual).detach())
        return Quantised(total, loss / len(self.codebooks), torch.stack(codes, 1))

    def _select(self, level: int, residual: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes ``[B]`` of one level and, with soft indices, the chosen vectors ``[B, d]`` with their gradient."""
        if self.soft:
            code, index = soft_index(self._scores(residual, codebook), self.temperature, self.noisy and self.training)
            return code, index @ codebook
        if self.training and level in self.even_levels:
            with torch.no_grad():
                costs = COSTS[self.distance](residual, codebook)
                if self.distance == "l2":  # Sinkhorn scales the whole matrix, so rows need their true distances
                    costs = costs + residual.square().sum(1, keepdim=True)
                return sinkhorn_assign(costs, SINKHORN_EPSILON, SINKHORN_ITERATIONS), None
        return self.nearest(residual, codebook), None

    def _scores(self, residual: Tensor, codebook: Tensor) -> Tensor:
        """Larger is nearer ``[B, K]``: cosine, or negative squared distance in units of its mean."""
        if self.distance == "cosine":
            return F.normalize(residual, dim=1) @ F.normalize(codebook, dim=1).t()
        distances = squared_distances(residual, codebook) + residual.square().sum(1, keepdim=True)
        return -distances / distances.detach().mean().clamp(min=1e-12)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes int64 ``[N, L]`` of latents ``[N, d]``."""
        codes = torch.empty(len(z), len(self.codebooks), dtype=torch.int64, device=z.device)
        for start in range(0, len(z), BLOCK_ROWS):
            residual = z[start : start + BLOCK_ROWS]
            for level, codebook in enumerate(self.codebooks):
                code = self.nearest(residual, codebook)
                codes[start : start + BLOCK_ROWS, level] = code
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
    def last_costs(self, z: Tensor) -> Tensor:
        """What the last level minimises, float ``[N, K]``, of latents ``[N, d]``: squared distance or 1 - cosine."""
        residual = self.residuals(z, self.encode(z))[-1]
        if self.distance == "cosine":
            return 1 - F.normalize(residual, dim=1) @ F.normalize(self.codebooks[-1], dim=1).t()
        return torch.cdist(residual, self.codebooks[-1]).square()

    @torch.no_grad()
    def initialise(self, z: Tensor, rng: Rng, runtime: Runtime, start: str = "kmeans") -> None:
        """Set the codebooks level by level to start vectors of the residuals of latents ``z`` ``[N, d]``."""
        residual, size = z, self.codebooks.shape[1]
        for level in range(len(self.codebooks)):
            self.codebooks[level] = STARTS[start](residual, size, rng.child("level", level), runtime)
            residual = residual - self.codebooks[level][self.nearest(residual, self.codebooks[level])]
