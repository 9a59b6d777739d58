"""A catalogue by distinct SID for models that have one vector a SID, and the ranks that scores of SIDs give to items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.blocks.exact import Candidates, rank_interval
from sidbench.recommenders.blocks.sid_tables import CodeLayout, weights_of_codes
from sidbench.tokenizers.base import SemanticIds

PIECE = 1 << 16  # SIDs whose code embeddings are summed at once


@dataclass(frozen=True)
class DistinctClasses:
    """Distinct SIDs as classes, on the device.

    rows: int64 ``[U, L]`` fused rows (see ``CodeLayout``). weights: float32 ``[U, L]`` of the codes, or ``None`` for ones.
    group: float32 ``[U]`` items that share a SID. of_item: int64 ``[N]`` (host) class of each item.
    """

    rows: Tensor
    weights: Tensor | None
    group: Tensor
    of_item: np.ndarray

    @staticmethod
    def of(layout: CodeLayout, sids: SemanticIds, weighted: bool, who: str, runtime: Runtime) -> DistinctClasses:
        """Group the items of a catalogue by SID. ``weighted``: with the mean weights of the items of a SID.

        Raises ``InputError`` for codes that do not fit the layout, and for SIDs without weights if they are asked for.
        """
        codes, of_item = sids.distinct()
        group = np.bincount(of_item)
        weights = None
        if weighted:
            total = np.zeros(codes.shape)
            np.add.at(total, of_item, weights_of_codes(sids, who))
            weights = runtime.tensor((total / group[:, None]).astype(np.float32))
        return DistinctClasses(
            runtime.tensor(layout.rows(codes)), weights, runtime.tensor(group.astype(np.float32)), of_item
        )

    def at(self, classes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows and weights of ``classes`` int64 ``[C]``."""
        return self.rows[classes], None if self.weights is None else self.weights[classes]

    def table(self, vectors: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """float ``[U, width]`` vectors of all classes, made from rows and weights in pieces."""
        pieces = torch.arange(len(self.rows), device=self.rows.device).split(PIECE)
        return torch.cat([vectors(*self.at(piece)) for piece in pieces])

    def rank(self, scores: Tensor, users: np.ndarray, candidates: Candidates, runtime: Runtime) -> TargetRanks:
        """Rank intervals of the targets of ``users`` from scores float32 ``[B, U]`` of all classes."""
        index = torch.arange(len(users), device=scores.device)
        target = scores[index, runtime.tensor(self.of_item[candidates.targets[users]])]
        column, item = candidates.masked(users)
        column_t = runtime.tensor(column)
        seen = scores[column_t, runtime.tensor(self.of_item[item])]
        above, tied = (self._counts(mask) for mask in (scores > target[:, None], scores == target[:, None]))
        return rank_interval(above, tied, target, seen, column_t, len(self.of_item), len(self.rows))

    def _counts(self, mask: Tensor) -> Tensor:
        """int64 ``[2, B]``: classes and items of ``mask`` bool ``[B, U]``; exact in float32 up to 2^24 items."""
        return torch.stack([torch.count_nonzero(mask, dim=1), (mask.float() @ self.group).long()])
