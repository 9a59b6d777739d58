"""Hierarchical k-means: the path through a tree of clusters, with an index in the leaf.

Recursive k-means with branching ``K``, as in "Transformer Memory as a Differentiable Search Index" (Tay et al., arXiv
2202.06991, section 3.2). A node with more than ``K`` different items is split into ``K`` clusters, a smaller one numbers
its items. The SID is the path; leaves at different depths give it variable length, so later positions are PAD.

Every item is encoded by itself: it follows the nearest child to the end. A fitted item so finds its own number; one
that was never fitted takes that of the nearest fitted item in its leaf, and shares its SID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

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
    check_content,
)
from sidbench.tokenizers.blocks.clustering.tree_kmeans import (
    Tree,
    balanced_split,
    conditional_codes,
    grow_tree,
    lloyd_split,
)
from sidbench.tokenizers.blocks.training.content import (
    content_like,
    content_rows,
    content_widths,
    fitting_rows,
    split_content,
    widths_from_state,
    widths_state,
)

INFO = TokenizerInfo(
    title="Hierarchical k-means: path in a cluster tree",
    version=1,
    paper="Tay et al., arXiv 2202.06991, section 3.2",
    year=2022,
    url="https://arxiv.org/abs/2202.06991",
    bibtex="@misc{tay2022dsi,\n"
    "  title={Transformer Memory as a Differentiable Search Index}, author={Tay and others},\n"
    "  year={2022}, eprint={2202.06991}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2202.06991}}",
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=True,
    variable_length=True,
    deviations=(
        "code_length bounds the depth; SIDs have as many positions as the deepest path of the fitted items.",
        "A cluster at the greatest depth is split no further: its items share SIDs, as do equal embeddings; both are "
        "counted.",
        "Items not fitted take the index of the nearest fitted item in their leaf.",
        "Reconstruction is the centre of the last cluster on the path; the index in the leaf tells nothing of content.",
    ),
)


@dataclass(frozen=True)
class HierarchicalKMeansConfig(TokenizerConfig):
    """Settings of hierarchical k-means; ``code_length`` is the most positions, ``codebook_size`` the branching."""

    vocabulary: str = setting(
        "shared",
        "tokens of a position: K for all nodes, or K of its own for every node",
        choices=("shared", "conditional"),
        sweep=("shared", "conditional"),
    )
    clustering: str = setting(
        "lloyd",
        "children: k-means clusters, or clusters of equal size",
        choices=("lloyd", "balanced"),
        sweep=("lloyd", "balanced"),
    )
    iterations: int = setting(
        100, "most Lloyd iterations, or passes of the balanced algorithm, per node", unit="iterations", low=1, high=10_000
    )


class HierarchicalKMeans(Tokenizer):
    """Hierarchical k-means; ``tree_`` the clusters, ``depth_`` the number of positions."""

    info = INFO
    config_class = HierarchicalKMeansConfig
    budgets = {
        "smoke": {"iterations": 10},
        "quick": {"iterations": 30},
        "standard": {"iterations": 100},
        "paper": {"iterations": 100},
    }
    tree_: Tree

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: HierarchicalKMeansConfig = self.config
        rows = fitting_rows(features, c.fit_items, self.name, runtime)
        check_capacity(c, len(rows), self.name)
        check_content(features, self.name)
        self.widths_ = content_widths(features)
        x = runtime.tensor(content_rows(features, rows))
        kind = balanced_split if c.clustering == "balanced" else lloyd_split
        self.tree_ = grow_tree(x, c.codebook_size, c.code_length, kind(c.codebook_size, runtime, c.iterations), rng)
        self.depth_ = self.tree_.depth
        codes, cluster = self.tree_.descend(x, self.depth_)
        if c.vocabulary == "conditional":
            conditional_codes(codes[:0], c.codebook_size, self.name)
        sharing = np.unique(codes, axis=0, return_counts=True)[1]
        left = x - torch.as_tensor(self.tree_.centres[cluster], device=x.device)
        self._diagnostics = {
            "nodes": float(len(self.tree_.count)),
            "depth": float(self.depth_),
            "mean_length": float((codes != PAD).sum(1).mean()),
            "items_sharing_a_sid": float(sharing[sharing > 1].sum()),
            "loss_native": float(left.square().sum(1).mean()),
        }
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: HierarchicalKMeansConfig = self.config
        x = runtime.tensor(content_like(features, self.widths_, self.name))
        codes, cluster = self.tree_.descend(x, self.depth_)
        sizes = np.full(self.depth_, c.codebook_size, np.int32)
        if c.vocabulary == "conditional":
            codes, sizes = conditional_codes(codes, c.codebook_size, self.name)
        return SemanticIds(
            codes.astype(np.int32),
            sizes,
            ordered=True,
            reconstruction=split_content(self.tree_.centres[cluster], self.widths_),
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        return {**self.tree_.state("tree"), **widths_state(self.widths_)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: HierarchicalKMeansConfig = self.config
        self.widths_ = widths_from_state(state, self.name)
        self.tree_ = Tree.from_state(state, "tree", sum(self.widths_.values()), self.name)
        self.depth_ = self.tree_.depth
        if self.depth_ > c.code_length or int(self.tree_.count.max()) > c.codebook_size:
            raise InputError(
                f"{self.name} state entry tree/count",
                got=f"a tree of depth {self.depth_} with up to {int(self.tree_.count.max())} children",
                wanted=f"depth at most {c.code_length}, at most {c.codebook_size} children",
                do="load it with the config it was fitted with",
            )
