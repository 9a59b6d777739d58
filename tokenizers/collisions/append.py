"""Append: one more token, the 0-based rank of an item among those that share its SID, 0 when it is alone.

TIGER (Rajput et al., arXiv 2305.05065, section 3.1). Ranks follow the catalogue's order. The codebook of the new
position is as large as the largest group, so one crowded SID makes it large for all.
"""

from __future__ import annotations

from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.collisions._groups import group_ids
from sidbench.tokenizers.collisions.base import CollisionInfo, CollisionPolicy, Costs, Resolved, appended

INFO = CollisionInfo(
    title="Append: rank inside the collision group as last token",
    version=1,
    source="TIGER, arXiv 2305.05065",
    url="https://arxiv.org/abs/2305.05065",
    bibtex="@misc{rajput2023tiger,\n"
    "  title={Recommender Systems with Generative Retrieval}, author={Rajput and others}, year={2023},\n"
    "  eprint={2305.05065}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2305.05065}}",
    unique=True,
    adds=True,
    deviations=("Ranks follow the order of the catalogue; the paper states no order.",),
)


class Append(CollisionPolicy):
    """Every item gets the token, so that all SIDs are equally long."""

    info = INFO

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        ranks = group_ranks(group_ids(sids.codes))
        return appended(sids, ranks, int(ranks.max(initial=0)) + 1, "collision rank")
