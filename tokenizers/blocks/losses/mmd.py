"""Maximum mean discrepancy between two batches with one Gaussian kernel.

Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, eq. 5, with the bandwidth of Long et al., arXiv 1502.02791 as
MME-SID (arXiv 2509.02017) uses it: relative to the mean squared distance of the joint batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_mmd(x: Tensor, y: Tensor, bandwidth: float = 0.5) -> Tensor:
    """``MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)`` of batches ``[n, D]`` and ``[m, D]``; scalar in [0, 2].

    ``k(a, b) = exp(-||a - b||^2 / (2 s))``, ``s = bandwidth * mean ||a - b||^2`` over all pairs of the joint batch, each row
    with itself included, and a constant for the gradient. Means include the diagonal (V-statistic): the value is never
    negative and 0 for equal batches. Two batches of one common point give 0.
    """
    inside_x, inside_y, across = _squared_distances(x, x), _squared_distances(y, y), _squared_distances(x, y)
    with torch.no_grad():
        total = inside_x.sum() + inside_y.sum() + 2 * across.sum()
        spread = (2 * bandwidth * total / (len(x) + len(y)) ** 2).clamp(min=torch.finfo(total.dtype).tiny)
    means = [torch.exp(-distances / spread).mean() for distances in (inside_x, inside_y, across)]
    return means[0] + means[1] - 2 * means[2]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``||a_i - b_j||^2`` ``[n, m]`` in float32 or better, never negative."""
    with torch.autocast(a.device.type, enabled=False):  # differences of large products need the digits
        a, b = a if a.dtype == torch.float64 else a.float(), b if b.dtype == torch.float64 else b.float()
        products = torch.addmm((b * b).sum(1), a, b.t(), alpha=-2)
        return (products + (a * a).sum(1, keepdim=True)).clamp(min=0)
