"""Category path as prefix: the control that knows the shop's category tree and nothing else of an item.

The leading positions hold the path from root to leaf, each level as the number of the child among its siblings (by
name); levels on which all items agree are left out. The other positions tell the items of one category apart by
numbers dealt at random without replacement, so that SIDs are distinct where ``K^rest`` allows it. What a learned
tokenizer gains over these codes is what its embeddings know beyond the category.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.training.content import state_entry

INFO = TokenizerInfo(
    title="Category prefix (control)",
    version=1,
    paper="",
    modalities=("categories",),
    required=("categories",),
    ordered=True,
    control=True,
    deviations=(
        "Code 0 of a level says that the path ended before it or that the category was not fitted.",
        "More than K-1 children of a node share codes (counted as folded_categories).",
        "Numbers within a category follow the row number: a subset encoded alone is numbered anew.",
    ),
)

STRIDE_LIMIT = 1 << 31


@dataclass(frozen=True)
class CategoryPrefixConfig(TokenizerConfig):
    """Settings of the category control."""

    levels: int = setting(
        3,
        "levels of the tree that are coded, at most; one position is kept to tell items apart",
        unit="positions",
        low=1,
        high=16,
        sweep=(1, 2, 3),
    )


class CategoryPrefix(Tokenizer):
    """Category prefix; ``nodes_ int64 [M]`` are fingerprints of paths, ``node_codes_ int64 [M]`` their codes,
    ``levels_ int64 [P]`` the coded depths, ``seed_`` the source of the numbers."""

    info = INFO
    config_class = CategoryPrefixConfig
    itemwise = False
    expected_failures = {"more codes than items": "the category tree is given, not learned"}

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: CategoryPrefixConfig = self.config
        paths = _paths(features)
        fitted = sorted({paths[i] for i in features.fit_rows(c.fit_items)})
        depth = max(len(path) for path in fitted)
        informative = [d for d in range(1, depth + 1) if len({path[:d] for path in fitted}) > 1] or [1]
        chosen = informative[: max(1, min(c.levels, c.code_length - 1))]
        nodes, folded = {}, 0
        for level in chosen:
            children: dict[tuple[str, ...], int] = {}
            for node in sorted({path[:level] for path in fitted if len(path) >= level}):
                index = children.get(node[:-1], 0)
                children[node[:-1]] = index + 1
                nodes[node] = 1 + index % (c.codebook_size - 1) if c.codebook_size > 1 else 0
                folded += index >= c.codebook_size - 1
        self.nodes_ = np.array([_fingerprint(node) for node in nodes], np.int64)
        self.node_codes_ = np.array(list(nodes.values()), np.int64)
        self.levels_, self.seed_ = np.array(chosen, np.int64), rng.integer()
        self._diagnostics = {
            "category_positions": float(len(chosen)),
            "category_levels": float(depth),
            "folded_categories": float(folded),
            "items_without_category": float(sum(not path for path in paths)),
        }
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: CategoryPrefixConfig = self.config
        known = dict(zip(self.nodes_.tolist(), self.node_codes_.tolist(), strict=True))
        paths, levels = _paths(features), self.levels_.tolist()
        code_of = {
            path: [known.get(_fingerprint(path[:d]), 0) if len(path) >= d else 0 for d in levels] for path in set(paths)
        }
        prefix = np.array([code_of[path] for path in paths], np.int64).reshape(len(paths), len(levels))
        codes = np.concatenate([prefix, self._numbers(prefix)], axis=1)
        return SemanticIds(codes.astype(np.int32), np.full(c.code_length, c.codebook_size, np.int32), ordered=True)

    def _numbers(self, prefix: np.ndarray) -> np.ndarray:
        """int64 ``[N, L - P]``: item ``j`` of a category, in random order, gets ``a j + b mod K^(L-P)`` in base K; as
        ``a`` is coprime to the modulus, numbers repeat only when all are taken. ``b`` is drawn for each category."""
        c: CategoryPrefixConfig = self.config
        n, rest = len(prefix), c.code_length - prefix.shape[1]
        draw = Rng(self.seed_).child(n).numpy()
        space = c.codebook_size**rest
        modulus = min(space, STRIDE_LIMIT)  # numbers below it need no wider integers
        group = np.unique(prefix, axis=0, return_inverse=True)[1].reshape(-1)
        shuffled = draw.permutation(n)
        order = shuffled[np.argsort(group[shuffled], kind="stable")]
        sizes = np.bincount(group)
        within = np.empty(n, np.int64)
        within[order] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        stride = next(a for a in range(int(0.618 * modulus) | 1, 2 * modulus + 2) if math.gcd(a, modulus) == 1)
        number = (within * stride + draw.integers(modulus, size=len(sizes))[group]) % modulus
        # The digits of a number below STRIDE_LIMIT would leave high positions empty: spread it over the whole space.
        number = number * (space // modulus) if space < 1 << 62 else number
        powers = [min(c.codebook_size**p, 1 << 62) for p in range(rest - 1, -1, -1)]
        return np.stack([number // power % c.codebook_size for power in powers], axis=1) if rest else prefix[:, :0]

    def state_dict(self) -> dict[str, np.ndarray]:
        return {
            "nodes": self.nodes_,
            "node_codes": self.node_codes_,
            "levels": self.levels_,
            "seed": np.array(self.seed_, np.int64),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.nodes_ = state_entry(state, "nodes", (None,), self.name)
        self.node_codes_ = state_entry(state, "node_codes", (len(self.nodes_),), self.name)
        self.levels_ = state_entry(state, "levels", (None,), self.name)
        self.seed_ = int(state_entry(state, "seed", (), self.name))


def _paths(features: ItemFeatures) -> tuple[tuple[str, ...], ...]:
    if features.categories is None or not any(features.categories):
        raise InputError(
            "category_prefix: categories",
            got="a catalogue without categories",
            wanted="a category path for the items",
            do="choose a data set that has categories",
        )
    return features.categories


def _fingerprint(path: tuple[str, ...]) -> int:
    """int64 of a path, the same in every process; names are kept apart by a byte that UTF-8 never holds."""
    names = b"\xff".join(name.encode() for name in path)
    return int.from_bytes(hashlib.blake2b(names, digest_size=8).digest(), "big", signed=True)
