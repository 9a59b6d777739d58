"""Unscaled attention under an additive bias, and ReLU with dropout, in forms that spare the CPU memory traffic.

torch's CPU kernels do not differentiate by the bias and fall back to a chain of copies; the one pass here keeps the
softmax in one buffer and takes its gradient in closed form. Other devices use ``scaled_dot_product_attention``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.recommenders.blocks.transformer import Dropout


def attend(q: Tensor, kv: Tensor, bias: Tensor | None, key_mask: Tensor | None, dropout: Dropout) -> Tensor:
    """``softmax(q k^T + bias + key_mask) v`` with dropout on the weights, ``[B, T, heads * width]``.

    ``q`` ``[B, T, heads, width]``; ``kv`` ``[B, S, 2, heads, width]`` keys, values; ``bias`` ``[heads, T, S]``;
    ``key_mask`` ``[B, S]`` of 0 and -inf. Every query needs a visible key.
    """
    if q.device.type == "cpu":
        mixed: Tensor = _Attention.apply(q.float(), kv.float(), bias, key_mask, dropout)
        return mixed
    q, (k, v) = q.transpose(1, 2), (part.transpose(1, 2) for part in kv.unbind(2))
    mask = None if key_mask is None else key_mask[:, None, None]
    if bias is not None:
        mask = bias[None] if mask is None else bias + mask
    if mask is not None:
        mask = mask.to(q.dtype).expand(len(q), q.shape[1], q.shape[2], k.shape[2])
    rate = dropout.dropped / 256 if dropout.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, mask, rate, scale=1.0).transpose(1, 2).flatten(2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, bias: Tensor | None, key_mask: Tensor | None, dropout: Dropout) -> Tensor:
        batch, length, heads, width = q.shape
        with torch.autocast("cpu", enabled=False):
            q = q.transpose(1, 2).reshape(batch * heads, length, width)
            kv = kv.permute(2, 0, 3, 1, 4).reshape(2, batch * heads, -1, width)
            weights = torch.bmm(q, kv[0].transpose(1, 2))
            by_head = weights.view(batch, heads, length, -1)
            if bias is not None:
                by_head += bias
            if key_mask is not None:
                by_head += key_mask[:, None, None]
            torch.softmax(weights, -1, out=weights)
            kept = dropout.mask(weights) if dropout.training and dropout.dropped else None
            mixed = torch.bmm(weights if kept is None else weights * kept, kv[1])
        ctx.save_for_backward(q, kv, weights, mixed, *(() if kept is None else (kept,)))
        ctx.shape, ctx.biased = (batch, length, heads, width), bias is not None
        return mixed.view(batch, heads, length, width).transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, weights, mixed, *rest = ctx.saved_tensors
        batch, length, heads, width = ctx.shape
        with torch.autocast("cpu", enabled=False):
            grad = grads[0].view(ctx.shape).transpose(1, 2).reshape(q.shape)
            kv_grad = torch.empty_like(kv)
            torch.bmm((weights * rest[0] if rest else weights).transpose(1, 2), grad, out=kv_grad[1])
            scores = torch.bmm(grad, kv[1].transpose(1, 2))
            if rest:
                scores *= rest[0]
            # Softmax: dS = W * (dW - rowsum(dW * W)), and rowsum(dW * W) = rowsum(d_out * out), dropout included.
            scores -= (grad * mixed).sum(-1, keepdim=True)
            scores *= weights
            bias = scores.view(batch, -1).sum(0).view(heads, length, -1) if ctx.biased else None
            torch.bmm(scores.transpose(1, 2), q, out=kv_grad[0])
            q_grad = torch.bmm(scores, kv[0]).view(batch, heads, length, width).transpose(1, 2)
            kv_grad = kv_grad.view(2, batch, heads, -1, width).permute(1, 3, 0, 2, 4)
        return q_grad.contiguous(), kv_grad.contiguous(), bias, None, None


def relu_dropout(x: Tensor, dropout: Dropout) -> Tensor:
    """``dropout(relu(x))``; ``x`` is overwritten, so it must be a fresh tensor that nothing else reads."""
    y: Tensor = _ReluDropout.apply(x, dropout)
    return y


class _ReluDropout(torch.autograd.Function):
    """Saves its result alone: where that is positive, the slope is the scale of the kept ones, elsewhere 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_min_(0)
        ctx.scale = 1.0
        if dropout.training and dropout.dropped:
            x.mul_(dropout.mask(x))
            ctx.scale = 256 / (256 - dropout.dropped)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        slope = torch.ops.aten.threshold_backward(grads[0], y, 0)
        return slope if ctx.scale == 1.0 else slope.mul_(ctx.scale), None
