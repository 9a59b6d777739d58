"""A tree of clusters: recursive k-means down to single items, and the way of any item through it.

Used by hierarchical k-means (Tay et al. 2022, "Transformer Memory as a Differentiable Search Index") and by EAGER (arXiv
2406.14017). Splits are Lloyd's, or into equal clusters. Where at most ``k`` different rows are left, each becomes a node
of its own: the index in the leaf.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.clustering.bounded_kmeans import bounded_assignment
from sidbench.tokenizers.blocks.clustering.kmeans import assign, balanced_kmeans, kmeans
from sidbench.tokenizers.blocks.training.content import state_entry

FEW_ROWS = 16  # nodes with fewer rows are treated together
PAIR_ELEMENTS = 1 << 22
MOST_TOKENS = 1_000_000  # of one position with a conditional vocabulary


@dataclass(frozen=True)
class Tree:
    """``M`` nodes in breadth-first order, node 0 the root; the children of a node are consecutive.

    first, count: int64 ``[M]``, the children of node ``i`` are ``first[i] .. first[i] + count[i] - 1``, none where
    ``count`` is 0. centres: float32 ``[M, D]``, the mean of a cluster or the row of a single item. prices: float32
    ``[M]``, added to squared distances when siblings are compared. single: bool ``[M]``, nodes of one row.
    """

    first: np.ndarray
    count: np.ndarray
    centres: np.ndarray
    prices: np.ndarray
    single: np.ndarray

    @property
    def depth(self) -> int:
        """Positions of the longest code."""
        level = np.zeros(len(self.first), np.int64)
        for node in np.flatnonzero(self.count):
            level[self.first[node] : self.first[node] + self.count[node]] = level[node] + 1
        return int(level.max(initial=0))

    def descend(self, x: Tensor, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes int64 ``[N, depth]``, PAD after a row's last node, and the last cluster int64 ``[N]`` on its way.

        Rows ``[N, D]`` go to the child of least squared distance plus price, each by itself; ties go to the first.
        """
        codes = np.full((len(x), depth), PAD, np.int64)
        node, cluster = np.zeros(len(x), np.int64), np.zeros(len(x), np.int64)
        centres = torch.as_tensor(self.centres, device=x.device)
        prices = torch.as_tensor(self.prices, device=x.device)
        for position in range(depth):
            order = np.argsort(node, kind="stable")
            few: list[np.ndarray] = [np.empty(0, np.int64)]
            for rows in np.split(order, np.flatnonzero(np.diff(node[order])) + 1):
                at = int(node[rows[0]]) if len(rows) else 0
                if not len(rows) or not self.count[at]:
                    continue
                if len(rows) < FEW_ROWS:
                    few.append(rows)
                    continue
                children = slice(int(self.first[at]), int(self.first[at] + self.count[at]))
                part = x[torch.as_tensor(rows, device=x.device)]
                codes[rows, position] = to_numpy(assign(part, centres[children], prices=prices[children])[0])
            rest = np.concatenate(few)
            at_rest = node[rest]
            codes[rest, position] = _nearest_of_own(x, rest, centres, prices, self.first[at_rest], self.count[at_rest])
            moved = codes[:, position] != PAD
            node[moved] = self.first[node[moved]] + codes[moved, position]
            within = moved & ~self.single[node]
            cluster[within] = node[within]
        return codes, cluster

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        """Entries of a state dict."""
        return {
            f"{prefix}/first": self.first,
            f"{prefix}/count": self.count,
            f"{prefix}/centres": self.centres,
            f"{prefix}/prices": self.prices,
            f"{prefix}/single": self.single,
        }

    @staticmethod
    def from_state(state: Mapping[str, np.ndarray], prefix: str, width: int | None, who: str) -> Tree:
        """The inverse of ``state``. Raises ``InputError`` naming the entry that is missing or does not fit."""
        first = state_entry(state, f"{prefix}/first", (None,), who)
        n = len(first)
        tree = Tree(
            first,
            state_entry(state, f"{prefix}/count", (n,), who),
            state_entry(state, f"{prefix}/centres", (n, width), who),
            state_entry(state, f"{prefix}/prices", (n,), who),
            state_entry(state, f"{prefix}/single", (n,), who),
        )
        if (tree.count < 0).any() or ((tree.first < 0) | (tree.first + tree.count > n))[tree.count > 0].any():
            raise InputError(
                f"{who} state entry {prefix}/first",
                got="children that do not exist",
                wanted=f"node numbers below {n}",
                do="fit the tokenizer again",
            )
        return tree


Split = Callable[[Tensor, Rng], tuple[Tensor, Tensor]]  # rows [n, D] -> centres [k, D], prices [k]


def lloyd_split(k: int, runtime: Runtime, iterations: int) -> Split:
    """Splits by k-means."""

    def split(x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        centres = kmeans(x, k, rng, runtime, iterations=iterations).centres
        return centres, torch.zeros(k, device=x.device)

    return split


def balanced_split(k: int, runtime: Runtime, passes: int) -> Split:
    """Splits into clusters whose sizes differ by at most one: the capacity algorithm, then exact prices."""

    def split(x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        centres = balanced_kmeans(x, k, rng, runtime, passes=passes).centres
        return centres, bounded_assignment(x, centres, len(x) // k, -(-len(x) // k))[1]

    return split


def grow_tree(x: Tensor, k: int, depth: int, split: Split, rng: Rng) -> Tree:
    """Split rows ``[N, D]`` until at most ``k`` different ones are left or ``depth`` positions are used.

    A node with at most ``k`` different rows has these as children, in the order of the rows. Rows go where ``descend``
    will send them, so that encoding the same rows finds the same codes; clusters that no row reaches are left out.
    """
    rows_on_host = to_numpy(x)
    centres: list[Tensor] = [x.mean(0)]
    prices, single = [0.0], [False]
    first, count = [0], [0]
    queue: deque[tuple[int, np.ndarray, int, Rng]] = deque([(0, np.arange(len(x)), 0, rng)])
    while queue:
        node, rows, level, seed = queue.popleft()
        if level == depth or (level and single[node]):
            continue
        part = x[torch.as_tensor(rows, device=x.device)]
        different = _different(rows_on_host[rows])
        if len(different) <= k:
            found, price = part[torch.as_tensor(different, device=x.device)], torch.zeros(len(different), device=x.device)
        else:
            found, price = split(part, seed)
        codes = to_numpy(assign(part, found, prices=price)[0])
        used = np.unique(codes)
        first[node], count[node] = len(centres), len(used)
        for child, code in enumerate(used):
            members = rows[codes == code]
            queue.append((len(centres), members, level + 1, seed.child(child)))
            centres.append(found[int(code)])
            prices.append(float(price[int(code)]))
            single.append(len(different) <= k)
            first.append(0)
            count.append(0)
    return Tree(
        np.array(first, np.int64),
        np.array(count, np.int64),
        to_numpy(torch.stack(centres)),
        np.array(prices, np.float32),
        np.array(single, bool),
    )


def conditional_codes(codes: np.ndarray, k: int, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes int64 ``[N, P]`` as numbers of whole paths, ``c_1 .. c_p`` read in base ``k``; sizes ``k^p`` int32 ``[P]``.

    Raises ``InputError`` when a position would need more than a million tokens.
    """
    positions = codes.shape[1]
    if k**positions > MOST_TOKENS:
        raise InputError(
            f"{who}: conditional vocabulary",
            got=f"{k}^{positions} tokens in the last position",
            wanted=f"at most {MOST_TOKENS:,}",
            do="set tokenizer.vocabulary=shared, or a smaller tokenizer.codebook_size or code_length",
        )
    paths = codes.copy()
    for position in range(1, positions):
        paths[:, position] = np.where(codes[:, position] == PAD, PAD, paths[:, position - 1] * k + codes[:, position])
    return paths, k ** np.arange(1, positions + 1, dtype=np.int32)


def _nearest_of_own(
    x: Tensor, rows: np.ndarray, centres: Tensor, prices: Tensor, first: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Which of its own candidates ``first .. first + count - 1`` each row is nearest to, int64 ``[n]``, counted from 0.

    rows int64 ``[n]`` of x; first, count int64 ``[n]``, count at least 1. Pairs of row and candidate are computed in
    blocks, so that many small groups cost one pass.
    """
    found = np.zeros(len(rows), np.int64)
    offset = centres.square().sum(1) + prices
    ends = np.cumsum(count)
    most = max(1, PAIR_ELEMENTS // x.shape[1])
    start = 0
    while start < len(rows):
        base = ends[start] - count[start]
        stop = max(start + 1, int(np.searchsorted(ends, base + most, side="right")))
        sizes = count[start:stop]
        begin = np.cumsum(sizes) - sizes
        within = np.arange(int(sizes.sum())) - np.repeat(begin, sizes)
        left = torch.as_tensor(np.repeat(rows[start:stop], sizes), device=x.device)
        right = torch.as_tensor(np.repeat(first[start:stop], sizes) + within, device=x.device)
        cost = to_numpy(offset[right] - 2 * (x[left] * centres[right]).sum(1))
        least = np.repeat(np.minimum.reduceat(cost, begin), sizes)
        found[start:stop] = np.minimum.reduceat(np.where(cost == least, within, len(within)), begin)
        start = stop
    return found


def _different(rows: np.ndarray) -> np.ndarray:
    """Index of the first of every group of equal rows, ascending, int64; rows float32 ``[n, D]``."""
    plain = np.ascontiguousarray(rows + 0.0)  # -0.0 becomes 0.0
    keys = plain.view(np.dtype((np.void, plain.itemsize * plain.shape[1])))[:, 0]
    return np.sort(np.unique(keys, return_index=True)[1])
