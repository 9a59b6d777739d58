"""Build the vocabulary: merge the pair of largest summed weight until the vocabulary is full or no pair is left.

Only the states around a merge change, so their pairs are taken out of the sums before it and put back after it; with
integer weights the sums then equal a full recount at every step. The largest is found with a lazy heap: an entry
whose weight is out of date is corrected when it comes up, and pairs far below the top wait outside the heap. An index
from pair to sequences says where to look. Ties go to the pair of smallest token numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from sidbench.tokenizers.blocks.actionpiece.corpus import INSIDE, StateList, find_pair
from sidbench.tokenizers.blocks.actionpiece.weights import MASK, SHIFT, Factors, add_weights


class PairQueue:
    """Summed weights of pairs, the largest first. ``weights``: key -> positive weight."""

    def __init__(self, weights: dict[int, int]) -> None:
        self.weights = weights
        self._heap: list[tuple[int, int]] = []
        self._floor = 0
        self._refill()

    def _refill(self) -> None:
        """Put every pair of at least half the largest weight on the heap; smaller ones wait."""
        self._floor = max(self.weights.values(), default=0) // 2
        self._heap = [(-x, key) for key, x in self.weights.items() if x >= self._floor]
        heapq.heapify(self._heap)

    def largest(self) -> int | None:
        """Key of the largest weight, or ``None`` when no pair is left."""
        if not self.weights:
            return None
        while True:
            while self._heap:
                weight, key = self._heap[0]
                current = self.weights.get(key, 0)
                if current == -weight:
                    return key
                heapq.heappop(self._heap)
                if self._floor <= current < -weight:  # a larger one has an entry of its own
                    heapq.heappush(self._heap, (-current, key))
            self._refill()

    def change(self, delta: dict[int, int]) -> list[int]:
        """Add differences; returns the keys that are gone."""
        weights, gone = self.weights, []
        for key, x in delta.items():
            if not x:
                continue
            new = weights.get(key, 0) + x
            if new:
                weights[key] = new
                if x > 0 and new >= self._floor:
                    heapq.heappush(self._heap, (-new, key))
            else:
                del weights[key]
                gone.append(key)
        return gone


class Construction:
    """The state of a construction; iterate to merge. Each step yields ``(u, v, weight)`` of the rule just made.

    sequences: the corpus, changed in place. n_features: number of tokens to begin with; rule ``r`` makes token
    ``n_features + r``. queue.weights: summed integer weights, over ``factors.denominator``.
    """

    def __init__(self, sequences: list[StateList], n_features: int, factors: Factors) -> None:
        self.sequences, self.n_tokens, self.factors = sequences, n_features, factors
        weights: dict[int, int] = {}
        self._where: dict[int, list[int]] = {}
        for number, sequence in enumerate(sequences):
            own: dict[int, int] = {}
            if sequence.states:
                add_weights(sequence, 0, len(sequence.states) - 1, factors, 1, own)
            for key, x in own.items():
                if key in weights:
                    weights[key] += x
                    self._where[key].append(number)
                else:
                    weights[key] = x
                    self._where[key] = [number]
        self.queue = PairQueue(weights)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        while (key := self.queue.largest()) is not None:
            weight = self.queue.weights[key]
            self._merge(key)
            yield key >> SHIFT, key & MASK, weight

    def _merge(self, key: int) -> None:
        u, v, w = key >> SHIFT, key & MASK, self.n_tokens
        self.n_tokens += 1
        delta: dict[int, int] = {}
        for number in dict.fromkeys(self._where.pop(key)):  # the index is a superset, with repeats
            new = self._merge_in(self.sequences[number], u, v, w, delta)
            for pair in new:
                self._where.setdefault(pair, []).append(number)
        for pair in self.queue.change(delta):
            self._where.pop(pair, None)

    def _merge_in(self, sequence: StateList, u: int, v: int, w: int, delta: dict[int, int]) -> set[int]:
        """Merge every ``u, v`` of one sequence; returns the pairs it may not have had before."""
        factors, new, start = self.factors, set(), 0
        while (found := find_pair(sequence, u, v, start)) is not None:
            i, left, right = found
            first, last = (i, i) if right == left == INSIDE else sequence.affected(i)
            add_weights(sequence, first, last, factors, -1, delta)
            deleted = 0
            if first == last:
                sequence.merge_inside(i, u, v, w)
            else:
                deleted = sequence.merge_into_slot(i, left, right, w)
            added: dict[int, int] = {}
            add_weights(sequence, first, last - deleted, factors, 1, added)
            for pair, x in added.items():
                delta[pair] = delta.get(pair, 0) + x
                if deleted or pair & MASK == w:  # without a deletion only the new token gets new neighbours
                    new.add(pair)
            start = max(first - 1, 0) if deleted else i  # a deletion makes neighbours of what was apart
        return new
