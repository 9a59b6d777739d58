"""No policy: items may share a SID, and metrics score all items of a SID alike."""

from __future__ import annotations

from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.collisions.base import CollisionInfo, CollisionPolicy, Costs, Resolved, unchanged

INFO = CollisionInfo(
    title="None: items may share a SID",
    version=1,
    source="RPG, arXiv 2506.05781",
    url="https://arxiv.org/abs/2506.05781",
    bibtex="@misc{rpg2025,\n"
    "  title={Generating Long Semantic IDs in Parallel for Recommendation}, year={2025},\n"
    "  eprint={2506.05781}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2506.05781}}",
)


class NoPolicy(CollisionPolicy):
    """Leaves the SIDs as they are; the pipeline then has no collision stage at all."""

    info = INFO

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        return unchanged(sids)
