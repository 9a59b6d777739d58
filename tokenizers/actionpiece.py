"""ActionPiece: item features merged into tokens that depend on the sequence the item stands in.

Hou et al., "ActionPiece: Contextually Tokenizing Action Sequences for Generative Recommendation", arXiv 2502.13581.
An item is an unordered set of ``L`` features: ``L - 1`` OPQ codes of its content (PCA to 128 dimensions, whitened) and
a hash slot that tells items with equal OPQ codes apart. On training sequences, pairs of tokens are weighted by the
probability that they are neighbours when every set is put in random order: ``2/M`` inside a set of ``M`` tokens,
``1/(M1 M2)`` across neighbouring sets (section 3.2, eqs. 1-3). As in byte-pair encoding the heaviest pair becomes a
token until the vocabulary is full; tokens across two events live in a context slot between them.

``encode`` gives the features, codes any recommender can use; ``encode_sequences`` gives the tokens (section 3.3):
"feature" permutes the features at random and merges neighbours in the order of the rules, "none" applies the best rule
first without randomness, "token" shuffles the tokens of "none" inside each event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import SemanticIds, SequenceTokenizer, TokenizerConfig, TokenizerInfo, TokenSequences
from sidbench.tokenizers.blocks.actionpiece.encode import (
    GreedyMerger,
    merge_greedily,
    permute_and_merge,
    spelled_codes,
)
from sidbench.tokenizers.blocks.actionpiece.vocabulary import Vocabulary, build_vocabulary
from sidbench.tokenizers.blocks.clustering.groups import group_ranks
from sidbench.tokenizers.blocks.training.content import state_entry
from sidbench.tokenizers.opq import Opq, OpqConfig

INFO = TokenizerInfo(
    title="ActionPiece: contextual tokens of feature sets",
    version=1,
    paper="Hou et al., ICML 2025, arXiv 2502.13581",
    year=2025,
    url="https://arxiv.org/abs/2502.13581",
    bibtex="@misc{hou2025actionpiece,\n"
    "  title={ActionPiece: Contextually Tokenizing Action Sequences for Generative Recommendation},\n"
    "  author={Hou and others}, year={2025}, eprint={2502.13581}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2502.13581}}",
    modalities=("text", "vision", "sequences"),
    required=("text|vision",),
    ordered=False,
    composite=True,
    deviations=(
        "The default is the paper's 4 OPQ codes of 256 and one hash slot, not the suite's profile of 6 x 100.",
        "OPQ is the suite's own and reads all content modalities, not only text.",
        "The vocabulary size counts features and merged tokens only; PAD, BOS and EOS belong to the recommender.",
        "Weights are exact integers over a common denominator; ties go to the pair of smallest token numbers.",
        "A hash slot belongs to the catalogue encoded at once: item r of a collision group, by row, takes bucket r of a "
        "permutation drawn from the group's codes. Items appended later leave earlier ones unchanged and get free "
        "buckets; new items encoded without the catalogue they join may repeat its codes.",
        "Recommenders of the suite that take SIDs use the features; only those that take sequence tokens see merges.",
    ),
)


@dataclass(frozen=True)
class ActionPieceConfig(TokenizerConfig):
    """Settings of ActionPiece; ``codebook_size`` is that of the OPQ codes."""

    code_length: int = setting(
        5, "features per item: OPQ codes and one hash slot", unit="features", low=2, high=16, paper=5, sweep=(3, 5, 9)
    )
    codebook_size: int = setting(
        256, "codes per OPQ position", unit="codes", low=1, high=65536, paper=256, sweep=(64, 128, 256)
    )
    hash_buckets: int = setting(
        128,
        "codes of the hash slot, the most items that may share their OPQ codes",
        unit="codes",
        low=1,
        high=65536,
        paper=128,
    )
    vocabulary_size: int = setting(
        40_000,
        "features and merged tokens",
        unit="tokens",
        low=2,
        high=1_000_000,
        paper=40_000,
        sweep=(5_000, 10_000, 20_000, 40_000),
    )
    reduce_dim: int = setting(128, "PCA before OPQ", unit="dimensions", low=1, high=65536, paper=128)
    opq_budget: str = setting("standard", "budget of OPQ", choices=("smoke", "quick", "standard", "paper"))


class ActionPiece(SequenceTokenizer):
    """ActionPiece; ``opq_`` the fitted OPQ, ``vocabulary_`` the merge rules, ``key_`` the seed of the hash slots."""

    info = INFO
    itemwise = False
    config_class = ActionPieceConfig
    budgets = {
        "smoke": {"opq_budget": "smoke", "codebook_size": 64, "vocabulary_size": 448},
        "quick": {"opq_budget": "quick", "vocabulary_size": 10_000},
        "standard": {"opq_budget": "standard", "vocabulary_size": 40_000},
        "paper": {"opq_budget": "paper", "vocabulary_size": 40_000},
    }
    modes = ("feature", "none", "token")
    expected_failures = {"one code": "the hash slot has as many codes as buckets, whatever codebook_size is"}
    key_: int
    vocabulary_: Vocabulary

    def __init__(self, config: ActionPieceConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        c: ActionPieceConfig = self.config
        self.opq_ = Opq(
            OpqConfig(
                **{
                    **Opq.budgets[c.opq_budget],
                    "code_length": c.code_length - 1,
                    "whiten": True,
                    "codebook_size": c.codebook_size,
                    "fit_items": c.fit_items,
                    "reduce_dim": c.reduce_dim,
                }
            )
        )

    @property
    def sizes(self) -> np.ndarray:
        """int32 ``[L]`` codes of each position."""
        c: ActionPieceConfig = self.config
        return np.array([c.codebook_size] * (c.code_length - 1) + [c.hash_buckets], np.int32)

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: ActionPieceConfig = self.config
        if (n_features := int(self.sizes.sum())) > c.vocabulary_size:
            raise InputError(
                f"{self.name}: vocabulary_size",
                got=c.vocabulary_size,
                wanted=f"at least {n_features}, the number of features",
                do=f"set tokenizer.vocabulary_size={2 * n_features}, or fewer codes",
            )
        self.opq_.fit(features, rng.child("opq"), runtime)
        self.key_ = rng.child("hash").integer()
        sids = self.encode(features, runtime)
        events = _by_user(features.sequences, sids.codes + np.concatenate([[0], np.cumsum(self.sizes[:-1])]))
        self.vocabulary_, left = build_vocabulary(events, self.sizes, c.vocabulary_size)
        if len(self.vocabulary_) < c.vocabulary_size:
            runtime.warn(
                f"{self.name}: the training sequences only hold {len(self.vocabulary_)} tokens of a vocabulary "
                f"of {c.vocabulary_size}"
            )
        n_events = max(len(features.sequences.items), 1)
        alone = Sequences(np.arange(features.n_items + 1), np.arange(features.n_items, dtype=np.int32))
        tokens = self.encode_sequences(alone, sids, None, "none")
        decoded = self.decode_items(tokens, sids) == np.arange(features.n_items)
        self._diagnostics = {
            **{f"opq_{name}": value for name, value in self.opq_.diagnostics().items()},
            "vocabulary_size": float(len(self.vocabulary_)),
            "merges": float(len(self.vocabulary_.rules)),
            "features_per_event": float(c.code_length),
            "tokens_per_event": left / n_events,
            "tokens_per_item_alone": len(tokens.tokens) / features.n_items,
            "share_decoded": float(decoded.mean()),
            "share_of_items_sharing_opq_codes": 1 - float(_group(sids.codes[:, :-1])[2] / features.n_items),
        }
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        opq = self.opq_.encode(features, runtime)
        codes = np.concatenate([opq.codes, self._hash_slots(opq.codes)[:, None]], axis=1).astype(np.int32)
        names = (*(f"opq {p + 1}" for p in range(opq.code_length)), "hash")
        return SemanticIds(codes, self.sizes, ordered=False, reconstruction=opq.reconstruction, position_names=names)

    def _hash_slots(self, codes: np.ndarray) -> np.ndarray:
        """Hash slot int64 ``[N]``: item ``r`` of a group of equal OPQ codes gets bucket ``r`` of the group's permutation."""
        c: ActionPieceConfig = self.config
        rank, group, _ = _group(codes)
        if (most := int(rank.max(initial=-1)) + 1) > c.hash_buckets:
            raise InputError(
                f"{self.name}: hash_buckets",
                got=f"{most} items with equal OPQ codes",
                wanted=f"at most the {c.hash_buckets} buckets",
                do=f"set tokenizer.hash_buckets={2 * most}, or more or larger codebooks",
            )
        unique = np.zeros((int(group.max(initial=-1)) + 1, codes.shape[1]), np.int64)
        unique[group] = codes
        seeds = np.full(len(unique), self.key_, np.uint64)
        for column in unique.T:
            seeds = _mix(seeds + column.astype(np.uint64))
        slots = np.empty(len(codes), np.int64)
        for begin in range(0, len(unique), 8192):
            draws = _mix(seeds[begin : begin + 8192, None] + np.arange(c.hash_buckets, dtype=np.uint64))
            rows = (group >= begin) & (group < begin + 8192)
            slots[rows] = draws.argsort(axis=1, kind="stable")[group[rows] - begin, rank[rows]]
        return slots

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabulary_)

    def encode_sequences(self, sequences: Sequences, sids: SemanticIds, rng: Rng | None, mode: str) -> TokenSequences:
        if mode not in self.modes:
            raise InputError(f"{self.name}: encoding mode", got=repr(mode), wanted=f"one of {', '.join(self.modes)}")
        if rng is None and mode != "none":
            raise InputError(
                f"{self.name}: encoding mode {mode}",
                got="no rng",
                wanted="a source of random numbers",
                do="pass rng, or use mode none",
            )
        items = sequences.items
        if len(items) and (items.min() < 0 or items.max() >= sids.n_items):
            raise InputError(
                f"{self.name}: items to encode",
                got=f"{items.min()}..{items.max()}",
                wanted=f"0..{sids.n_items - 1}, rows of the SIDs",
            )
        rows = self.vocabulary_.features_of(sids.codes)[items]
        draw = None if rng is None else rng.numpy()
        if mode == "feature" and draw is not None:
            rows = np.take_along_axis(rows, draw.random(rows.shape).argsort(axis=1), axis=1)
            work = partial(permute_and_merge, vocabulary=self.vocabulary_)
        else:
            work = partial(merge_greedily, merger=GreedyMerger(self.vocabulary_), shuffle=draw if mode == "token" else None)
        merged = [work(rows[a:b]) for a, b in zip(sequences.indptr[:-1], sequences.indptr[1:], strict=True)]
        table = np.array([token for user in merged for token in user], np.int32).reshape(-1, 3)
        indptr = np.concatenate([[0], np.cumsum([len(user) for user in merged])]).astype(np.int64)
        return TokenSequences(table[:, 0].copy(), indptr, table[:, 1].copy(), table[:, 2].copy())

    def expand_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.vocabulary_.expand(tokens)

    def decode_items(self, sequences: TokenSequences, sids: SemanticIds) -> np.ndarray:
        codes = spelled_codes(sequences.indptr, self.vocabulary_, sequences.tokens)
        known = {row.tobytes(): item for item, row in reversed(list(enumerate(sids.codes.astype(np.int64))))}
        return np.array([known.get(row.tobytes(), -1) for row in codes], np.int64)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {
            "key": np.array(self.key_, np.int64),
            "rules": self.vocabulary_.rules,
            "priorities": self.vocabulary_.priorities,
            **{f"opq/{name}": array for name, array in self.opq_.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: ActionPieceConfig = self.config
        rules, priorities = (
            state_entry(state, "rules", (None, 2), self.name),
            state_entry(state, "priorities", (None,), self.name),
        )
        vocabulary = Vocabulary.checked(self.sizes, rules, priorities, self.name)
        if len(vocabulary) > c.vocabulary_size:
            raise InputError(
                f"{self.name} state entry rules",
                got=f"{len(vocabulary)} tokens",
                wanted=f"at most the {c.vocabulary_size} of the config",
                do="load it with the config it was fitted with",
            )
        self.key_ = int(state_entry(state, "key", (), self.name))
        self.opq_.load_state_dict({k.removeprefix("opq/"): v for k, v in state.items() if k.startswith("opq/")})
        self.vocabulary_ = vocabulary


def _by_user(sequences: Sequences, rows: np.ndarray) -> list[np.ndarray]:
    """Rows ``[events, L]`` of each user's items, in time order."""
    return [rows[sequences.of(user)] for user in range(sequences.n_users)]


def _group(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Rank of every row among equal rows before it int64 ``[N]``, its group int64 ``[N]``, number of lone rows."""
    if not len(codes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    return group_ranks(group), group, int((counts == 1).sum())


def _mix(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixing function (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
