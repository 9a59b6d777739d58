"""Balanced assignment of a batch to codes: the argmax of an entropic transport plan (Sinkhorn-Knopp).

As in the last level of LC-Rec (arXiv 2311.09049) and LETTER (arXiv 2405.07314). With the distances ``D [B, K]`` of a
batch, centred to [-1, 1] by ``(D - mid) / (max - mid + 1e-5)``, ``mid = (max + min) / 2``, start from ``Q = exp(-D / eps)``
and repeat: divide columns so that they sum to 1/K, then rows so that they sum to 1/B. The code is ``argmax_k Q``. The
batch is balanced approximately; there is no hard capacity.

``Q`` always is ``diag(u) exp(-D / eps) diag(v)``, so only the vectors move (``v = 1 / (K Q0^T u)``,
``u = 1 / (B Q0 v)``): two matrix-vector products an iteration instead of four passes over the matrix, and the same
numbers. Float64 is needed, not a habit: at eps = .003 the entries of ``Q0`` span ``exp(+-333)`` and the scalings that
balance them as much again, far outside float32 even after a shift, and codes that underflow could never be given out.
Below eps = .003 float64 overflows too; there the same iteration runs on logarithms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOWEST_SCALING_EPSILON = 0.003  # u, v and Q0 stay within exp(+-2 / eps) = 1e+-290 of float64's 1e+-308


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """``||x_b - c_k||^2`` ``[B, K]`` of rows ``[B, D]`` and centres ``[K, D]``; never negative."""
    products = torch.addmm((centres * centres).sum(1), x, centres.t(), alpha=-2)
    return products.add_((x * x).sum(1, keepdim=True)).clamp_(min=0)


@torch.no_grad()
def sinkhorn_assign(distances: Tensor, epsilon: float = 0.003, iterations: int = 50) -> Tensor:
    """Codes int64 ``[..., B]`` from finite distances ``[..., B, K]``; leading axes are batches of their own.

    epsilon: entropic regularisation, > 0, in the unit of distances that span [-1, 1]; iterations: at least 1. Equal
    rows get equal codes, ties the first one.
    """
    high, low = distances.amax((-2, -1), keepdim=True), distances.amin((-2, -1), keepdim=True)
    mid = (high + low) / 2
    energy = ((distances - mid) / (high - mid + 1e-5)).double().div_(-epsilon)
    return _by_logarithm(energy, iterations) if epsilon < LOWEST_SCALING_EPSILON else _by_scaling(energy, iterations)


def _by_scaling(energy: Tensor, iterations: int) -> Tensor:
    rows, columns = energy.shape[-2:]
    kernel = energy.exp_()
    u = torch.ones_like(kernel[..., :1])
    for step in range(iterations):
        v = (kernel.mT @ u).mul_(columns).reciprocal_()
        if step + 1 < iterations:  # the last scaling of rows does not change which of their entries is largest
            u = (kernel @ v).mul_(rows).reciprocal_()
    return kernel.mul_(v.mT).argmax(-1)


def _by_logarithm(energy: Tensor, iterations: int) -> Tensor:
    rows, columns = energy.shape[-2:]
    u = torch.zeros_like(energy[..., :1])
    for step in range(iterations):
        v = -math.log(columns) - torch.logsumexp(energy + u, -2, keepdim=True)
        if step + 1 < iterations:
            u = -math.log(rows) - torch.logsumexp(energy + v, -1, keepdim=True)
    return (energy + v).argmax(-1)
