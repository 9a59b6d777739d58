"""A causal transformer over tokens that trains on packed sequences and decodes many hypotheses of one history.

Training: short sequences lie side by side in spans under one block-diagonal causal mask (``spans``), as in
``attention``, here without rotary positions (positions are embeddings of the caller).
Decoding: keys and values of a history are made once per user and broadcast over that user's hypotheses; only the few
positions decoded so far are cached per hypothesis.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.spans import copies_in_span, span_mask
from sidbench.recommenders.blocks.transformer import Dropout


def causal_attention(packed: Tensor, heads: int) -> Tensor:
    """Causal self-attention ``[B, T, width]`` from queries, keys and values side by side, ``packed [B, T, 3 width]``."""
    if packed.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            attended: Tensor = _SpanAttention.apply(packed.float(), heads)
        return attended
    batch, length, _ = packed.shape
    q, k, v = packed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)


def shared_attention(query: Tensor, history: tuple[Tensor, Tensor], hidden: Tensor, own: tuple[Tensor, Tensor]) -> Tensor:
    """Attention of hypotheses to the history they share and to their own decoded positions; logits are not scaled.

    query ``[B, W, heads, d]``; history keys and values ``[B, heads, S, d]`` of each user; hidden float ``[B, 1, 1, S]``
    additive mask of the history; own keys and values ``[B, W, heads, P, d]``, the present position last. Returns
    ``[B, W, heads * d]``. The history is never repeated ``W`` times.
    """
    n_past = history[0].shape[2]
    past = torch.matmul(query.transpose(1, 2), history[0].transpose(2, 3)).add_(hidden)
    recent = torch.matmul(own[0], query[..., None]).squeeze(-1)
    weights = torch.softmax(torch.cat([past, recent.transpose(1, 2)], dim=-1), dim=-1)
    mixed = torch.matmul(weights[..., :n_past], history[1]).transpose(1, 2)
    return torch.add(mixed, torch.matmul(weights[..., None, n_past:].transpose(1, 2), own[1]).squeeze(-2)).flatten(2)


class CausalBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))`` with GELU; dropout on both branches."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, ``[B, T, width] -> [B, T, 3 width]``."""
        projected: Tensor = self.query_key_value(self.attention_norm(x))
        return projected

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block once attention is done; both ``[B, T, width]``."""
        x = self.dropout.added_to(x, self.output(attended))
        return self.dropout.added_to(x, self.feed_forward(self.forward_norm(x)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``, position t sees 0..t."""
        return self.finish(x, causal_attention(self.project(x), self.heads))


class CachedDecoder:
    """Keys and values of ``B`` encoded histories, and of what each hypothesis decoded after its history.

    Parameters
    ----------
    blocks: the ``CausalBlock`` of every layer, in evaluation mode.
    x: float32 ``[B, S, width]`` embedded history tokens, left-aligned.
    last: int64 ``[B]`` index of each user's newest token; later positions are hidden.
    """

    def __init__(self, blocks: nn.ModuleList, x: Tensor, last: Tensor) -> None:
        self._blocks = cast(list[CausalBlock], list(blocks))
        batch, length, width = x.shape
        self._users = torch.arange(batch, device=x.device)
        heads = self._blocks[0].heads
        self._scale = (width // heads) ** -0.5
        self._history: list[tuple[Tensor, Tensor]] = []
        for block in self._blocks:
            packed = block.project(x)
            _, keys, values = packed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            self._history.append((keys * self._scale, values.contiguous()))
            x = block.finish(x, causal_attention(packed, heads))
        self.newest = x[self._users, last]
        behind = torch.arange(length, device=x.device) > last[:, None]
        self._hidden = torch.zeros(batch, length, device=x.device).masked_fill_(behind, -torch.inf)[:, None, None]
        none = x.new_empty(batch, 1, heads, 0, width // heads)
        self._own = [(none, none) for _ in blocks]

    def advance(self, parent: Tensor, x: Tensor) -> Tensor:
        """Hypothesis ``j`` of user ``b`` continues hypothesis ``parent[b, j]`` (int64 ``[B, W]``) by one embedded token
        ``x`` ``[B, W, width]``; returns the last block's output ``[B, W, width]``."""
        batch, hypotheses, _ = x.shape
        of = self._users[:, None], parent
        for layer, block in enumerate(self._blocks):
            query, key, value = block.project(x).view(batch, hypotheses, 3, block.heads, -1).unbind(2)
            keys, values = (
                torch.cat([before[of], new[..., None, :]], dim=3)
                for before, new in zip(self._own[layer], (key * self._scale, value), strict=True)
            )
            self._own[layer] = keys, values
            x = block.finish(x, shared_attention(query, self._history[layer], self._hidden, (keys, values)))
        return x


class _SpanAttention(torch.autograd.Function):
    """``packed [B, T, 3 width] -> [B, T, width]``; spans of ``copies`` sequences, one matrix product a (span, head)."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, heads: int) -> Tensor:
        batch, length, total = packed.shape
        width = total // (3 * heads)
        copies = copies_in_span(batch, length)
        spans, span = batch // copies, copies * length
        parts = packed.reshape(spans, span, 3, heads, width).permute(2, 0, 3, 1, 4).reshape(3, spans * heads, span, width)
        q, k, v = parts
        weights = torch.baddbmm(span_mask(length, copies, packed.device), q, k.transpose(1, 2), alpha=width**-0.5)
        torch.softmax(weights, -1, out=weights)
        mixed = torch.bmm(weights, v)
        ctx.save_for_backward(parts, weights, mixed)
        ctx.shape, ctx.heads = packed.shape, heads
        return mixed.view(spans, heads, span, width).transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        parts, weights, mixed = ctx.saved_tensors
        (q, k, v), heads = parts, ctx.heads
        span, width = parts.shape[2], parts.shape[3]
        spans = len(q) // heads
        grad = grad.reshape(spans, span, heads, width).transpose(1, 2).reshape(spans * heads, span, width)
        grads = torch.empty_like(parts)
        torch.bmm(weights.transpose(1, 2), grad, out=grads[2])
        # Softmax: dS = W * (dW - rowsum(dW * W)), and rowsum(dW * W) = rowsum(d_out * out).
        inner = (grad * mixed).sum(-1, keepdim=True).neg_()
        scores = torch.baddbmm(inner, grad, v.transpose(1, 2)).mul_(weights).mul_(width**-0.5)
        torch.bmm(scores, k, out=grads[0])
        torch.bmm(scores.transpose(1, 2), q, out=grads[1])
        packed = grads.view(3, spans, heads, span, width).permute(1, 3, 0, 2, 4).reshape(ctx.shape)
        return packed, None
