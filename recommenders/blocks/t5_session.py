"""Decoding with ``T5``: one encoder pass a user, shared by all of that user's hypotheses."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.blocks.t5 import START, T5, DecoderLayer


class T5Session:
    """A ``DecodingSession`` of ``B`` users whose vocabulary is the start token, then the fused rows of ``layout``.

    Cross-attention keys and values are kept once a user, and all ``W`` hypotheses ask them in one matrix product a
    head; the cache of decoded positions is the only thing that grows with ``W``. Log-probabilities are normalised over
    the whole vocabulary, other positions' classes and the start token included.

    Parameters: tokens int64 ``[B, S]``, length int64 ``[B]`` tokens that count or ``None`` for all, as in ``T5.encode``.
    """

    def __init__(self, network: T5, layout: CodeLayout, tokens: Tensor, length: Tensor | None, temperature: float) -> None:
        self._network, self._layout = network, layout
        encoded, mask = network.encode(tokens, length)
        self._layers = cast(list[DecoderLayer], list(network.decoder))
        # A layer: [key or value, B, heads, S, head_width].
        self._memory = [layer.cross.keys_values(encoded).permute(2, 0, 3, 1, 4).contiguous() for layer in self._layers]
        self._mask = None if mask is None else mask[:, None, None]
        self._scale = network.shape.width**-0.5 / temperature
        self._cache: list[tuple[Tensor, Tensor]] = []  # a layer: keys, values [B * W, heads, positions, head_width]
        self._position, self._beams = 0, 1

    @torch.no_grad()
    def step(self, parent: Tensor | None, classes: Tensor | None) -> Tensor:
        """See ``DecodingSession.step``."""
        network, position, batch = self._network, self._position, self._memory[0].shape[1]
        if parent is None or classes is None:
            tokens = torch.full((batch, 1), START, dtype=torch.int64, device=network.shared.device)
        else:
            tokens = classes + (1 + int(self._layout.offsets[position - 1]))
            first = torch.arange(batch, device=parent.device)[:, None] * self._beams
            rows = (parent + first).view(-1)
            self._cache = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self._cache]
        self._beams = tokens.shape[1]
        bias = network.decoder_bias(position + 1, position)[None]  # [1, heads, 1, positions]
        x = F.embedding(tokens, network.shared)
        for at, layer in enumerate(self._layers):
            x = x + self._attend_to_self(at, x, bias)
            x = x + self._attend_to_user(at, x)
            x = x + layer.forwards(x)
        self._position += 1
        logits = (network.decoder_norm(x) * self._scale) @ network.shared.T
        begin, end = (1 + int(o) for o in self._layout.offsets[position : position + 2])
        return logits[..., begin:end] - torch.logsumexp(logits, -1, keepdim=True)

    def _attend_to_self(self, at: int, x: Tensor, bias: Tensor) -> Tensor:
        """One query a hypothesis against its own few positions: too small for matrix products, so multiply and sum."""
        attention = self._layers[at].attention
        normed = attention.norm(x)
        q, k, v = (
            part.flatten(0, 1).unsqueeze(2)  # [B * W, heads, 1, head_width]
            for part in (attention.queries(normed), *attention.keys_values(normed).unbind(2))
        )
        if at < len(self._cache):
            k, v = (torch.cat(pair, 2) for pair in zip(self._cache[at], (k, v), strict=True))
            self._cache[at] = (k, v)
        else:
            self._cache.append((k, v))
        weights = torch.softmax((q * k).sum(-1) + bias[:, :, 0], -1)
        mixed: Tensor = attention.output((weights[..., None] * v).sum(2).view(*x.shape[:2], -1))
        return mixed

    def _attend_to_user(self, at: int, x: Tensor) -> Tensor:
        cross = self._layers[at].cross
        scores = cross.queries(cross.norm(x)).transpose(1, 2) @ self._memory[at][0].transpose(2, 3)  # [B, heads, W, S]
        if self._mask is not None:
            scores += self._mask
        mixed = torch.softmax(scores, -1) @ self._memory[at][1]
        out: Tensor = cross.output(mixed.transpose(1, 2).flatten(2))
        return out
