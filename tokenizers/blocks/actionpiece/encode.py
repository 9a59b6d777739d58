"""Encode a user's events with a vocabulary, and decode tokens to items.

``permute_and_merge`` ("feature"): the features of every state in random order, states one after another, then byte-pair
merges of neighbours in the order of the rules: on average every pair meets as often as its weight says.
``merge_greedily`` ("none"): on states and slots, the one merge of largest priority times positional weight at a time;
deterministic. Ties go to the earlier rule, then to the left.
"""

from __future__ import annotations

import heapq

import numpy as np

from sidbench.tokenizers.blocks.actionpiece.corpus import EMPTY, StateList
from sidbench.tokenizers.blocks.actionpiece.vocabulary import Vocabulary
from sidbench.tokenizers.blocks.actionpiece.weights import SHIFT, Factors

Candidate = tuple[int, int, int, int]  # minus priority x weight, token made, and the two tokens as merge_into_slot's
Merged = list[tuple[int, int, int]]  # token, first event, last event


def permute_and_merge(features: np.ndarray, vocabulary: Vocabulary) -> Merged:
    """Tokens of one user's features ``[E, L]``, already in random order within each row."""
    made_by = vocabulary.made_by.get
    tokens: list[int] = features.reshape(-1).tolist()
    n, width = len(tokens), features.shape[1]
    after, before, end = list(range(1, n + 1)), list(range(-1, n - 1)), list(range(n))  # end: last feature of the token
    heap: list[int] = []

    def offer(left: int, right: int) -> None:
        u, v = tokens[left], tokens[right]
        if (w := made_by(u << SHIFT | v if u < v else v << SHIFT | u)) is not None:
            heapq.heappush(heap, w << 32 | left)  # the earliest rule first, then the leftmost pair

    for left in range(n - 1):
        offer(left, left + 1)
    while heap:
        entry = heapq.heappop(heap)
        w, left = entry >> 32, entry & 0xFFFFFFFF
        right = after[left]
        u, v = tokens[left], tokens[right] if right < n else EMPTY
        if u == EMPTY or v == EMPTY or made_by(u << SHIFT | v if u < v else v << SHIFT | u) != w:
            continue  # one of the two has been merged with another
        tokens[left], tokens[right], end[left] = w, EMPTY, end[right]
        after[left] = after[right]
        if after[left] < n:
            before[after[left]] = left
            offer(left, after[left])
        if before[left] >= 0:
            offer(before[left], left)
    return [(t, i // width, end[i] // width) for i, t in enumerate(tokens) if t != EMPTY]


class GreedyMerger:
    """Applies a vocabulary to state lists, best merge first; holds the tables that all users share."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._made_by = vocabulary.made_by
        self._priority = [0] * vocabulary.n_features + vocabulary.priorities.tolist()
        self._factors = Factors(len(vocabulary.sizes))

    def merge(self, sequence: StateList) -> None:
        """Merge until no rule applies. Only the places around a merge are looked at again."""
        inside = [self._best_inside(state) for state in sequence.states]
        across = [self._best_across(sequence, i) for i in range(len(sequence.slots))]
        while True:
            best, place = min(((c, 2 * i) for i, c in enumerate(inside) if c), key=_rank, default=(None, 0))
            other, site = min(((c, 2 * i + 1) for i, c in enumerate(across) if c), key=_rank, default=(None, 0))
            if best is None or (other is not None and _rank((other, site)) < _rank((best, place))):
                best, place = other, site
            if best is None:
                return
            _, w, left, right = best
            i, deleted = place // 2, 0
            first, last = (i, i) if place % 2 == 0 else sequence.affected(i)
            if place % 2 == 0:
                sequence.merge_inside(i, left, right, w)
            else:
                deleted = sequence.merge_into_slot(i, left, right, w)
            inside[first : last + 1] = [self._best_inside(s) for s in sequence.states[first : last + 1 - deleted]]
            begin, stop = max(first - 1, 0), min(last + 1, len(across))
            across[begin:stop] = [self._best_across(sequence, j) for j in range(begin, stop - deleted)]

    def _best_inside(self, state: list[int]) -> Candidate | None:
        best = None
        for a, u in enumerate(state):
            for v in state[a + 1 :]:
                best = self._better(best, u, v, u, v)
        return self._weighted(best, self._factors.inside[len(state)])

    def _best_across(self, sequence: StateList, i: int) -> Candidate | None:
        before, after, slot = sequence.states[i], sequence.states[i + 1], sequence.slots[i]
        best = None
        if slot == EMPTY:
            for u in before:
                for v in after:
                    best = self._better(best, u, v, u, v)
            return self._weighted(best, self._factors.across[len(before)][len(after)])
        for u in before:
            best = self._better(best, u, slot, u, EMPTY)
        best = self._weighted(best, self._factors.beside[len(before)])
        other = None
        for v in after:
            other = self._better(other, slot, v, EMPTY, v)
        other = self._weighted(other, self._factors.beside[len(after)])
        return other if best is None or (other is not None and other[:2] < best[:2]) else best

    def _better(self, best: Candidate | None, u: int, v: int, left: int, right: int) -> Candidate | None:
        """The better of a candidate and the merge of ``u`` and ``v``, at one place, where positional weights are equal."""
        w = self._made_by.get(u << SHIFT | v if u < v else v << SHIFT | u)
        if w is None or (best is not None and best[:2] <= (-self._priority[w], w)):
            return best
        return -self._priority[w], w, left, right

    @staticmethod
    def _weighted(best: Candidate | None, weight: int) -> Candidate | None:
        return None if best is None else (best[0] * weight, *best[1:])


def _rank(found: tuple[Candidate, int]) -> tuple[int, int, int]:
    candidate, place = found
    return candidate[0], candidate[1], place


def merge_greedily(features: np.ndarray, merger: GreedyMerger, shuffle: np.random.Generator | None = None) -> Merged:
    """Tokens of one user's features ``[E, L]``; ``shuffle`` puts the tokens inside each state into random order."""
    sequence = StateList(features.tolist())
    merger.merge(sequence)
    if shuffle is not None:
        for state in sequence.states:
            if len(state) > 1:
                shuffle.shuffle(state)
    return [(token, first, last) for token, (first, last) in sequence.tokens()]


def spelled_codes(indptr: np.ndarray, vocabulary: Vocabulary, tokens: np.ndarray) -> np.ndarray:
    """Codes int64 ``[U, L]`` spelled by token sequences; a row of -1 unless every position occurs exactly once."""
    length = len(vocabulary.sizes)
    begins, position, code = vocabulary.expand(tokens)
    counts = np.diff(begins[indptr])
    owner = np.repeat(np.arange(len(counts)), counts)
    codes = np.full((len(counts), length), -1, np.int64)
    codes[owner, position] = code
    codes[(counts != length) | (codes < 0).any(axis=1)] = -1
    return codes
