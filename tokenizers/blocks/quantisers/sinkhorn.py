"""Balanced assignment of a batch to codes: the argmax of an entropic transport plan (Sinkhorn-Knopp).

As in the last level of LC-Rec (arXiv 2311.09049) and LETTER (arXiv 2405.07314). With the distances ``D [B, K]`` of a
batch, centred to [-1, 1] by ``(D - mid) / (max - mid + 1e-5)``, ``mid = (max + min) / 2``, start from ``Q = exp(-D / eps)``
and repeat: divide columns so that they sum to 1/K, then rows so that they sum to 1/B. The code is ``argmax_k Q``. The
batch is balanced approximately; there is no hard capacity.

``Q`` always is ``diag(u) exp(-D / eps) diag(v)``, so only the vectors move: two matrix-vector products an iteration
instead of four passes over the matrix, and the same numbers (Cuturi 2013). At eps = .003 the entries of ``exp(-D / eps)``
span ``exp(+-333)``; so the first of every ``ABSORBED`` iterations (on logarithms where need be) goes into the matrix,
whose rows and columns then all hold large entries, and what is below ``FLOOR`` becomes 0: on Gaussian data 49 further
iterations moved the scalings by exp(+-41) at most, so it does not come back before the next start. Float64 is needed:
float32 ends at exp(+-87) and, shifted, gave other codes to 3 % of the rows there.

With fewer rows than codes, as in a collision group, a row owns several columns whole, all with mass 1/K up to rounding:
``argmax`` alone would choose among them by noise. Of entries within ``TIE`` of a row's largest, the nearest code is taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ABSORBED = 50  # iterations between two starts from logarithms
FLOOR = 1e-200
DIRECT_EPSILON = 0.003  # the ratio of two entries of exp(-D / eps) is at most exp(2 / eps) = 1e290, below 1e308
TIE = 1e-6  # relative


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """``||x_b - c_k||^2`` ``[B, K]`` of rows ``[B, D]`` and centres ``[K, D]``; never negative."""
    products = torch.addmm((centres * centres).sum(1), x, centres.t(), alpha=-2)
    return products.add_((x * x).sum(1, keepdim=True)).clamp_(min=0)


@torch.no_grad()
def sinkhorn_assign(distances: Tensor, epsilon: float = 0.003, iterations: int = 50) -> Tensor:
    """Codes int64 ``[..., B]`` from finite distances ``[..., B, K]``; leading axes are batches of their own.

    epsilon: entropic regularisation, > 0, in the unit of distances that span [-1, 1]; iterations: at least 1. Equal
    rows get equal codes.
    """
    high, low = distances.amax((-2, -1), keepdim=True), distances.amin((-2, -1), keepdim=True)
    mid = (high + low) / 2
    plan = _plan(
        ((distances - mid) / (high - mid + 1e-5)).double().div_(-epsilon), iterations, direct=epsilon >= DIRECT_EPSILON
    )
    best = plan >= plan.amax(-1, keepdim=True) * (1 - TIE)
    return distances.masked_fill(~best, torch.inf).argmin(-1)


def _plan(energy: Tensor, iterations: int, direct: bool) -> Tensor:
    """The plan ``[..., B, K]`` from ``-D / eps``, before its last division of rows: that moves no row's maximum.

    direct: ``exp(-D / eps)`` and its ratios fit into float64, so that the first iteration needs no logarithms.
    """
    rows, columns = energy.shape[-2:]
    log_u = torch.zeros_like(energy[..., :1])
    plan = energy
    for start in range(0, iterations, ABSORBED):
        if start == 0 and direct:
            plan = energy.exp()
            plan /= plan.sum(-2, keepdim=True).mul_(columns)
            row_sums = plan.sum(-1, keepdim=True).mul_(rows)
            plan /= row_sums
            log_u = -row_sums.log_()
        else:
            plan = energy + log_u
            plan -= torch.logsumexp(plan, -2, keepdim=True) + math.log(columns)
            row_sums = torch.logsumexp(plan, -1, keepdim=True) + math.log(rows)
            log_u -= row_sums
            plan = plan.sub_(row_sums).exp_()
        plan.masked_fill_(plan < FLOOR, 0.0)
        u, v = torch.ones_like(log_u), torch.ones_like(plan[..., :1, :]).mT
        for _ in range(start + 1, min(start + ABSORBED, iterations)):
            v = (plan.mT @ u).mul_(columns).reciprocal_()
            u = (plan @ v).mul_(rows).reciprocal_()
        log_u += u.log()
        plan *= v.mT
    return plan
