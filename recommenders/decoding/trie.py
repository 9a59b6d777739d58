"""The trie of all SIDs of a catalogue as sorted arrays, one level after the other.

SIDs are sorted lexicographically by class, PAD last (``CodeLayout``: PAD of position p is class ``K_p``), so every SID
has full length ``L`` and a shorter one ends explicitly. The nodes of depth ``p`` are the distinct prefixes of ``p``
classes in that order; the children of node ``j`` are the nodes ``first[p][j] .. first[p][j + 1] - 1`` of depth
``p + 1``, ascending by class. Node numbers of depth ``L`` are SID numbers. Two int32 a node suffice, and walking
down from many nodes at once is arithmetic on ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.tokenizers.base import PAD, SemanticIds

WORD = 1 << 63  # values an int64 key can tell apart


@dataclass(frozen=True)
class Children:
    """The children of ``M`` nodes, one entry a child, those of one node together and ascending by class.

    count: int64 ``[M]`` children of each node. owner: int64 ``[C]`` index of the parent among the ``M`` nodes. node:
    int64 ``[C]`` at the next depth. label: int32 ``[C]`` class.
    """

    count: Tensor
    owner: Tensor
    node: Tensor
    label: Tensor


@dataclass(frozen=True)
class SidTrie:
    """All ``U`` distinct SIDs of ``N`` items.

    layout: positions and classes. first: per depth 0..L-1 int32 or int64 ``[nodes + 1]``. label: per depth 0..L-1
    int32 ``[nodes of the next depth]``, the class that leads there. group: float32 ``[U]`` items that share each SID.
    of_item: int64 ``[N]`` (host) SID of each item.
    """

    layout: CodeLayout
    first: tuple[Tensor, ...]
    label: tuple[Tensor, ...]
    group: Tensor
    of_item: np.ndarray

    @staticmethod
    def of(sids: SemanticIds, runtime: Runtime) -> SidTrie:
        """The trie of a catalogue, on the runtime's device. Raises ``InputError`` without items or for codes outside
        their codebook."""
        if sids.n_items == 0:
            raise InputError("trie of semantic IDs", got="no items", wanted="at least one")
        layout = CodeLayout.of(sids)
        spans = _spans(layout.classes.tolist())
        words = [_word(sids, layout, start, stop) for start, stop in spans]
        order = np.argsort(words[0]) if len(words) == 1 else np.lexsort(words[::-1])
        new = np.zeros(len(order), bool)
        new[0] = True
        for i, word in enumerate(words):
            words[i] = word = word[order]
            new[1:] |= word[1:] != word[:-1]
        of_item = np.empty(len(order), np.int64)
        of_item[order] = np.cumsum(new) - 1
        words = [word[new] for word in words]
        group = np.bincount(of_item).astype(np.float32)
        del order, new
        first, label = _levels(words, spans, layout.classes)
        return SidTrie(
            layout, tuple(map(runtime.tensor, first)), tuple(map(runtime.tensor, label)), runtime.tensor(group), of_item
        )

    @property
    def n_items(self) -> int:
        return len(self.of_item)

    @property
    def n_sids(self) -> int:
        return len(self.group)

    @property
    def length(self) -> int:
        return self.layout.length

    @cached_property
    def classes(self) -> Tensor:
        """int64 ``[U, L]`` classes of every SID; made at first use, since it is the largest array by far."""
        classes = torch.empty(self.n_sids, self.length, dtype=torch.int64, device=self.group.device)
        below = torch.arange(self.n_sids + 1, device=self.group.device)  # first SID below each node
        for p in range(self.length - 1, -1, -1):
            classes[:, p] = torch.repeat_interleave(self.label[p].long(), below.diff())
            below = below[self.first[p].long()]
        return classes

    def child_range(self, depth: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """First child and number of children of each ``node`` of depth ``depth``, int64 of the same shape."""
        first = self.first[depth]
        start = first[node].long()
        return start, first[node + 1].long() - start

    def children(self, depth: int, node: Tensor) -> Children:
        """Children of ``node`` int64 ``[M]``, all of depth ``depth`` (0..L-1)."""
        start, count = self.child_range(depth, node)
        owner = torch.repeat_interleave(count)
        begin = start - (torch.cumsum(count, 0) - count)
        child = torch.arange(len(owner), device=node.device).add_(begin.index_select(0, owner))
        return Children(count, owner, child, self.label[depth].index_select(0, child))

    def child(self, depth: int, node: Tensor, label: Tensor) -> Tensor:
        """Child of each ``node`` by class ``label`` (int64, same shape), -1 where there is none or ``node`` is -1."""
        first, labels = self.first[depth], self.label[depth]
        parent = node.clamp_min(0)
        low, stop = first[parent].long(), first[parent + 1].long()
        high, last = stop, len(labels) - 1
        for _ in range(int(self.layout.classes[depth]).bit_length()):
            middle = (low + high) // 2
            right = (middle < high) & (labels[middle.clamp_max(last)] < label)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        hit = (node >= 0) & (low < stop) & (labels[low.clamp_max(last)] == label)
        return torch.where(hit, low, -1)

    def find(self, classes: Tensor) -> Tensor:
        """SID numbers int64 ``[M]`` of ``classes`` int64 ``[M, L]``, -1 where no item has them."""
        node = torch.zeros(len(classes), dtype=torch.int64, device=classes.device)
        for p in range(self.length):
            node = self.child(p, node, classes[:, p])
        return node


def _spans(classes: list[int]) -> list[tuple[int, int]]:
    """Runs of positions whose classes fit one int64 key together."""
    spans, start = [], 0
    for stop in range(1, len(classes) + 1):
        if stop == len(classes) or prod(classes[start : stop + 1]) > WORD:
            spans.append((start, stop))
            start = stop
    return spans


def _word(sids: SemanticIds, layout: CodeLayout, start: int, stop: int) -> np.ndarray:
    """int64 ``[N]`` keys of positions ``start..stop-1``, in the order of their classes."""
    word = np.zeros(sids.n_items, np.int64)
    for p in range(start, stop):
        column = sids.codes[:, p]
        low, high = int(column.min()), int(column.max())
        if low < PAD or high >= layout.sizes[p]:
            raise InputError(
                f"semantic IDs, position {p}",
                got=f"codes {low}..{high}",
                wanted=f"0..{layout.sizes[p] - 1} or PAD ({PAD})",
                do="check the tokenizer's codes",
            )
        word *= layout.classes[p]
        word += np.where(column == PAD, layout.sizes[p], column) if low == PAD else column
    return word


def _levels(
    words: list[np.ndarray], spans: list[tuple[int, int]], classes: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``first`` and ``label`` of every depth from the sorted keys of distinct SIDs."""
    n_sids = len(words[0])
    kind = np.int32 if n_sids < np.iinfo(np.int32).max else np.int64
    begins = np.zeros(n_sids, bool)  # the first SID of every node of the current depth
    begins[0] = True
    nodes = np.zeros(1, kind)
    first, label = [], []
    for word, (start, stop) in zip(words, spans, strict=True):
        for p in range(start, stop):
            column = (word // prod(classes[p + 1 : stop].tolist()) % classes[p]).astype(np.int32)
            begins[1:] |= column[1:] != column[:-1]
            deeper = np.flatnonzero(begins).astype(kind)
            first.append(np.append(np.searchsorted(deeper, nodes), len(deeper)).astype(kind))
            label.append(column[deeper])
            nodes = deeper
    return first, label
