"""Causal self-attention blocks over item sequences: pre-norm with rotary positions, and the original SASRec block.

Sequences are left-aligned and padded behind their end, so causal masking alone keeps padding out of every real
position and no key mask is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.attention import rotary_attention


class Dropout(nn.Module):
    """Dropout whose mask costs one random byte an element; torch's CPU mask takes up to a fifth of a training step.

    The rate is rounded to a multiple of 1/256 and the rest scaled by its exact inverse, so expectations are kept.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(256 * rate)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; identity outside training."""
        return x * self.mask(x) if self.training and self.dropped else x

    def added_to(self, x: Tensor, branch: Tensor) -> Tensor:
        """``x + dropout(branch)``."""
        return torch.addcmul(x, branch, self.mask(branch)) if self.training and self.dropped else x + branch

    def mask(self, x: Tensor) -> Tensor:
        """What dropout multiplies ``x`` by in training: 0 where dropped, else the scale."""
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        mask = torch.empty_like(x, requires_grad=False)
        torch.ge(words.view(torch.uint8)[: x.numel()].view(x.shape), self.dropped, out=mask)
        return mask.mul_(256 / (256 - self.dropped))


class CausalAttention(nn.Module):
    """Multi-head attention of each position to itself and the positions before it; dropout on the attention weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """``queries`` and ``context`` float ``[B, T, width]`` -> ``[B, T, width]``."""
        batch, length, width = queries.shape
        q = self.query(queries).view(batch, length, self.heads, -1)
        k, v = self.key_value(context).view(batch, length, 2, self.heads, -1).unbind(2)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class RotarySelfAttention(nn.Module):
    """Multi-head causal self-attention with rotary positions of base ``base``."""

    def __init__(self, width: int, heads: int, base: float) -> None:
        super().__init__()
        self.heads, self.base = heads, base
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``."""
        weight = torch.cat([self.query.weight, self.key_value.weight])
        bias = torch.cat([self.query.bias, self.key_value.bias])
        return self.output(rotary_attention(F.linear(x, weight, bias), self.heads, self.base))


class PreNormBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))`` with SiLU; dropout on both branches."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, rotary_base: float) -> None:
        super().__init__()
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RotarySelfAttention(width, heads, rotary_base)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``."""
        x = self.dropout.added_to(x, self.attention(self.attention_norm(x)))
        return self.dropout.added_to(x, self.feed_forward(self.forward_norm(x)))


class SasrecBlock(nn.Module):
    """The block of SASRec (arXiv 1808.09781, sec. 3.2) as its authors run it: only the query side is normalised, and
    both residual connections start from the normalised input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.Linear(width, width), Dropout(dropout)
        )

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
