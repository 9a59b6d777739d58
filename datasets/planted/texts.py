"""Texts, categories and prices of planted items: what a shop would print about them, with its usual gaps.

Every node of the tree owns a name and a few words; a title strings together words of the item's path, each left out
at a fixed rate, and words that mean nothing. Brands belong to nodes above the leaves, so they narrow the tree down
without giving the leaf away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.planted.tree import Tree

_ONSETS = ("b", "br", "d", "dr", "f", "fl", "g", "gr", "k", "kl", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "v")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
_ENDS = ("l", "n", "r", "s", "x", "nd")
_WORD_SHARES = (0.7, 0.2, 0.1)  # how often a node is called by each of its words; the first is its category name
_SPOKEN = 0.8  # chance that a title mentions a level of its path
_FILLERS = (
    "new",
    "classic",
    "large",
    "small",
    "premium",
    "daily",
    "original",
    "light",
    "compact",
    "double",
    "soft",
    "pure",
    "extra",
    "basic",
    "set",
    "pack",
)
_LEAF_MISSING, _BRAND_MISSING, _PRICE_MISSING = 0.15, 0.15, 0.05
_BRANDS_PER_NODE = 4


@dataclass(frozen=True)
class Texts:
    """title, brand: ``N`` strings (brand may be empty). categories: path names, without the leaf for some items.
    price: float32 ``[N]`` in dollars, NaN where unknown."""

    title: tuple[str, ...]
    brand: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    price: np.ndarray


def _invent(count: int, draw: np.random.Generator) -> list[str]:
    """``count`` distinct pronounceable words."""
    syllables = [o + v for o in _ONSETS for v in _VOWELS]
    stems = len(syllables) ** 2 * len(_ENDS)
    extra = -(-count // stems)  # with very many nodes a third syllable keeps words distinct
    numbers = draw.choice(stems * extra, size=count, replace=False)
    words = []
    for number in numbers.tolist():
        number, end = divmod(number, len(_ENDS))
        number, second = divmod(number, len(syllables))
        rest, head = divmod(number, len(syllables))
        words.append(syllables[head] + syllables[second] + _ENDS[end] + (syllables[rest - 1] if rest else ""))
    return words


def write_texts(tree: Tree, rng: Rng) -> Texts:
    """Titles, brands, categories and prices of all items."""
    draw, n = rng.child("texts").numpy(), tree.n_items
    nodes = [math.prod(tree.branching[:d]) for d in range(1, tree.depth + 1)]
    brand_depth = max(tree.depth - 1, 1)
    invented = iter(_invent(sum(nodes) * len(_WORD_SHARES) + nodes[brand_depth - 1] * _BRANDS_PER_NODE, draw))
    lexicon = [[[next(invented) for _ in _WORD_SHARES] for _ in range(count)] for count in nodes]
    brands = [[next(invented).capitalize() for _ in range(_BRANDS_PER_NODE)] for _ in range(nodes[brand_depth - 1])]
    on_path = np.stack([tree.node(tree.leaf, d) for d in range(1, tree.depth + 1)], axis=1).tolist()
    spoken = (draw.random((n, tree.depth)) < _SPOKEN).tolist()
    which = draw.choice(len(_WORD_SHARES), size=(n, tree.depth), p=_WORD_SHARES).tolist()
    filler = draw.integers(0, len(_FILLERS), n).tolist()
    brand_at = draw.integers(0, _BRANDS_PER_NODE, n).tolist()
    brand_known = (draw.random(n) >= _BRAND_MISSING).tolist()
    leaf_known = (draw.random(n) >= _LEAF_MISSING).tolist()
    title, brand, categories = [], [], []
    for i, path in enumerate(on_path):
        brand.append(brands[path[brand_depth - 1]][brand_at[i]] if brand_known[i] else "")
        words = [lexicon[d][node][which[i][d]] for d, node in enumerate(path) if spoken[i][d]]
        title.append(" ".join([brand[-1], _FILLERS[filler[i]], *reversed(words)]).strip())
        names = tuple(lexicon[d][node][0].capitalize() for d, node in enumerate(path))
        categories.append(names if leaf_known[i] or tree.depth == 1 else names[:-1])
    leaf_price = draw.normal(3.0, 0.6, tree.n_leaves)
    price = np.round(np.exp(leaf_price[tree.leaf] + draw.normal(0.0, 0.35, n)), 2).astype(np.float32)
    price[draw.random(n) < _PRICE_MISSING] = np.nan
    return Texts(tuple(title), tuple(brand), tuple(categories), price)
