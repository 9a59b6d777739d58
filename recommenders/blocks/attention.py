"""Causal self-attention with rotary positions, and a form of it for the many short sequences of a CPU batch.

On a CPU short sequences lie side by side in one span under a block-diagonal causal mask (``spans``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.recommenders.blocks.spans import copies_in_span, span_mask


def rotary_angles(length: int, width: int, base: float, device: torch.device) -> Tensor:
    """Unit complex numbers complex64 ``[length, width / 2]`` of the angles ``t * base^(-2j / width)``; even ``width``.

    Source: RoPE, arXiv 2104.09864, eq. 15.
    """
    frequency = base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs ``(x_2j, x_2j+1)`` of ``[B, length, heads, width]`` by their position's angle (eq. 34), complex64
    ``[length, width / 2]``, or ``[B or 1, length or 1, width / 2]`` where users differ."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles[..., None, :]).flatten(-2).to(x.dtype)


def rotary_attention(packed: Tensor, heads: int, base: float) -> Tensor:
    """Causal self-attention ``[B, T, width]`` from queries, keys and values side by side, ``packed [B, T, 3 width]``."""
    if packed.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            attended: Tensor = _SpanAttention.apply(packed.float(), heads, base)
        return attended
    batch, length, total = packed.shape
    q, k, v = packed.view(batch, length, 3, heads, -1).unbind(2)
    angles = rotary_angles(length, total // (3 * heads), base, packed.device)
    q, k, v = (part.transpose(1, 2) for part in (rotate(q, angles), rotate(k, angles), v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)


@lru_cache(maxsize=64)
def _tables(length: int, copies: int, width: int, base: float) -> tuple[Tensor, Tensor]:
    """What queries, keys and values are multiplied by, complex64 ``[3, 1, 1, copies * length, width / 2]``, and its
    conjugate; queries take the ``1 / sqrt(width)``."""
    angles = rotary_angles(length, width, base, torch.device("cpu"))
    turn = torch.stack([angles / width**0.5, angles, torch.ones_like(angles)]).repeat(1, copies, 1)[:, None, None]
    return turn, turn.conj().resolve_conj()


class _SpanAttention(torch.autograd.Function):
    """``packed [B, T, 3 width] -> [B, T, width]``; spans of ``copies`` sequences, one matrix product a (span, head)."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, heads: int, base: float) -> Tensor:
        batch, length, total = packed.shape
        width = total // (3 * heads)
        copies = copies_in_span(batch, length)
        turn, back = _tables(length, copies, width, base)
        spans, span = batch // copies, copies * length
        pairs = torch.view_as_complex(packed.reshape(spans, span, 3, heads, width // 2, 2)).permute(2, 0, 3, 1, 4)
        turned = torch.empty(pairs.shape, dtype=pairs.dtype, device=pairs.device)
        torch.mul(pairs, turn, out=turned)
        parts = torch.view_as_real(turned).view(3, spans * heads, span, width)
        q, k, v = parts
        weights = torch.softmax(torch.baddbmm(span_mask(length, copies, packed.device), q, k.transpose(1, 2)), -1)
        mixed = torch.bmm(weights, v)
        ctx.save_for_backward(parts, weights, mixed)
        ctx.back, ctx.shape, ctx.heads = back, packed.shape, heads
        return _join(mixed, spans, heads).reshape(batch, length, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        parts, weights, mixed = ctx.saved_tensors
        q, k, v = parts
        span, width, heads = parts.shape[2], parts.shape[3], ctx.heads
        spans = len(q) // heads
        grad = grad.reshape(spans, span, heads, width).transpose(1, 2).reshape(spans * heads, span, width)
        grads = torch.empty_like(parts)
        torch.bmm(weights.transpose(1, 2), grad, out=grads[2])
        # Softmax: dS = W * (dW - rowsum(dW * W)), and rowsum(dW * W) = rowsum(d_out * out).
        inner = (grad * mixed).sum(-1, keepdim=True).neg_()
        scores = torch.baddbmm(inner, grad, v.transpose(1, 2)).mul_(weights)
        torch.bmm(scores, k, out=grads[0])
        torch.bmm(scores.transpose(1, 2), q, out=grads[1])
        packed = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device)
        target = torch.view_as_complex(packed.view(spans, span, 3, heads, width // 2, 2)).permute(2, 0, 3, 1, 4)
        torch.mul(torch.view_as_complex(grads.view(3, spans, heads, span, width // 2, 2)), ctx.back, out=target)
        return packed, None, None


def _join(mixed: Tensor, spans: int, heads: int) -> Tensor:
    """``[spans * heads, span, width]`` -> ``[spans, span, heads, width]``."""
    return mixed.view(spans, heads, *mixed.shape[1:]).transpose(1, 2)
