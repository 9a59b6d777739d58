"""Causal self-attention blocks over item sequences: pre-norm with rotary positions, and the original SASRec block.

Sequences are left-aligned and padded behind their end, so causal masking alone keeps padding out of every real
position and no key mask is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary_angles(length: int, width: int, base: float, device: torch.device) -> Tensor:
    """Unit complex numbers complex64 ``[length, width / 2]`` of the angles ``t * base^(-2j / width)``; even ``width``.

    Source: RoPE, arXiv 2104.09864, eq. 15.
    """
    frequency = base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs ``(x_2j, x_2j+1)`` of ``[B, length, heads, width]`` by their position's angle (eq. 34)."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles[:, None]).flatten(-2).to(x.dtype)


class Dropout(nn.Module):
    """Dropout whose mask costs one random byte an element; torch's CPU mask takes up to a fifth of a training step.

    The rate is rounded to a multiple of 1/256 and the rest scaled by its exact inverse, so expectations are kept.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(256 * rate)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; identity outside training."""
        if not self.training or not self.dropped:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-2**63, None)
        keep = words.view(torch.uint8)[:x.numel()].view(x.shape) >= self.dropped
        return x * keep.to(x.dtype).mul_(256 / (256 - self.dropped))


class CausalAttention(nn.Module):
    """Multi-head attention of each position to itself and the positions before it.

    rotary_base: base of the rotary angles, 0 for none. dropout: rate on the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float, rotary_base: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout, self.rotary_base = heads, dropout, rotary_base
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """``queries`` and ``context`` float ``[B, T, width]`` -> ``[B, T, width]``."""
        batch, length, width = queries.shape
        q = self.query(queries).view(batch, length, self.heads, -1)
        k, v = self.key_value(context).view(batch, length, 2, self.heads, -1).unbind(2)
        if self.rotary_base:
            angles = rotary_angles(length, width // self.heads, self.rotary_base, queries.device)
            q, k = rotate(q, angles), rotate(k, angles)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True,
                                               dropout_p=self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class PreNormBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))`` with SiLU; dropout on both branches."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, rotary_base: float) -> None:
        super().__init__()
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, 0.0, rotary_base)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


class SasrecBlock(nn.Module):
    """The block of SASRec (arXiv 1808.09781, sec. 3.2) as its authors run it: only the query side is normalised, and
    both residual connections start from the normalised input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.feed_forward = nn.Sequential(nn.Linear(width, width), nn.ReLU(), Dropout(dropout),
                                          nn.Linear(width, width), Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``."""
        queries = self.query_norm(x)
        x = self.forward_norm(queries + self.attention(queries, x))
        return x + self.feed_forward(x)


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Xavier-normal matrices, zero biases, unit norms; other parameters keep what their module set.

    Everything random comes from ``generator``, which must live on the model's device.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            std = math.sqrt(2.0 / (module.in_features + module.out_features))
            module.weight.normal_(0.0, std, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
