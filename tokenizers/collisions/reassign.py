"""Reassign: inside each prefix group, move as few items as possible to free codes, and these as cheaply as possible.

The zero-collision reassignment of CollisionGenRec. For every prefix group (items with equal codes but the last) the
items in collision and the codes they may take, their own and those nobody uses, form an assignment problem
(Hungarian algorithm) whose cost is first the number of changed items, then the sum of cost(new) - cost(old). An item
whose SID is its own never moves: that would be one change more. With more items than codes in a group, every code gets
an item and the others stay where they are and share.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds
from sidbench.tokenizers.collisions._groups import group_ids, last_used, members, prefix_ids
from sidbench.tokenizers.collisions.base import CollisionInfo, CollisionPolicy, Costs, Resolved, moved

INFO = CollisionInfo(
    title="Reassign: fewest moves to free last codes, then least cost",
    version=1,
    source="CollisionGenRec (ZCR)",
    moves=True,
    deviations=("Costs are the tokenizer's own distances where it has them, else an estimate from the features.",),
)
MOST_CELLS = 50_000_000  # of one assignment problem, 400 MB of costs


class Reassign(CollisionPolicy):
    """Exact minimum-cost reassignment of last codes."""

    info = INFO

    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        position = last_used(sids.codes)
        column = sids.codes[:, position].astype(np.int64)
        size = int(sids.sizes[position])
        full, prefix = group_ids(sids.codes), prefix_ids(sids.codes)
        colliding = (np.bincount(full)[full] > 1) & (column != PAD)
        groups = members(prefix, np.unique(prefix[colliding]))
        inside = [items[colliding[items]] for items in groups]
        crowded = 0
        for items, (movable, table) in zip(groups, costs.of_groups(inside), strict=True):
            free = np.setdiff1d(np.arange(size), column[items[~colliding[items]]])
            crowded += len(movable) > len(free)
            column[movable] = _assign(table[:, free], np.searchsorted(free, column[movable]), free)
        notes = []
        if crowded:
            notes.append(f"{crowded} prefix groups have more items than the {size} codes of the last position")
        if stuck := int(((np.bincount(full)[full] > 1) & (sids.codes[:, position] == PAD)).sum()):
            notes.append(f"{stuck} items in collision have no code at the last position and stay as they are")
        return moved(sids, column, costs, notes=notes)


def _assign(costs: np.ndarray, own: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """New codes int64 ``[m]`` of items with costs ``[m, n]`` over ``codes`` ``[n]``; ``own``: column each has now."""
    if costs.size > MOST_CELLS:
        raise InputError(
            "reassign: a prefix group",
            got=f"{len(costs)} items in collision and {len(codes)} codes",
            wanted=f"at most {MOST_CELLS} pairs to choose from",
            do="use --collisions append, or a tokenizer with more positions",
        )
    extra = costs - costs[np.arange(len(own)), own][:, None].astype(np.float64)
    extra /= max(float(np.abs(extra).max()), 1e-30)  # a change then weighs more than all costs of the group together
    penalty = 2.0 * min(extra.shape) + 1.0
    problem = extra + penalty
    problem[np.arange(len(own)), own] = 0.0
    items, columns = linear_sum_assignment(problem)
    chosen = own.copy()
    chosen[items] = columns  # items beyond the number of codes keep theirs
    return codes[chosen]
