"""Random codes: the control without any semantics.

Codes are drawn uniformly without replacement from the ``K^L`` SIDs (with a fresh round once all are taken), so they say
nothing about the item and collide as little as possible: RID of "How to Index Item IDs" (Hua et al. 2023). Row ``i``
gets the ``i``-th SID of an endless seeded sequence, whatever the features hold: the same catalogue always gets the same
codes, more items leave earlier rows unchanged, and an item's codes follow its row number, not its content.
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
    title="Random codes (control)",
    version=1,
    paper="Hua et al., SIGIR-AP 2023 (RID)",
    url="https://arxiv.org/abs/2305.06569",
    bibtex="@misc{hua2023index,\n"
    "  title={How to Index Item IDs for Recommendation Foundation Models}, author={Hua and others},\n"
    "  year={2023}, eprint={2305.06569}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2305.06569}}",
    modalities=(),
    ordered=False,
    control=True,
    deviations=("Codes belong to row numbers: a subset of items encoded alone gets the codes of the first rows.",),
)

ENUMERABLE = 1 << 20  # up to this many SIDs a round is a permutation of all of them
BLOCK = 4096


class RandomCodes(Tokenizer):
    """Random codes; ``key_`` is the seed of the sequence."""

    info = INFO
    itemwise = False
    config_class = TokenizerConfig
    expected_failures = {"more codes than items": "random codes need no items to learn from"}
    key_: int

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        self.key_ = rng.integer()
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: TokenizerConfig = self.config
        codes = distinct_codes(features.n_items, c.code_length, c.codebook_size, Rng(self.key_))
        return SemanticIds(codes, np.full(c.code_length, c.codebook_size, np.int32), ordered=False)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"key": np.array(self.key_, np.int64)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.key_ = int(state_entry(state, "key", (), self.name))


def distinct_codes(n: int, length: int, size: int, rng: Rng) -> np.ndarray:
    """First ``n`` rows int32 ``[n, length]`` of an endless sequence; any ``size^length`` rows of a round are distinct."""
    possible = size**length
    if possible <= ENUMERABLE:
        rounds = [rng.child("round", i).numpy().permutation(possible) for i in range(-(-n // possible))]
        numbers = np.concatenate(rounds)[:n]
        return np.stack(np.unravel_index(numbers, (size,) * length), axis=1).astype(np.int32)
    unique, drawn = np.zeros((0, length), np.int32), 0
    while len(unique) < n:
        block = rng.child("block", drawn).numpy().integers(size, size=(BLOCK, length), dtype=np.int32)
        unique, drawn = _first_occurrences(np.concatenate([unique, block])), drawn + 1
    return unique[:n]


def _first_occurrences(rows: np.ndarray) -> np.ndarray:
    first = np.unique(rows, axis=0, return_index=True)[1]
    return rows[np.sort(first)]
