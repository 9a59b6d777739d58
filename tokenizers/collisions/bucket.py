"""Bucket: the last code is replaced by an index inside the prefix bucket, running or random.

MBGen (CIKM 2024), and the leaves of hierarchical k-means: the first L - 1 codes place an item, the last one only tells
it from its neighbours. What the last code said is lost, so there is no reconstruction afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.collisions._groups import prefix_ids
from sidbench.tokenizers.collisions._slots import random_slots
from sidbench.tokenizers.collisions.base import (
    CollisionConfig,
    CollisionInfo,
    CollisionPolicy,
    Costs,
    Resolved,
    moved,
)

INFO = CollisionInfo(
    title="Bucket: last code becomes an index inside the prefix bucket",
    version=1,
    source="MBGen, CIKM 2024",
    url="https://arxiv.org/abs/2405.16871",
    bibtex="@misc{liu2024mbgen,\n"
    "  title={Multi-Behavior Generative Recommendation}, author={Liu and others}, year={2024},\n"
    "  eprint={2405.16871}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2405.16871}}",
    unique=True,
    moves=True,
    deviations=(
        "The last position has as many codes as the largest bucket has items; the released MBGen has 128 slots.",
        "Random indices are drawn without replacement, so that a bucket never holds an index twice.",
    ),
)


@dataclass(frozen=True)
class BucketConfig(CollisionConfig):
    """Settings of the bucket index."""

    index: str = setting(
        "running",
        "order of the indices inside a bucket: of the catalogue, or random",
        choices=("running", "random"),
        sweep=("running", "random"),
    )
    slots: int = setting(
        0, "codes of the last position; 0: as many as the largest bucket needs", unit="codes", low=0, high=1 << 20
    )


class Bucket(CollisionPolicy):
    """Every item's last code becomes its index in its bucket, also where the tokenizer gave none."""

    info = INFO
    config_class = BucketConfig
    expected_failures = {"PAD stays": "every item gets an index, also where the tokenizer gave no last code"}

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        ids = prefix_ids(sids.codes)
        ranks = group_ranks(ids)
        largest = int(ranks.max(initial=0)) + 1
        slots = self.config.slots or largest
        if slots < largest:
            raise InputError(
                f"{self.name}: collisions.slots",
                got=slots,
                do=f"set collisions.slots={largest} or 0",
                wanted=f"at least {largest}, the items of the largest bucket",
            )
        column = ranks if self.config.index == "running" else random_slots(ids, ranks, slots, rng)
        return moved(sids, np.asarray(column), None, size=slots, name="index in bucket")
