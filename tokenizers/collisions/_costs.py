"""What another code of the last position would cost an item: from the tokenizer itself, else estimated from features.

The estimate fits every tokenizer, even random codes. ``x`` is the item's content, all content modalities concatenated
(behaviour where there is no content). What the other positions say is taken away: for ordered SIDs the mean of the
item's prefix group; for unordered ones the additive least-squares fit ``sum_p m_p(c_p)`` over the other positions
(backfitting). The cost of code k is the squared distance from this residual to the mean residual of the items with
code k. Items alone in their prefix group say nothing about the last position of ordered SIDs (their residual is 0) and
are left out of the means. A code without any item gets the mean of all items with a code, which claims nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from scipy import sparse

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer
from sidbench.tokenizers.collisions._groups import group_ids, last_used, prefix_ids

BLOCK_ROWS = 8192
SWEEPS = 5  # of backfitting: enough to start from, the fit is an estimate anyway


class Costs:
    """Costs float32 ``[n, K]`` of giving chosen items each code of the last used position, computed when asked for.

    ``source`` says where they come from once they were: "tokenizer" or "estimated", "" before. ``tokenizer`` must be
    fitted; ``None`` always estimates.
    """

    def __init__(
        self, sids: SemanticIds, features: ItemFeatures, tokenizer: Tokenizer | None = None, runtime: Runtime | None = None
    ) -> None:
        self.sids, self.features, self.tokenizer, self.runtime = sids, features, tokenizer, runtime
        self.position = last_used(sids.codes)
        self.size = int(sids.sizes[self.position])
        self.source = ""

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Costs of the items ``rows`` int ``[n]``.

        Raises ``InputError`` when there is nothing to estimate from, ``StageError`` for costs that are not usable.
        """
        if not len(rows):
            return np.zeros((0, self.size), np.float32)
        return np.concatenate([self._block(rows[i : i + BLOCK_ROWS]) for i in range(0, len(rows), BLOCK_ROWS)])

    def of_groups(self, groups: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each group of items with its costs ``[n, K]``; groups are asked for together, since one call costs a lot."""
        start = 0
        while start < len(groups):
            end, total = start + 1, len(groups[start])
            while end < len(groups) and total + len(groups[end]) <= BLOCK_ROWS:
                total, end = total + len(groups[end]), end + 1
            table = self.of(np.concatenate(groups[start:end]))
            ends = np.cumsum([len(g) for g in groups[start:end]])
            yield from zip(groups[start:end], np.split(table, ends[:-1]), strict=True)
            start = end

    def totals(self, rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> tuple[float, float]:
        """Summed costs of codes ``old`` and ``new`` int ``[n]`` of the items ``rows``."""
        before = after = 0.0
        for i in range(0, len(rows), BLOCK_ROWS):
            part = self._block(rows[i : i + BLOCK_ROWS]).astype(np.float64)
            index = np.arange(len(part))
            before += float(part[index, old[i : i + BLOCK_ROWS]].sum())
            after += float(part[index, new[i : i + BLOCK_ROWS]].sum())
        return before, after

    def _block(self, rows: np.ndarray) -> np.ndarray:
        found = self._own(rows) if self.source != "estimated" else None
        if found is None:
            self.source, found = "estimated", self._estimated(rows)
        if found.shape != (len(rows), self.size) or not np.isfinite(found).all():
            raise StageError(
                f"collision costs ({self.source}) must be finite of shape ({len(rows)}, {self.size}), got {found.shape}."
            )
        return found.astype(np.float32, copy=False)

    def _own(self, rows: np.ndarray) -> np.ndarray | None:
        last = self.position == self.sids.code_length - 1  # the tokenizer's distances are those of its last position
        if self.tokenizer is None or self.runtime is None or not last:
            return None
        found = self.tokenizer.code_costs(self.features.take(rows), self.runtime)
        self.source = "" if found is None else "tokenizer"
        return found

    def _estimated(self, rows: np.ndarray) -> np.ndarray:
        residual, means = self._fit
        x = residual[rows]
        squared = (x * x).sum(1)[:, None] - 2 * (x @ means.T) + (means * means).sum(1)
        return np.maximum(squared, 0)

    @cached_property
    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Residuals float64 ``[N, D]`` given the other positions, and their mean per code ``[K, D]``."""
        names = self.features.content_names() or [m for m in ("behaviour",) if m in self.features.modalities]
        if not names:
            raise InputError(
                "collision costs",
                got="neither content nor behaviour embeddings to estimate them from",
                wanted="at least one modality",
                do="use --collisions append, which needs no costs",
            )
        x = self.features.concatenated(names).astype(np.float64)
        codes = self.sids.codes[:, self.position]
        if self.sids.ordered:
            groups = prefix_ids(self.sids.codes)
            residual = x - _means(groups, x)[groups]
            informative = np.bincount(groups)[groups] > 1
        else:
            residual = _additive_residual(x, np.delete(self.sids.codes, self.position, axis=1))
            informative = np.ones(len(x), bool)
        known = informative & (codes != PAD)
        fallback = residual[known].mean(0) if known.any() else np.zeros(x.shape[1])
        means = np.tile(fallback, (self.size, 1))
        present = np.unique(codes[known])
        means[present] = _means(np.searchsorted(present, codes[known]), residual[known])
        return residual, means


def _means(ids: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean float64 ``[G, D]`` of the rows of each group (dense ids ``[n]``)."""
    counts = np.bincount(ids)
    chosen = sparse.csr_matrix((np.ones(len(ids)), (ids, np.arange(len(ids)))), shape=(len(counts), len(ids)))
    return np.asarray(chosen @ x) / np.maximum(counts, 1)[:, None]


def _additive_residual(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """``x`` minus its additive least-squares fit from codes int ``[N, P]`` (PAD counts as a code), by backfitting."""
    columns = [group_ids(codes[:, p : p + 1]) for p in range(codes.shape[1])]
    residual = x - x.mean(0)
    for _ in range(SWEEPS):
        for ids in columns:
            residual = residual - _means(ids, residual)[ids]
    return residual
