"""How gradients pass a choice of codes: straight-through, the rotation trick, and soft indices (Gumbel, IBQ).

Straight-through: van den Oord et al. 2017. Rotation trick: Fifty et al., arXiv 2410.06424, section 4. Gumbel-softmax:
Jang et al., arXiv 1611.01144. Index back-propagation: Shi et al., arXiv 2412.02692, and MMQ (arXiv 2508.15281).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """Value of ``quantised``, gradient of the identity on ``x``; both ``[B, d]``."""
    return x + (quantised - x).detach()


def rotate(x: Tensor, quantised: Tensor) -> Tensor:
    """Value of ``quantised``; the gradient on ``x`` is that of the rotation and stretch which maps x onto it.

    ``q = lambda R x`` with ``R = I - 2 r r^T + 2 q_hat x_hat^T``, ``r = (x_hat + q_hat) / ||x_hat + q_hat||`` and
    ``lambda = ||q|| / ||x||``, all constants for the gradient. Both ``[B, d]``. Where x or q is zero there is no rotation
    and the row falls back to straight-through.
    """
    with torch.no_grad():
        norm_x, norm_q = x.norm(dim=1, keepdim=True), quantised.norm(dim=1, keepdim=True)
        defined = (norm_x > 1e-6) & (norm_q > 1e-6)
        x_hat, q_hat = F.normalize(x, dim=1), F.normalize(quantised, dim=1)
        r = F.normalize(x_hat + q_hat, dim=1)
        stretch = norm_q / norm_x.clamp(min=1e-6)
    turned = x - 2 * (x * r).sum(1, keepdim=True) * r + 2 * (x * x_hat).sum(1, keepdim=True) * q_hat
    return torch.where(defined, stretch * turned, straight_through(x, quantised))


ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"ste": straight_through, "rotation": rotate}


def soft_index(scores: Tensor, temperature: float, noisy: bool) -> tuple[Tensor, Tensor]:
    """Codes int64 ``[B]`` and an index ``[B, K]`` whose value is one-hot and whose gradient is that of a softmax.

    ``ind = soft + sg(hard - soft)``, ``soft = softmax(scores / temperature)`` of scores ``[B, K]`` (larger is nearer), so
    that ``ind @ codebook`` moves every code. ``noisy`` adds Gumbel noise to ``scores / temperature``, so that codes are
    draws from their softmax; it comes from torch's generator, which the training loop seeds at every step.
    """
    logits = scores / temperature
    if noisy:
        uniform = torch.rand_like(logits, memory_format=torch.contiguous_format).clamp_(1e-20, 1 - 1e-7)
        logits = logits - torch.log(-torch.log(uniform))
    soft = torch.softmax(logits, dim=1)
    codes = logits.detach().argmax(1)
    hard = F.one_hot(codes, logits.shape[1]).to(soft.dtype)
    return codes, soft + (hard - soft).detach()
