"""Hash slot: one more token, drawn for every item without replacement inside its collision group.

ActionPiece (arXiv 2502.13581). Each group takes the first entries of a random permutation of ``H`` buckets, so that the
token says nothing about the item and all buckets are equally frequent (``append`` gives almost every item the 0).
"""

from __future__ import annotations

from dataclasses import dataclass

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.collisions._groups import group_ids
from sidbench.tokenizers.collisions._slots import random_slots
from sidbench.tokenizers.collisions.base import (
    CollisionConfig,
    CollisionInfo,
    CollisionPolicy,
    Costs,
    Resolved,
    appended,
)

INFO = CollisionInfo(
    title="Hash slot: random token, distinct inside the collision group",
    version=1,
    source="ActionPiece, arXiv 2502.13581",
    url="https://arxiv.org/abs/2502.13581",
    bibtex="@misc{hou2025actionpiece,\n"
    "  title={ActionPiece: Contextually Tokenizing Action Sequences for Generative Recommendation},\n"
    "  author={Hou and others}, year={2025}, eprint={2502.13581}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2502.13581}}",
    unique=True,
    adds=True,
)


@dataclass(frozen=True)
class HashSlotConfig(CollisionConfig):
    """Settings of the hash slot."""

    buckets: int = setting(
        128,
        "codes of the new position, at least the largest collision group",
        unit="codes",
        low=1,
        high=65536,
        paper=128,
        sweep=(64, 128, 256),
    )


class HashSlot(CollisionPolicy):
    """Every item gets a random bucket; items of one group get different ones."""

    info = INFO
    config_class = HashSlotConfig

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        ids = group_ids(sids.codes)
        ranks = group_ranks(ids)
        largest = int(ranks.max(initial=0)) + 1
        if largest > self.config.buckets:
            raise InputError(
                f"{self.name}: collisions.buckets",
                got=self.config.buckets,
                wanted=f"at least {largest}, the items of the largest collision group",
                do=f"set collisions.buckets={1 << (largest - 1).bit_length()}",
            )
        column = random_slots(ids, ranks, self.config.buckets, rng)
        return appended(sids, column, self.config.buckets, "hash slot")
