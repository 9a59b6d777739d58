"""A GPT-2 body over vectors: pre-norm causal blocks with learned positions and dropout on the attention weights.

Sequences are left-aligned and padded behind their end, so the causal mask alone keeps padding out of real positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.spans import copies_in_span, span_mask
from sidbench.recommenders.blocks.transformer import Dropout

INITIAL_STD = 0.02


class Gpt2Attention(nn.Module):
    """Multi-head causal self-attention; short sequences lie side by side in spans, one matrix product a (span, head)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.packed = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``."""
        batch, length, width = x.shape
        copies = copies_in_span(batch, length)
        spans, span = batch // copies, copies * length
        parts = self.packed(x).view(spans, span, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, spans * self.heads, span, -1)
        scores = torch.baddbmm(span_mask(length, copies, x.device), q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
        mixed = torch.bmm(self.dropout(torch.softmax(scores, -1)), v)
        return self.output(mixed.view(spans, self.heads, span, -1).transpose(1, 2).reshape(batch, length, width))


class Gpt2Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))`` with GELU; no dropout on the branches."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Gpt2Attention(width, heads, dropout)
        self.inner, self.output = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.output(F.gelu(self.inner(self.forward_norm(x))))


class Gpt2(nn.Module):
    """``layers`` blocks and a final norm; position ``t`` of the output sees the inputs ``0..t``."""

    def __init__(self, width: int, layers: int, heads: int, inner: int, positions: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(positions, width))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Gpt2Block(width, heads, inner, dropout) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Weights and positions from N(0, 0.02^2), outputs of branches divided by sqrt(2 layers), zero biases (GPT-2)."""
        self.position.normal_(0.0, INITIAL_STD, generator=generator)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                shrink = (2 * len(self.blocks)) ** -0.5 if name.endswith("output") else 1.0
                module.weight.normal_(0.0, INITIAL_STD * shrink, generator=generator)
                module.bias.zero_()

    def forward(self, vectors: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``; ``T`` at most the number of positions."""
        x = self.dropout(vectors + self.position[: vectors.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)
