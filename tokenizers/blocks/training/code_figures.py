"""Two figures of SIDs on the way through a training: codes in use and collisions, as the boards define them."""

from __future__ import annotations

import torch
from torch import Tensor

from sidbench.tokenizers.base import PAD


def utilisation(codes: Tensor, size: int) -> float:
    """Share of the codes that occur, mean over positions, of codes int ``[N, L]`` with PAD.

    size: codes of a position, of which as many can occur as rows have one.
    """
    used = [column[column != PAD] for column in codes.t()]
    return sum(len(torch.unique(c)) / max(1, min(size, len(c))) for c in used) / len(used)


def collision_rate(codes: Tensor) -> float:
    """``(N - U) / N`` with ``U`` distinct rows of codes int ``[N, L]``."""
    return 1 - len(torch.unique(codes, dim=0)) / len(codes)
