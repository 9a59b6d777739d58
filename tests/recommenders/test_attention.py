"""Spans of short sequences under one mask: the values and gradients of plain causal attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.recommenders.blocks.attention import rotary_angles, rotary_attention, rotate


def plain(packed: Tensor, heads: int, base: float) -> Tensor:
    batch, length, total = packed.shape
    q, k, v = packed.view(batch, length, 3, heads, -1).unbind(2)
    angles = rotary_angles(length, total // (3 * heads), base, packed.device)
    q, k, v = (x.transpose(1, 2) for x in (rotate(q, angles), rotate(k, angles), v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (384, 2), (7, 3), (12, 5), (15, 50), (3, 33), (10, 16)])
def test_spans_equal_plain_attention(batch: int, length: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    packed = torch.randn(batch, length, 3 * 24, generator=generator)
    weight = torch.randn(batch, length, 24, generator=generator)
    ours, theirs = packed.clone().requires_grad_(), packed.clone().requires_grad_()
    left, right = rotary_attention(ours, 3, 100.0), plain(theirs, 3, 100.0)
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    (left * weight).sum().backward()
    (right * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_sequences_of_a_span_do_not_see_each_other() -> None:
    packed = torch.randn(8, 4, 3 * 8, generator=torch.Generator().manual_seed(0))
    changed = packed.clone()
    changed[2] = 1e4
    left, right = rotary_attention(packed, 2, 100.0), rotary_attention(changed, 2, 100.0)
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(left[others], right[others])
