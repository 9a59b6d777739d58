"""The planted category tree: paths, popularity, the long tail and the latents of items and leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

LATENT_WIDTH = 16
TAIL_SHARE = 0.5
"""Share of items, least popular first, that form the tail."""
_LEVEL_DECAY = 0.75
_ITEM_NOISE = 0.35


@dataclass(frozen=True)
class Tree:
    """``N`` items in the leaves of a tree with ``branching[d]`` children per node of depth ``d``.

    Every item belongs to one leaf and every leaf holds an item. In *tree order* the items of any node are contiguous,
    so drawing by popularity inside a node is one draw on a slice of ``mass``.

    leaf: int32 ``[N]`` leaf number; its digits in the mixed base ``branching`` are the path.
    popularity: float64 ``[N]`` Zipf weights, sum 1. tail: bool ``[N]``.
    order: int64 ``[N]`` item at each place of the tree order. mass: float64 ``[N + 1]`` popularity before each place.
    first: int64 ``[leaves + 1]`` place of each leaf's first item.
    leaf_latent: float32 ``[leaves, W]`` sum of the node vectors on the leaf's path, about unit norm.
    latent: float32 ``[N, W]`` leaf latent plus item noise.
    """

    branching: tuple[int, ...]
    leaf: np.ndarray
    popularity: np.ndarray
    tail: np.ndarray
    order: np.ndarray
    mass: np.ndarray
    first: np.ndarray
    leaf_latent: np.ndarray
    latent: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.branching)

    @property
    def n_items(self) -> int:
        return len(self.leaf)

    @property
    def n_leaves(self) -> int:
        return len(self.first) - 1

    def node(self, leaf: np.ndarray, depth: int | np.ndarray) -> np.ndarray:
        """Number of the ancestor at ``depth`` (0 = root) of each leaf, counted within that depth."""
        return leaf // self._leaves_below()[depth]

    def places(self, leaf: np.ndarray, depth: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First place and end place, in tree order, of the items under the ancestor at ``depth`` of each leaf."""
        below = self._leaves_below()[depth]
        node = leaf // below
        return self.first[node * below], self.first[(node + 1) * below]

    def path(self) -> np.ndarray:
        """int32 ``[N, depth]`` child index at each level."""
        digits = [self.node(self.leaf, d + 1) % children for d, children in enumerate(self.branching)]
        return np.stack(digits, axis=1).astype(np.int32)

    def draw(self, begin: np.ndarray, end: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Item drawn by popularity among the places ``begin..end-1``, one per entry of ``uniform`` in [0, 1)."""
        low, high = self.mass[begin], self.mass[end]
        place = np.searchsorted(self.mass, low + uniform * (high - low), side="right") - 1
        return self.order[np.clip(place, begin, end - 1)]

    def _leaves_below(self) -> np.ndarray:
        """int64 ``[depth + 1]`` leaves under one node of each depth."""
        return np.array([math.prod(self.branching[d:]) for d in range(self.depth + 1)], np.int64)


def build_tree(n_items: int, branching: tuple[int, ...], zipf: float, rng: Rng) -> Tree:
    """Plant a tree; item numbers carry no information about leaf or popularity.

    zipf: exponent ``s`` of popularity ``rank**-s``. Leaves differ in size (Dirichlet weights), none is empty.
    Raises ``InputError`` when ``branching`` is empty, has a node without two children, or has more leaves than items.
    """
    leaves = math.prod(branching)
    if not branching or min(branching) < 2 or leaves > n_items:
        raise InputError(
            "branching of the planted tree",
            got=f"{tuple(branching)} with {leaves} leaves",
            wanted=f"at least two children per node and at most {n_items} leaves (one per item)",
            do="lower dataset.branching or raise dataset.n_items",
        )
    draw = rng.child("tree").numpy()
    weights = draw.dirichlet(np.full(leaves, 4.0))
    leaf = np.concatenate([np.arange(leaves), draw.choice(leaves, size=n_items - leaves, p=weights)])
    leaf = draw.permutation(leaf).astype(np.int32)
    rank = draw.permutation(n_items) + 1.0
    popularity = rank**-zipf / np.sum(rank**-zipf)
    order = np.argsort(leaf, kind="stable")
    vectors = rng.child("latents").numpy()
    scale = _LEVEL_DECAY ** np.arange(len(branching))
    scale /= np.linalg.norm(scale)
    leaf_latent = np.zeros((leaves, LATENT_WIDTH))
    for depth in range(1, len(branching) + 1):
        nodes = math.prod(branching[:depth])
        node_vectors = vectors.normal(size=(nodes, LATENT_WIDTH)) / math.sqrt(LATENT_WIDTH)
        leaf_latent += scale[depth - 1] * np.repeat(node_vectors, leaves // nodes, axis=0)
    noise = vectors.normal(size=(n_items, LATENT_WIDTH)) / math.sqrt(LATENT_WIDTH)
    return Tree(
        branching=tuple(branching),
        leaf=leaf,
        popularity=popularity,
        tail=rank > n_items * (1.0 - TAIL_SHARE),
        order=order,
        mass=np.concatenate([[0.0], np.cumsum(popularity[order])]),
        first=np.concatenate([[0], np.cumsum(np.bincount(leaf, minlength=leaves))]).astype(np.int64),
        leaf_latent=leaf_latent.astype(np.float32),
        latent=(leaf_latent[leaf] + _ITEM_NOISE * noise).astype(np.float32),
    )
