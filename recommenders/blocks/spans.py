"""Spans: the short sequences of a batch side by side, so that one matrix product serves several of them.

A kernel that treats every (sequence, head) by itself costs more than the arithmetic when sequences hold 2 to 50 items.
Sequences of one batch have one length, so a block-diagonal causal mask keeps them apart: its hidden entries are exact
zeros after the softmax, and the result is that of every sequence alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SPAN = 32


def copies_in_span(batch: int, length: int) -> int:
    """How many of ``batch`` sequences of ``length`` positions lie in one span: the largest divisor of ``batch`` that
    keeps the span within ``SPAN`` positions, at least 1."""
    return next(c for c in range(max(1, min(batch, SPAN // length)), 0, -1) if batch % c == 0)


@lru_cache(maxsize=64)
def span_mask(length: int, copies: int, device: torch.device) -> Tensor:
    """Additive float32 ``[copies * length, copies * length]`` of 0 and -inf: each position sees its own sequence up to
    itself."""
    position = torch.arange(copies * length, device=device)
    visible = (position[:, None] // length == position // length) & (position[:, None] >= position)
    return torch.zeros(visible.shape, device=device).masked_fill_(~visible, -torch.inf)
