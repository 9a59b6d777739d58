"""EAGER: one code from behaviour and one from content, each the path in a tree of equally large clusters.

Wang et al., "EAGER: Two-Stream Generative Recommender with Behavior-Semantic Collaboration", KDD 2024 (arXiv
2406.14017), its two code tables. Behaviour vectors and content vectors are each clustered into ``k`` equal clusters, and
every cluster again, so that with ``k^2 >= N`` each item has a leaf of its own in both trees. The SID is
``[behaviour 1, behaviour 2, semantic 1, semantic 2]``. With ``vocabulary="conditional"`` a second code is
``c_1 k + c_2``, a token that only one first code has, as in the paper. Codes are ordered within each tree only.

The two streams, their decoders and losses belong to a recommender; these codes serve any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import (
    PAD,
    SemanticIds,
    Tokenizer,
    TokenizerConfig,
    TokenizerInfo,
    check_capacity,
    usable_content,
)
from sidbench.tokenizers.blocks.clustering.tree_kmeans import Tree, balanced_split, conditional_codes, grow_tree
from sidbench.tokenizers.blocks.training.content import (
    content_like,
    content_widths,
    finite_modality,
    split_content,
    state_entry,
    widths_from_state,
    widths_state,
)

INFO = TokenizerInfo(
    title="EAGER: equal cluster trees of behaviour and of content",
    version=1,
    paper="Wang et al., KDD 2024, arXiv 2406.14017",
    year=2024,
    url="https://arxiv.org/abs/2406.14017",
    bibtex="@misc{wang2024eager,\n"
    "  title={EAGER: Two-Stream Generative Recommender with Behavior-Semantic Collaboration},\n"
    "  author={Wang and others}, year={2024}, eprint={2406.14017}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2406.14017}}",
    modalities=("text", "vision", "behaviour"),
    required=("behaviour", "text|vision"),
    ordered=False,
    variable_length=True,
    deviations=(
        "Behaviour vectors are those of the benchmark's sequence model instead of a DIN's.",
        "Instead of padding the items to a power of k, cluster sizes differ by at most one and leaves stay empty.",
        "Every split uses all feature columns, not a random 80 % of them.",
        "Items without behaviour have PAD in the behaviour positions; the paper has no such items.",
        "Items are encoded by distance plus a price per cluster, which reproduces the equal clusters for fitted items; "
        "an item not fitted takes the leaf of the nearest fitted item in its cluster.",
        "Where k^2 is less than the number of items, items share leaves; they are counted.",
        "The default vocabulary is shared (k tokens in every position); conditional is the paper's.",
    ),
)
STREAMS = ("behaviour", "semantic")


@dataclass(frozen=True)
class EagerConfig(TokenizerConfig):
    """Settings of EAGER's codes; ``code_length`` is shared evenly by two trees, ``codebook_size`` is the branching k."""

    code_length: int = setting(4, "positions per SID, half of them for each tree", unit="codes", low=2, high=64, paper=4)
    codebook_size: int = setting(
        128, "branching k of both trees", unit="codes", low=1, high=65536, paper=128, sweep=(64, 128, 256)
    )
    vocabulary: str = setting(
        "shared",
        "tokens of a position: k for all nodes, or k of its own for every node",
        choices=("shared", "conditional"),
        paper="conditional",
        sweep=("shared", "conditional"),
    )
    passes: int = setting(100, "most passes of the balanced algorithm per node", unit="passes", low=1, high=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code_length % 2:
            raise InputError(
                "eager: code_length",
                got=self.code_length,
                wanted="an even number, half for each tree",
                do=f"set tokenizer.code_length={self.code_length + 1}",
            )


class Eager(Tokenizer):
    """EAGER's codes; ``trees_``: "behaviour" and "semantic" -> cluster tree."""

    info = INFO
    config_class = EagerConfig
    budgets = {
        "smoke": {"passes": 5},
        "quick": {"passes": 10},
        "standard": {"passes": 100},
        "paper": {"passes": 100, "vocabulary": "conditional"},
    }
    trees_: dict[str, Tree]

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: EagerConfig = self.config
        rows = features.fit_rows(c.fit_items)
        behaviour, available = _behaviour(features)
        self.widths_, self.behaviour_width_ = content_widths(features), behaviour.shape[1]
        known = rows[available[rows]]
        for members in (rows, known):
            check_capacity(c, len(members), self.name)
        depth = c.code_length // 2
        if c.vocabulary == "conditional":
            conditional_codes(np.zeros((0, depth), np.int64), c.codebook_size, self.name)
        inputs = {
            "behaviour": runtime.tensor(behaviour[known]),
            "semantic": runtime.tensor(usable_content(features, self.name)[rows]),
        }
        self.trees_ = {}
        self._diagnostics = {"items_without_behaviour": float((~available).sum())}
        for name, x in inputs.items():
            split = balanced_split(c.codebook_size, runtime, c.passes)
            tree = grow_tree(x, c.codebook_size, depth, split, rng.child(name))
            codes, _ = tree.descend(x, depth)
            sharing = np.unique(codes, axis=0, return_counts=True)[1]
            self._diagnostics[f"items_sharing_a_{name}_code"] = float(sharing[sharing > 1].sum())
            self.trees_[name] = tree
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: EagerConfig = self.config
        content = runtime.tensor(content_like(features, self.widths_, self.name))
        behaviour, available = _behaviour(features)
        if behaviour.shape[1] != self.behaviour_width_:
            raise InputError(
                f"{self.name}: behaviour embeddings to encode",
                got=f"width {behaviour.shape[1]}",
                wanted=f"that of the fit, {self.behaviour_width_}",
                do="encode with the features of the fit",
            )
        first, sizes, _ = self._codes("behaviour", runtime.tensor(behaviour))
        second, _, cluster = self._codes("semantic", content)
        first[~available] = PAD
        names = tuple(f"{stream} {p + 1}" for stream in STREAMS for p in range(c.code_length // 2))
        return SemanticIds(
            np.concatenate([first, second], 1).astype(np.int32),
            np.tile(sizes, 2),
            ordered=False,
            reconstruction=split_content(self.trees_["semantic"].centres[cluster], self.widths_),
            position_names=names,
        )

    def _codes(self, name: str, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes int64 ``[N, L/2]`` in one tree, their sizes ``[L/2]``, and the last cluster int64 ``[N]``."""
        c: EagerConfig = self.config
        depth = c.code_length // 2
        codes, cluster = self.trees_[name].descend(x, depth)
        if c.vocabulary == "conditional":
            return *conditional_codes(codes, c.codebook_size, self.name), cluster
        return codes, np.full(depth, c.codebook_size, np.int32), cluster

    def state_dict(self) -> dict[str, np.ndarray]:
        return {
            **self.trees_["behaviour"].state("behaviour"),
            **self.trees_["semantic"].state("semantic"),
            "behaviour_width": np.array([self.behaviour_width_], np.int64),
            **widths_state(self.widths_),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: EagerConfig = self.config
        self.widths_ = widths_from_state(state, self.name)
        self.behaviour_width_ = int(state_entry(state, "behaviour_width", (1,), self.name)[0])
        widths = {"behaviour": self.behaviour_width_, "semantic": sum(self.widths_.values())}
        self.trees_ = {name: Tree.from_state(state, name, width, self.name) for name, width in widths.items()}
        for name, tree in self.trees_.items():
            if tree.depth > c.code_length // 2 or int(tree.count.max()) > c.codebook_size:
                raise InputError(
                    f"{self.name} state entry {name}/count",
                    do="load it with the config it was fitted with",
                    got=f"a tree of depth {tree.depth} with up to {int(tree.count.max())} children",
                    wanted=f"depth at most {c.code_length // 2}, at most {c.codebook_size} children",
                )


def _behaviour(features: ItemFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Behaviour vectors float32 ``[N, D_b]`` and bool ``[N]`` which items have one.

    Raises ``InputError`` when the modality is absent or holds values that are not finite.
    """
    if "behaviour" not in features.modalities:
        raise InputError(
            "eager: behaviour embeddings",
            got=features.absent.get("behaviour", "none"),
            wanted="the behaviour modality",
            do="choose an encoder with features.behaviour=…",
        )
    return finite_modality(features, "behaviour", "eager"), features.available["behaviour"]
