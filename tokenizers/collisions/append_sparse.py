"""Append where needed: the rank token of ``append`` only for items that share their SID, PAD for all others.

The SIDs become variable in length, as in the constrained residual k-means of MiniOneRec. Without any collision there is
no token and the SIDs stay as they are.
"""

from __future__ import annotations

import numpy as np

from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.collisions._groups import group_ids
from sidbench.tokenizers.collisions.base import CollisionInfo, CollisionPolicy, Costs, Resolved, appended, unchanged

INFO = CollisionInfo(
    title="Append where needed: rank token for colliding items only",
    version=1,
    source="MiniOneRec, arXiv 2510.24431",
    url="https://arxiv.org/abs/2510.24431",
    bibtex="@misc{minionerec2025,\n"
    "  title={MiniOneRec: An Open-Source Framework for Scaling Generative Recommendation}, year={2025},\n"
    "  eprint={2510.24431}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2510.24431}}",
    unique=True,
    adds=True,
    deviations=("Ranks start at 0 and follow the order of the catalogue.",),
)


class AppendSparse(CollisionPolicy):
    """Only items in collision get the token."""

    info = INFO

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        ids = group_ids(sids.codes)
        shared = np.bincount(ids)[ids] > 1
        if not shared.any():
            return unchanged(sids)
        ranks = group_ranks(ids)
        return appended(sids, np.where(shared, ranks, PAD), int(ranks.max()) + 1, "collision rank")
