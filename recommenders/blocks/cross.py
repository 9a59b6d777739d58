"""Decoder blocks whose query rows attend to an encoded history, with one encoder pass for all targets of a sequence.

A query row stands at a *place* of its history: it sees the items up to that place only, so the rows of every training
target of a sequence share one causally encoded history, and rotary angles tell each row how far back an item lies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.attention import rotary_angles, rotate
from sidbench.recommenders.blocks.transformer import Dropout, RotarySelfAttention


class Memory(NamedTuple):
    """Keys and values float ``[B, heads, T, width / heads]`` of encoded histories, computed once for all query rows."""

    keys: Tensor
    values: Tensor


class SlotCache(NamedTuple):
    """Keys and values float ``[B, W, slots, heads, width / heads]`` of the slots already decoded."""

    keys: Tensor
    values: Tensor

    def follow(self, parent: Tensor) -> SlotCache:
        """The cache of hypotheses that continue ``parent`` int64 ``[B, W']``."""
        row = torch.arange(len(parent), device=parent.device)[:, None]
        return SlotCache(self.keys[row, parent], self.values[row, parent])


class CrossAttention(nn.Module):
    """Multi-head attention of query rows to the items at or before their places, with rotary distances."""

    def __init__(self, width: int, heads: int, base: float) -> None:
        super().__init__()
        self.heads, self.base = heads, base
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def memory(self, hidden: Tensor) -> Memory:
        """Keys and values of histories ``[B, T, width]``."""
        batch, length, width = hidden.shape
        k, v = self.key_value(hidden).view(batch, length, 2, self.heads, -1).unbind(2)
        k = rotate(k, rotary_angles(length, width // self.heads, self.base, hidden.device))
        return Memory(k.transpose(1, 2), v.transpose(1, 2))

    def forward(self, x: Tensor, memory: Memory, place: Tensor) -> Tensor:
        """``x [B, R, width]`` at ``place`` int64 ``[B or 1, R or 1]`` -> ``[B, R, width]``."""
        batch, rows, width = x.shape
        length = memory.keys.shape[2]
        angles = rotary_angles(length, width // self.heads, self.base, x.device)[place]
        q = rotate(self.query(x).view(batch, rows, self.heads, -1), angles)
        visible = place[:, None, :, None] >= torch.arange(length, device=x.device)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), memory.keys, memory.values, attn_mask=visible.expand(batch, 1, rows, length)
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, rows, width))


class CrossBlock(nn.Module):
    """``x + cross(norm(x))``, then ``x + feed_forward(norm(x))`` with SiLU; dropout on both branches."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, rotary_base: float) -> None:
        super().__init__()
        self.cross_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, rotary_base)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Memory, place: Tensor) -> Tensor:
        """``x [B, R, width]`` at ``place`` int64 ``[B or 1, R or 1]`` -> ``[B, R, width]``."""
        x = self.dropout.added_to(x, self.cross(self.cross_norm(x), memory, place))
        return self.dropout.added_to(x, self.feed_forward(self.forward_norm(x)))


class DecoderBlock(nn.Module):
    """Causal self-attention over the slots of one target, then a ``CrossBlock``."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, rotary_base: float) -> None:
        super().__init__()
        self.own_norm = nn.LayerNorm(width)
        self.own = RotarySelfAttention(width, heads, rotary_base)
        self.outer = CrossBlock(width, heads, hidden, dropout, rotary_base)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Memory, place: Tensor) -> Tensor:
        """All slots at once: ``x [M, slots, width]``, ``M`` targets of ``B`` histories in order, ``place`` int64
        ``[1, M / B * slots]``."""
        x = self.dropout.added_to(x, self.own(self.own_norm(x)))
        return self.outer(x.view(len(memory.keys), -1, x.shape[2]), memory, place).view_as(x)

    def step(self, x: Tensor, memory: Memory, place: Tensor, cache: SlotCache | None) -> tuple[Tensor, SlotCache]:
        """The next slot of ``W`` hypotheses: ``x [B, W, width]``, ``place`` int64 ``[B, 1]`` and the cache of the slots
        before (``None`` for the first); equals ``forward`` on the whole."""
        own, (batch, width, size) = self.own, x.shape
        slot = 0 if cache is None else cache.keys.shape[2]
        normed = self.own_norm(x)
        angles = rotary_angles(slot + 1, size // own.heads, own.base, x.device)[slot:]
        q = rotate(own.query(normed).view(batch * width, 1, own.heads, -1), angles).view(batch, width, own.heads, -1)
        k, v = own.key_value(normed).view(batch * width, 2, own.heads, -1).unbind(1)
        k = rotate(k[:, None], angles).view(batch, width, 1, own.heads, -1)
        v = v.reshape(batch, width, 1, own.heads, -1)
        if cache is not None:
            k, v = torch.cat([cache.keys, k], 2), torch.cat([cache.values, v], 2)
        weights = torch.softmax(torch.einsum("bwhd,bwshd->bwhs", q, k) * q.shape[-1] ** -0.5, -1)
        mixed = torch.einsum("bwhs,bwshd->bwhd", weights, v).reshape(batch, width, size)
        return self.outer(self.dropout.added_to(x, own.output(mixed)), memory, place), SlotCache(k, v)


class SetDecoder(nn.Module):
    """Any position of a target from any set of fixed ones: one cross-attention layer to the history.

    The query of a row is the state of the newest item it sees, plus ``sqrt(width)`` times the sum of the fixed codes'
    vectors (a learned start where nothing is fixed). Without the state the layer first has to learn which item is the
    newest, and trains several times slower; the root brings codes to the scale of normalised states.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(width))
        self.block = CrossBlock(width, heads, 5 * width, dropout, rotary_base=1e4)
        self.final_norm = nn.LayerNorm(width)

    def forward(self, state: Tensor, fixed: Tensor, empty: Tensor, memory: Memory, place: Tensor) -> Tensor:
        """``[B, R, width]`` from states ``[B, R or 1, width]``, sums of fixed codes ``[B, R, width]``, bool ``[B, R]``
        where nothing is fixed, and the place int64 ``[B or 1, R or 1]`` of each row in its history."""
        codes = torch.where(empty[:, :, None], self.start.to(fixed.dtype), fixed)
        made: Tensor = self.final_norm(self.block(state + codes * codes.shape[2] ** 0.5, memory, place))
        return made

    def given_earlier(self, hidden: Tensor, codes: Tensor, turn: Tensor) -> Tensor:
        """``[B * T, L, width]`` for one target a place, each position given those of an earlier turn.

        hidden ``[B, T, width]``; codes ``[B * T, L, width]`` vectors of the targets' codes; turn int64 ``[B * T, L]`` a
        permutation of ``0..L-1`` each.
        """
        (batch, length, width), positions = hidden.shape, turn.shape[1]
        earlier = (turn[:, None, :] < turn[:, :, None]).to(codes.dtype)  # (target, position, fixed one)
        fixed = torch.bmm(earlier, codes).view(batch, -1, width)
        state = hidden[:, :, None].expand(-1, -1, positions, -1).reshape(batch, -1, width)
        place = torch.arange(length, device=hidden.device).repeat_interleave(positions)[None]
        memory = self.block.cross.memory(hidden)
        return self(state, fixed, (turn == 0).view(batch, -1), memory, place).view_as(codes)
