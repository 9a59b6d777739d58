"""Sinkhorn: items that share a SID are encoded again together, with a balanced assignment at the last position.

LC-Rec (arXiv 2311.09049) and LETTER: in up to 20 rounds every group of items with equal SIDs gets the last codes of an
entropic transport plan between the group and the codebook (see ``blocks/quantisers/sinkhorn.py``). The new codes may
meet those of other items, hence the rounds; items with equal distances can never be told apart. What remains is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sidbench.datasets.foundation.runtime import to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import PAD, SemanticIds
from sidbench.tokenizers.blocks.quantisers.sinkhorn import sinkhorn_assign
from sidbench.tokenizers.collisions._groups import group_ids, last_used
from sidbench.tokenizers.collisions.base import (
    CollisionConfig,
    CollisionInfo,
    CollisionPolicy,
    Costs,
    Resolved,
    collision_rate,
    moved,
)

INFO = CollisionInfo(
    title="Sinkhorn: colliding items encoded again with a balanced last position",
    version=1,
    source="LC-Rec, arXiv 2311.09049; LETTER, arXiv 2405.07314",
    url="https://arxiv.org/abs/2311.09049",
    bibtex="@misc{lcrec2023,\n"
    "  title={Adapting Large Language Models by Integrating Collaborative Semantics for Recommendation},\n"
    "  year={2023}, eprint={2311.09049}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2311.09049}}",
    moves=True,
    deviations=(
        "Any tokenizer: where it has no distances of its own at the last position, they are estimated from features.",
        "Stops before the last round when a round changes nothing, since every further round would repeat it.",
        "The codes of the round with the fewest collisions are kept; a later round may merge groups again.",
    ),
)
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class SinkhornConfig(CollisionConfig):
    """Settings of the Sinkhorn re-encoding."""

    epsilon: float = setting(0.003, "entropic regularisation; distances span [-1, 1]", low=1e-5, high=10, paper=0.003)
    iterations: int = setting(50, "normalisations of columns and rows", low=1, high=10_000, paper=50)
    rounds: int = setting(20, "re-encodings of all colliding groups at most", unit="rounds", low=1, high=1000, paper=20)


class Sinkhorn(CollisionPolicy):
    """Re-encodes colliding groups until none is left, or nothing changes."""

    info = INFO
    config_class = SinkhornConfig

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        position, codes = last_used(sids.codes), sids.codes.copy()
        best, least, rounds, kept = codes[:, position].copy(), collision_rate(codes), 0, 0
        while rounds < self.config.rounds:
            groups = _groups_in_collision(codes, position)
            if not groups:
                break
            before, rounds = codes[:, position].copy(), rounds + 1
            for items, (_, table) in zip(groups, costs.of_groups([g.reshape(-1) for g in groups]), strict=True):
                distances = torch.from_numpy(table.reshape(*items.shape, -1))
                chosen = sinkhorn_assign(distances, self.config.epsilon, self.config.iterations)
                codes[items, position] = to_numpy(chosen)
            if (rate := collision_rate(codes)) < least:
                best, least, kept = codes[:, position].copy(), rate, rounds
            if np.array_equal(before, codes[:, position]):
                break
        notes = [f"{rounds} rounds of Sinkhorn re-encoding, the codes of round {kept} are kept"] if rounds else []
        ids = group_ids(sids.codes)
        if stuck := int(((np.bincount(ids)[ids] > 1) & (sids.codes[:, position] == PAD)).sum()):
            notes.append(f"{stuck} items in collision have no code at the last position and stay as they are")
        return moved(sids, best, costs, notes=notes)


def _groups_in_collision(codes: np.ndarray, position: int) -> list[np.ndarray]:
    """Items of the groups that share a SID and have a code at ``position``: arrays ``[groups, size]`` of equal size."""
    ids = group_ids(codes)
    counts = np.bincount(ids)
    rows = np.flatnonzero((counts[ids] > 1) & (codes[:, position] != PAD))
    rows = rows[np.argsort(ids[rows], kind="stable")]
    sizes = counts[ids[rows]]
    stacks = [rows[sizes == size].reshape(-1, size) for size in np.unique(sizes)]
    return [part for stack in stacks for part in np.array_split(stack, -(-stack.size // BLOCK_ROWS))]
