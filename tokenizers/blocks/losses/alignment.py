"""Alignment of modalities inside a batch: InfoNCE in one and in both directions, and the richness weight of MMQ-v2.

InfoNCE: van den Oord et al. (arXiv 1807.03748); symmetric form as in CLIP (arXiv 2103.00020). Equation numbers are
those of MMQ-v2 (arXiv 2510.25622).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

ABSENT = -1e9  # added to the logits of pairs that do not exist; finite, so that a row without any pair has no NaN


def alignment_weight(richness: Tensor, alpha: float, beta: float) -> Tensor:
    """Alignment strength of each item, eq. 14: ``sigma(alpha N - beta) / sigma(alpha - beta)``.

    richness ``N`` float ``[B]`` in [0, 1]; the result ``[B]`` rises with it and is 1 at ``N = 1``.
    """
    return torch.sigmoid(alpha * richness - beta) * (1 + math.exp(beta - alpha))


def info_nce(anchor: Tensor, other: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding an anchor's own partner among the batch, float ``[B]``; eq. 16, one direction.

    anchor, other: rows of length 1 ``[B, d]``. present: bool ``[B]``, pairs of which both sides exist; the others are
    neither anchors (their loss is 0) nor negatives.
    """
    return _row_cross_entropy(anchor @ other.T / temperature, present)


def symmetric_info_nce(one: Tensor, two: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Sum of both directions of ``info_nce``, float ``[B]``; eq. 15, with the positive in the denominator."""
    similarity = one @ two.T / temperature  # [B, B]
    return _row_cross_entropy(similarity, present) + _row_cross_entropy(similarity.T, present)


def adaptive_alignment(
    projected: Mapping[str, Tensor],
    available: Mapping[str, Tensor],
    weight: Tensor,
    temperature: float,
) -> Tensor:
    """``mean_j (L_content,j + w_j L_align,j)``, eqs. 15-17.

    projected: h_m ``[B, d]`` of "behaviour" and one or two content modalities; available: bool ``[B]`` by modality;
    weight: w ``[B]``, a constant for the gradient. With one content modality L_content is absent.
    """
    h = {m: F.normalize(x, dim=1) for m, x in projected.items()}
    content = [m for m in h if m != "behaviour"]
    h_c = F.normalize(torch.stack([h[m] * available[m][:, None] for m in content]).sum(0), dim=1)
    present = torch.stack([available[m] for m in content]).any(0) & available["behaviour"]
    loss = mean_over(weight * info_nce(h["behaviour"], h_c, present, temperature), present)  # (16)
    if len(content) == 2:
        one, two = content
        both = available[one] & available[two]
        loss = loss + mean_over(symmetric_info_nce(h[one], h[two], both, temperature), both)  # (15)
    return loss


def mean_over(values: Tensor, present: Tensor) -> Tensor:
    """Mean of ``values`` over the entries that are present (bool of the same shape); 0 when none is."""
    return (values * present).sum() / present.sum().clamp(min=1)


def _row_cross_entropy(similarity: Tensor, present: Tensor) -> Tensor:
    """``logsumexp_k s_jk - s_jj`` over present columns; float ``[B]``, 0 in rows that are not present."""
    similarity = similarity.float()
    absent = torch.zeros_like(similarity[0]).masked_fill_(~present, ABSENT)
    return (torch.logsumexp(similarity + absent, dim=1) - similarity.diagonal()) * present
