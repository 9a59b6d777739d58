"""Sub-words over code strings: the unigram language model of SentencePiece, for strings of position-specific codes.

Kudo, "Subword Regularization", ACL 2018, section 3.2: start from all frequent substrings, then in turn re-estimate the
piece probabilities by EM and drop the pieces whose loss costs the likelihood least, until the vocabulary has its size;
encode by the segmentation of largest probability. As in SentencePiece, EM runs twice between prunings, uses
``exp(digamma)`` of the expected counts and drops pieces expected less than half a time; a pruning keeps 3/4.

Codes are position specific, so a piece is (first position, codes), all strings have one lattice of ``L (L+1) / 2``
edges, and forward-backward is a few array operations over all strings. The native trainer takes weights as they are
(the sentencepiece package repeats a string as often as its weight) and seeds from codes: the package, as of 0.2.3,
seeds from bytes, and finds almost no substring that ends where a code ends when all codes start with the same byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import digamma

from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.training.content import state_entry

LONGEST = 16  # codes in a piece, SentencePiece's default
_ROUNDS, _KEPT, _LEAST, _SLACK, _SEEDS = 2, 0.75, 0.5, 1.1, 1_000_000
Edge = tuple[int, int]


@dataclass(frozen=True)
class Pieces:
    """A trained vocabulary. Pieces ``0..sum(sizes)-1`` are the single codes, by position; then the longer ones.

    sizes: int32 ``[L]`` of the strings. scores: float64 ``[V]`` log probabilities. starts: int32 ``[M]`` first position
    of the ``M`` longer pieces, ``codes[indptr[m]:indptr[m + 1]]`` (int32) their codes; PAD inside one is kept.
    """

    sizes: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    indptr: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def piece(self, number: int) -> tuple[int, tuple[int, ...]]:
        """First position and codes of a piece."""
        singles = len(self) - len(self.starts)
        if number < singles:
            ends = np.cumsum(self.sizes)
            position = int(np.searchsorted(ends, number, side="right"))
            return position, (number - int(ends[position] - self.sizes[position]),)
        m = number - singles
        return int(self.starts[m]), tuple(self.codes[self.indptr[m] : self.indptr[m + 1]].tolist())

    @cached_property
    def _table(self) -> dict[tuple[int, bytes], tuple[int, float]]:
        """(first position, codes as bytes) -> piece and its score."""
        table = {}
        for number, score in enumerate(self.scores.tolist()):
            start, codes = self.piece(number)
            table[start, np.array(codes, np.int32).tobytes()] = (number, score)
        return table

    def encode(self, strings: np.ndarray) -> np.ndarray:
        """Best segmentation int32 ``[N, L]`` of code strings int32 ``[N, L]``: pieces from the left, then PAD."""
        unique, inverse = np.unique(strings, axis=0, return_inverse=True)
        found = np.full(unique.shape, PAD, np.int32)
        for row, string in zip(found, np.ascontiguousarray(unique, np.int32), strict=True):
            pieces = self._segment(string.tobytes(), (string == PAD).tolist())
            row[: len(pieces)] = pieces
        return found[inverse.reshape(-1)]

    def _segment(self, string: bytes, absent: list[bool]) -> list[int]:
        best, back, look = [0.0], [(0, PAD)], self._table.get
        for end in range(1, len(absent) + 1):
            if absent[end - 1]:  # no code, no piece
                score, step = best[-1], (end - 1, PAD)
            else:
                score, step = -np.inf, (0, PAD)
                for start in range(max(end - LONGEST, 0), end):
                    piece = look((start, string[4 * start : 4 * end]))
                    if piece is not None and best[start] + piece[1] > score:
                        score, step = best[start] + piece[1], (start, piece[0])
            best.append(score)
            back.append(step)
        pieces, end = [], len(absent)
        while end:
            end, piece_number = back[end]
            if piece_number != PAD:
                pieces.append(piece_number)
        return pieces[::-1]

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Code strings int32 ``[N, L]`` of pieces ``[N, L]``; the inverse of ``encode``."""
        strings = np.full(encoded.shape, PAD, np.int32)
        for row, pieces in zip(strings, encoded.tolist(), strict=True):
            for number in pieces:
                if number != PAD:
                    start, codes = self.piece(number)
                    row[start : start + len(codes)] = codes
        return strings

    def state(self) -> dict[str, np.ndarray]:
        """Arrays to save."""
        return {name: getattr(self, name) for name in ("sizes", "scores", "starts", "indptr", "codes")}

    @staticmethod
    def from_state(state: Mapping[str, np.ndarray], length: int, who: str) -> Pieces:
        """The inverse of ``state``. Raises ``InputError`` when the arrays are no vocabulary of strings of ``length``."""
        sizes = state_entry(state, "sizes", (length,), who).astype(np.int32)
        starts, codes = (state_entry(state, n, (None,), who).astype(np.int32) for n in ("starts", "codes"))
        indptr = state_entry(state, "indptr", (len(starts) + 1,), who).astype(np.int64)
        scores = state_entry(state, "scores", (int(sizes.sum()) + len(starts),), who).astype(np.float64)
        lengths = np.diff(indptr)
        position = np.repeat(starts - indptr[:-1], lengths) + np.arange(len(codes)) if indptr[-1] == len(codes) else None
        if (
            (sizes < 1).any()
            or not np.isfinite(scores).all()
            or indptr[0] != 0
            or (lengths < 2).any()
            or position is None
            or (starts < 0).any()
            or (position >= length).any()
            or (codes < PAD).any()
            or (codes >= sizes[position]).any()
        ):
            raise InputError(
                f"{who} state",
                got="pieces that do not fit the code strings",
                wanted=f"runs of codes within {length} positions, with finite scores",
                do="fit the tokenizer again",
            )
        return Pieces(sizes, scores, starts, indptr, codes)


def train_pieces(strings: np.ndarray, weights: np.ndarray, sizes: np.ndarray, vocabulary_size: int) -> Pieces:
    """Vocabulary of at most ``vocabulary_size`` pieces, single codes included.

    strings: int32 ``[N, L]`` codes, PAD where there is none. weights: float64 ``[N]``, how often each was used.
    Raises ``InputError`` when the single codes alone are more than ``vocabulary_size``.
    """
    singles = int(sizes.sum())
    if vocabulary_size < singles:
        raise InputError(
            "vocabulary_size",
            got=vocabulary_size,
            wanted=f"at least {singles}, a piece for every code of every position",
            do=f"set tokenizer.vocabulary_size={2 * singles}, or fewer codes",
        )
    used = weights > 0
    unique, inverse = np.unique(strings[used], axis=0, return_inverse=True)
    lattice = _Lattice(unique, np.bincount(inverse.reshape(-1), weights[used], len(unique)))
    wanted = vocabulary_size - singles
    while True:
        for _ in range(_ROUNDS):
            counts = lattice.estimate()
        longer = lattice.longer()
        if len(longer) <= _SLACK * wanted:
            break
        lattice.drop(longer, counts, max(int(_SLACK * wanted), int(_KEPT * len(longer))))
    longer = longer[np.argsort(-lattice.scores[longer], kind="stable")][:wanted]
    return lattice.pieces(longer, sizes)


class _Lattice:
    """Substrings of ``n`` strings with weights: ``pieces_at[s, e]`` int64 ``[n]`` is the candidate that spans ``s..e-1``.

    scores: log probability of every candidate, ``-inf`` when dropped; 0 for a lone PAD, which is no piece.
    """

    def __init__(self, strings: np.ndarray, weights: np.ndarray) -> None:
        self.strings, self.weights = strings, weights
        self.length = strings.shape[1]
        self.pieces_at: dict[Edge, np.ndarray] = {}
        self.firsts: list[np.ndarray] = []  # by edge: a string in which each candidate occurs
        edges, width, total = [], int(strings.max(initial=0)) + 2, 0
        for start in range(self.length):
            local = np.zeros(len(strings), np.int64)
            for end in range(start + 1, min(start + LONGEST, self.length) + 1):
                keys = local * width + strings[:, end - 1] + 1
                _, first, local = np.unique(keys, return_index=True, return_inverse=True)
                local = local.reshape(-1)
                self.pieces_at[start, end] = local + total
                self.firsts.append(first)
                edges.append((start, end))
                total += len(first)
        self.edges = np.repeat(np.array(edges, np.int64).reshape(-1, 2), [len(f) for f in self.firsts], axis=0)
        self.lengths = self.edges[:, 1] - self.edges[:, 0]
        self.first = np.concatenate([*self.firsts, np.zeros(0, np.int64)])
        begin, end = (strings[self.first, self.edges[:, side] - side] for side in (0, 1))
        counts = np.zeros(total)
        for ids in self.pieces_at.values():
            counts += np.bincount(ids, weights, total)
        self.absent = (self.lengths == 1) & (begin == PAD)
        seeds = (begin != PAD) & (end != PAD) & ((self.lengths == 1) | (counts >= 2))
        mass = np.where(seeds, counts * self.lengths, 0)
        longer = np.flatnonzero(seeds & (self.lengths > 1))
        if len(longer) > _SEEDS:
            mass[longer[np.argsort(-mass[longer], kind="stable")[_SEEDS:]]] = 0
        with np.errstate(divide="ignore"):
            self.scores = np.log(mass) - np.log(max(mass.sum(), 1e-300))
        self.scores[self.absent] = 0

    def longer(self) -> np.ndarray:
        """Candidates of two codes and more that are still in."""
        return np.flatnonzero((self.lengths > 1) & np.isfinite(self.scores))

    def estimate(self) -> np.ndarray:
        """One EM step; returns the expected counts ``[candidates]``."""
        n, length = len(self.strings), self.length
        forward, backward = np.full((length + 1, n), -np.inf), np.full((length + 1, n), -np.inf)
        forward[0] = backward[length] = 0
        at = {edge: self.scores[ids] for edge, ids in self.pieces_at.items()}
        for start, end in sorted(at, key=lambda edge: edge[1]):
            forward[end] = np.logaddexp(forward[end], forward[start] + at[start, end])
        for start, end in sorted(at, key=lambda edge: -edge[0]):
            backward[start] = np.logaddexp(backward[start], backward[end] + at[start, end])
        counts = np.zeros(len(self.scores))
        for (start, end), ids in self.pieces_at.items():
            share = np.exp(forward[start] + at[start, end] + backward[end] - forward[length])
            counts += np.bincount(ids, self.weights * share, len(counts))
        counts[self.absent] = 0
        kept = np.isfinite(self.scores) & ~self.absent & ((self.lengths == 1) | (counts >= _LEAST))
        self.scores = np.where(kept, digamma(np.maximum(counts, 1e-3)) - digamma(max(counts[kept].sum(), 1e-3)), -np.inf)
        self.scores[self.absent] = 0
        return counts

    def drop(self, longer: np.ndarray, counts: np.ndarray, keep: int) -> None:
        """Keep the ``keep`` longer pieces whose removal would cost most: count x (score - score of the best split)."""
        best: dict[Edge, np.ndarray] = {}
        split = np.full(len(self.scores), -np.inf)
        for start, end in sorted(self.pieces_at, key=lambda edge: edge[1] - edge[0]):
            ids = self.pieces_at[start, end]
            parts = [best[start, middle] + best[middle, end] for middle in range(start + 1, end)]
            if parts:
                split[ids] = np.max(parts, axis=0)
            best[start, end] = np.maximum(self.scores[ids], split[ids])
        cost = counts[longer] * (self.scores[longer] - split[longer])
        self.scores[longer[np.argsort(-cost, kind="stable")[keep:]]] = -np.inf

    def pieces(self, longer: np.ndarray, sizes: np.ndarray) -> Pieces:
        """The vocabulary of all single codes and the candidates ``longer``."""
        single = np.flatnonzero((self.lengths == 1) & ~self.absent)
        position = self.edges[single, 0]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        seen = self.scores[single]
        scores = np.full(int(offsets[-1]), seen.min(initial=0) - 10)  # codes never used in training: only where needed
        scores[offsets[position] + self.strings[self.first[single], position]] = seen
        runs = [self.strings[self.first[m], self.edges[m, 0] : self.edges[m, 1]] for m in longer]
        indptr = np.concatenate([[0], np.cumsum(self.lengths[longer])]).astype(np.int64)
        return Pieces(
            sizes.astype(np.int32),
            np.concatenate([scores, self.scores[longer]]),
            self.edges[longer, 0].astype(np.int32),
            indptr,
            np.concatenate([*runs, np.zeros(0, np.int32)]).astype(np.int32),
        )
