"""Diversity of codebooks: each code is drawn to the codes of its group and pushed from all others (LETTER).

Wang et al., arXiv 2405.07314, section 3.1: the codes of a level are grouped by k-means with bounded group sizes, and

    L_div = - mean_i log [ exp(<e_c, e_+>) / sum_{k != c} exp(<e_c, e_k>) ],    c = c_i,

where ``e_+`` is another code of c's group. The logarithm is linear in ``e_+``, so its mean over the group replaces the
draw: the same expectation and expected gradient, without noise, and ``K x K`` products a level serve every item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.clustering.bounded_kmeans import bounded_assignment, bounded_kmeans

GROUPS = 10
ITERATIONS = 10


def group_sizes(size: int) -> tuple[int, int, int]:
    """(groups, least and largest codes a group) of a codebook of ``size`` >= 2 codes.

    10 groups of ``min(K // 20, 10)`` to twice the even share of codes; a group of one code would have no ``e_+``, so two
    is the least, and small codebooks have fewer groups.
    """
    groups = min(GROUPS, size // 2)
    return groups, max(2, min(size // 20, 10)), max(2, -(-2 * size // groups))


def diversity_loss(codes: Tensor, codebooks: Tensor, groups: Tensor) -> Tensor:
    """``L_div``, mean over levels, of codes int64 ``[B, L]`` from codebooks ``[L, K, d]`` with groups int64 ``[L, K]``.

    Gradient reaches the codebooks only. Every group must have two codes or more.
    """
    levels, size, _ = codebooks.shape
    members = F.one_hot(groups).to(codebooks.dtype)  # [L, K, groups]
    fellows = members @ (members.mT @ codebooks) - codebooks  # [L, K, d] sum of the other codes of the group
    drawn = (codebooks * fellows).sum(2) / (members.sum(1).gather(1, groups) - 1)
    itself = torch.eye(size, dtype=torch.bool, device=codebooks.device)
    pushed = torch.logsumexp((codebooks @ codebooks.mT).float().masked_fill(itself, -torch.inf), dim=2)
    flat = (codes + torch.arange(levels, device=codes.device) * size).reshape(-1)
    share = torch.bincount(flat, minlength=levels * size).view(levels, size) / len(flat)
    return (share * (pushed - drawn)).sum()


class CodeGroups:
    """Groups of the codes of every level, brought up to date when another ``every`` steps are over.

    A refresh continues k-means with bounded sizes from the groups as they are, so it is a function of them and of the
    codebooks alone. The state belongs into ``TrainingPlan.extra_state``.

    Parameters: codebooks ``[L, K, d]``, K >= 2. rng, runtime: of the first grouping.
    """

    def __init__(self, codebooks: Tensor, every: int, rng: Rng, runtime: Runtime) -> None:
        self.codebooks, self.every = codebooks, every
        self.count, self.low, self.high = group_sizes(codebooks.shape[1])
        self.periods = 0
        self.groups = torch.stack(
            [
                bounded_kmeans(book, self.count, self.low, self.high, rng.child(level), runtime, iterations=ITERATIONS).codes
                for level, book in enumerate(codebooks.detach())
            ]
        )

    def after_step(self, step: int) -> None:
        """Refresh when a period ended since the last call; steps may come in strides (``--accumulate``)."""
        before, self.periods = self.periods, (step + 1) // self.every
        if self.periods > before:
            self.groups = torch.stack(
                [self._settle(book, groups) for book, groups in zip(self.codebooks.detach(), self.groups, strict=True)]
            )

    def _settle(self, codebook: Tensor, groups: Tensor) -> Tensor:
        for _ in range(ITERATIONS):
            members = F.one_hot(groups, self.count).to(codebook.dtype)
            centres = members.t() @ codebook / members.sum(0)[:, None]
            before, groups = groups, bounded_assignment(codebook, centres, self.low, self.high)[0]
            if torch.equal(before, groups):
                break
        return groups

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"code_groups": self.groups, "code_group_periods": self.periods}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self.groups = state["code_groups"].to(self.codebooks.device).clone()
        self.periods = int(state["code_group_periods"])
