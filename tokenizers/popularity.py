"""Popularity rank as code: the control that knows how often an item was bought and nothing else.

Items are ranked by training interactions, most first, ties by row number, items without any at the end. The ranking is cut
into K ranges of equal length, each range into K again, until a range holds K items or fewer: there the next code is the
place in the range, and all codes after it are 0. Equal prefixes mean like popularity, SIDs are distinct while
``N <= K^L``, and no code tells items apart that the codes before it already have: digits of ``r / N`` that go on after that
would be as good as random ones. A recommender that does well on these codes lives on popularity alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.training.content import state_entry

INFO = TokenizerInfo(
    title="Popularity rank (control)",
    version=1,
    paper="",
    modalities=(),
    ordered=True,
    control=True,
    deviations=(
        "An item that was not fitted is ranked among the fitted ones by its training count; more items without "
        "interactions than at the fit share the last codes.",
    ),
)


class Popularity(Tokenizer):
    """Popularity rank; ``counts_`` int64 ``[N]`` are the fitted items' training counts, largest first."""

    info = INFO
    config_class = TokenizerConfig
    itemwise = False
    expected_failures = {"more codes than items": "digits of a rank need no item for every code"}
    counts_: np.ndarray

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        self.counts_ = np.sort(features.train_counts)[::-1].astype(np.int64)
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: TokenizerConfig = self.config
        counts, n = features.train_counts, len(self.counts_)
        order = np.argsort(-counts, kind="stable")
        before = np.searchsorted(-counts[order], -counts, side="left")  # items here that are more popular
        position = np.empty(len(counts), np.int64)
        position[order] = np.arange(len(counts))
        ahead = np.searchsorted(-self.counts_, -counts, side="left")  # fitted items that are more popular
        rank = np.minimum(ahead + position - before, n - 1)
        codes = np.empty((len(counts), c.code_length), np.int32)
        first, size = np.zeros_like(rank), np.full_like(rank, n)  # of the range that the codes so far leave
        for p in range(c.code_length):
            parts = np.minimum(size, c.codebook_size)
            code = (rank - first) * parts // size
            start, end = -(-code * size // parts), -(-(code + 1) * size // parts)
            codes[:, p], first, size = code, first + start, end - start
        return SemanticIds(codes, np.full(c.code_length, c.codebook_size, np.int32), ordered=True)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts_}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.counts_ = state_entry(state, "counts", (None,), self.name).astype(np.int64)
