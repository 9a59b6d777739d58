"""A T5 encoder-decoder for token sequences of known length: the sequence model of TIGER.

Source: T5, arXiv 1910.10683, sec. 2.1. Pre-norm blocks without biases, RMS norms, unscaled dot-product attention with
a learned bias per head and distance bucket that all layers of a stack share, ReLU feed-forward, one embedding table for
encoder, decoder and (scaled by ``width^-1/2``) the output layer.

Keys and values of a layer come from one product; otherwise the parameters are T5's own, entry by entry (``_names``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.biased_attention import attend, relu_dropout
from sidbench.recommenders.blocks.exact import softmax_loss
from sidbench.recommenders.blocks.transformer import Dropout

START = 0
BUCKETS, MAX_DISTANCE = 32, 128


@dataclass(frozen=True)
class T5Shape:
    """Sizes: vocabulary with the start token 0, model width, heads of ``head_width``, feed-forward ``hidden``, layers."""

    vocabulary: int
    width: int
    heads: int
    head_width: int
    hidden: int
    encoder_layers: int
    decoder_layers: int

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_width


def distance_buckets(bidirectional: bool) -> np.ndarray:
    """int64 ``[2 MAX_DISTANCE + 1]`` bucket of each distance key - query from -MAX_DISTANCE to MAX_DISTANCE.

    Near distances own a bucket each, farther ones share logarithmically wider ones; all beyond ``MAX_DISTANCE`` share
    the last. Bidirectional attention splits the buckets between before and after; causal attention has no after.
    Float32 as in T5: a few distances lie exactly on a boundary.
    """
    distance = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
    count = BUCKETS // 2 if bidirectional else BUCKETS
    away = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
    exact = count // 2
    growth = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(MAX_DISTANCE / exact))
    far = np.minimum(exact + (growth * np.float32(count - exact)).astype(np.int64), count - 1)
    bucket = np.where(away < exact, away, far)
    return bucket + np.where(distance > 0, count, 0) if bidirectional else bucket


class RmsNorm(nn.Module):
    """``x / rms(x) * weight``: no mean, no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that ends in ``width``."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class RelativeBias(nn.Module):
    """Learned bias per head and distance bucket."""

    bucket_of: Tensor

    def __init__(self, heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(BUCKETS, heads))
        self.register_buffer("bucket_of", torch.as_tensor(distance_buckets(bidirectional)), persistent=False)

    def forward(self, length: int, first_query: int = 0) -> Tensor:
        """``[heads, length - first_query, length]`` for queries ``first_query .. length - 1`` and all keys."""
        position = torch.arange(length, device=self.table.device)
        distance = position - position[first_query:, None]
        bucket = self.bucket_of[distance.clamp(-MAX_DISTANCE, MAX_DISTANCE) + MAX_DISTANCE]
        return F.embedding(bucket, self.table).permute(2, 0, 1)


class FeedForward(nn.Module):
    """``W_down dropout(relu(W_up norm(x)))``."""

    def __init__(self, shape: T5Shape, dropout: Dropout) -> None:
        super().__init__()
        self.norm = RmsNorm(shape.width)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width] -> [..., width]``, the branch alone."""
        return self.down(relu_dropout(self.up(self.norm(x)), self.dropout))


class Attention(nn.Module):
    """Attention of normalised states to a context: themselves, or the encoder's output."""

    def __init__(self, shape: T5Shape, dropout: Dropout) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = RmsNorm(shape.width)
        self.query = nn.Linear(shape.width, shape.inner, bias=False)
        self.key_value = nn.Linear(shape.width, 2 * shape.inner, bias=False)
        self.output = nn.Linear(shape.inner, shape.width, bias=False)
        self.dropout = dropout

    def queries(self, normed: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, heads, head_width]``."""
        return self.query(normed).view(*normed.shape[:2], self.heads, -1)

    def keys_values(self, context: Tensor) -> Tensor:
        """``[B, S, width] -> [B, S, 2, heads, head_width]``."""
        return self.key_value(context).view(*context.shape[:2], 2, self.heads, -1)

    def forward(self, x: Tensor, context: Tensor | None, bias: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """The branch alone, ``[B, T, width]``; ``context`` ``[B, S, width]``, or ``None`` for the states themselves."""
        normed = self.norm(x)
        keys_values = self.keys_values(normed if context is None else context)
        return self.output(attend(self.queries(normed), keys_values, bias, key_mask, self.dropout))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, shape: T5Shape, dropout: Dropout) -> None:
        super().__init__()
        self.attention = Attention(shape, dropout)
        self.forwards = FeedForward(shape, dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, bias: Tensor, key_mask: Tensor | None) -> Tensor:
        """``[B, S, width] -> [B, S, width]``."""
        x = self.dropout.added_to(x, self.attention(x, None, bias, key_mask))
        return self.dropout.added_to(x, self.forwards(x))


class DecoderLayer(nn.Module):
    """Self-attention under a bias that also holds the causal mask, attention to the encoder's output, feed-forward."""

    def __init__(self, shape: T5Shape, dropout: Dropout) -> None:
        super().__init__()
        self.attention = Attention(shape, dropout)
        self.cross = Attention(shape, dropout)
        self.forwards = FeedForward(shape, dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, encoded: Tensor, bias: Tensor, key_mask: Tensor | None) -> Tensor:
        """``[B, L, width] -> [B, L, width]``."""
        x = self.dropout.added_to(x, self.attention(x, None, bias, None))
        x = self.dropout.added_to(x, self.cross(x, encoded, None, key_mask))
        return self.dropout.added_to(x, self.forwards(x))


class T5(nn.Module):
    """The network. Encoder inputs are tokens int64 ``[B, S]``, left-aligned; ``length`` int64 ``[B]`` >= 1 of them
    count, or all where ``length`` is ``None``."""

    def __init__(self, shape: T5Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = Dropout(dropout)
        self.shared = nn.Parameter(torch.zeros(shape.vocabulary, shape.width))
        self.encoder_bias = RelativeBias(shape.heads, bidirectional=True)
        self.encoder = nn.ModuleList(EncoderLayer(shape, self.dropout) for _ in range(shape.encoder_layers))
        self.encoder_norm = RmsNorm(shape.width)
        self.decoder_bias = RelativeBias(shape.heads, bidirectional=False)
        self.decoder = nn.ModuleList(DecoderLayer(shape, self.dropout) for _ in range(shape.decoder_layers))
        self.decoder_norm = RmsNorm(shape.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """T5's own scales: fan-in normal matrices, queries also divided by sqrt(head_width) as attention is unscaled,
        unit-variance embeddings, unit norms."""
        shape = self.shape
        self.shared.normal_(0.0, 1.0, generator=generator)
        for module in self.modules():
            if isinstance(module, RelativeBias):
                module.table.normal_(0.0, shape.width**-0.5, generator=generator)
            elif isinstance(module, RmsNorm):
                module.weight.fill_(1.0)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
        for module in self.modules():
            if isinstance(module, Attention):
                module.query.weight *= shape.head_width**-0.5

    def encode(self, tokens: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encoder output ``[B, S, width]`` and the additive key mask ``[B, S]`` (0 or -inf), ``None`` without padding."""
        size = tokens.shape[1]
        mask = None
        if length is not None:
            behind = torch.arange(size, device=tokens.device) >= length[:, None]
            mask = torch.zeros(tokens.shape, device=tokens.device).masked_fill_(behind, -torch.inf)
        bias = self.encoder_bias(size)
        x = self.dropout(F.embedding(tokens, self.shared))
        for layer in self.encoder:
            x = layer(x, bias, mask)
        return self.dropout(self.encoder_norm(x)), mask

    def hidden(self, tokens: Tensor, length: Tensor | None, targets: Tensor) -> Tensor:
        """Decoder states ``[B, L, width]`` that predict each of ``targets`` int64 ``[B, L]`` from those before it,
        scaled for the shared output table."""
        encoded, mask = self.encode(tokens, length)
        inputs = F.pad(targets[:, :-1], (1, 0), value=START)
        size = inputs.shape[1]
        ahead = torch.ones(size, size, dtype=torch.bool, device=tokens.device).triu(1)
        bias = self.decoder_bias(size).masked_fill(ahead, -torch.inf)
        x = self.dropout(F.embedding(inputs, self.shared))
        for layer in self.decoder:
            x = layer(x, encoded, bias, mask)
        return self.dropout(self.decoder_norm(x)) * self.shape.width**-0.5

    def loss(self, tokens: Tensor, length: Tensor | None, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Mean over rows and positions of ``-log softmax(logits / temperature)`` over the whole vocabulary."""
        hidden = self.hidden(tokens, length, targets).flatten(0, 1)
        return softmax_loss(hidden / temperature, self.shared, targets.flatten())


def _names(shape: T5Shape) -> dict[str, tuple[str, ...]]:
    """Our entry -> the entries of transformers' ``T5ForConditionalGeneration`` it is stacked from, along rows."""
    names: dict[str, tuple[str, ...]] = {"shared": ("shared.weight",)}
    for stack, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        names[f"{stack}_norm.weight"] = (f"{stack}.final_layer_norm.weight",)
        names[f"{stack}_bias.table"] = (f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",)
        blocks = [("attention", "SelfAttention"), ("cross", "EncDecAttention"), ("forwards", "DenseReluDense")]
        if stack == "encoder":
            del blocks[1]
        for layer, (at, (ours, theirs)) in product(range(layers), enumerate(blocks)):
            mine, other = f"{stack}.{layer}.{ours}", f"{stack}.block.{layer}.layer.{at}"
            parts = {"up": "wi", "down": "wo"} if ours == "forwards" else {"query": "q", "key_value": "kv", "output": "o"}
            names[f"{mine}.norm.weight"] = (f"{other}.layer_norm.weight",)
            for name, stacked in parts.items():
                names[f"{mine}.{name}.weight"] = tuple(
                    f"{other}.{theirs}.{one}.weight" for one in ([stacked] if ours == "forwards" else stacked)
                )
    return names


TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def to_transformers(state: Mapping[str, Tensor], shape: T5Shape) -> dict[str, Tensor]:
    """A state dict of ``T5`` as one of transformers' ``T5ForConditionalGeneration`` with tied embeddings (ReLU, d_model
    = width, d_kv = head_width, d_ff = hidden, start token 0)."""
    made: dict[str, Tensor] = {}
    for ours, theirs in _names(shape).items():
        made.update(zip(theirs, state[ours].chunk(len(theirs)), strict=True))
    return made | dict.fromkeys(TIED, state["shared"])


def from_transformers(state: Mapping[str, Tensor], shape: T5Shape) -> dict[str, Tensor]:
    """The inverse of ``to_transformers``."""
    return {ours: torch.cat([state[name] for name in theirs]) for ours, theirs in _names(shape).items()}
