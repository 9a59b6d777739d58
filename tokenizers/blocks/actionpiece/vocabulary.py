"""The learned vocabulary as a value: features, merge rules with their weights, and what every token stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.blocks.actionpiece.construct import Construction
from sidbench.tokenizers.blocks.actionpiece.corpus import StateList
from sidbench.tokenizers.blocks.actionpiece.weights import MASK, Factors, pair_key


@dataclass(frozen=True)
class Vocabulary:
    """Tokens ``0..n_features-1`` are the codes of position 0, then of position 1, …; rule ``r`` makes ``n_features + r``.

    sizes: int32 ``[L]`` codes of each position. rules: int32 ``[R, 2]``, smaller token first. priorities: int64 ``[R]``,
    the summed weight a rule had when it was made, over ``Factors(L).denominator``.
    """

    sizes: np.ndarray
    rules: np.ndarray
    priorities: np.ndarray

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 ``[L + 1]``: token of code ``c`` at position ``p`` is ``offsets[p] + c``."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def n_features(self) -> int:
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return self.n_features + len(self.rules)

    @cached_property
    def made_by(self) -> dict[int, int]:
        """Pair key -> token that the pair merges into."""
        return {pair_key(u, v): self.n_features + r for r, (u, v) in enumerate(self.rules.tolist())}

    @cached_property
    def _expansions(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of all tokens in compressed-row form: indptr ``[V + 1]``, features."""
        parts = [(f,) for f in range(self.n_features)]
        for u, v in self.rules.tolist():
            parts.append(parts[u] + parts[v])
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        flat = np.fromiter((f for part in parts for f in part), np.int32, int(lengths.sum()))
        return np.concatenate([[0], np.cumsum(lengths)]), flat

    def features_of(self, codes: np.ndarray) -> np.ndarray:
        """Feature tokens int64 ``[N, L]`` of codes ``[N, L]``. Raises ``InputError`` for codes outside the sizes."""
        if codes.ndim != 2 or codes.shape[1] != len(self.sizes) or (codes < 0).any() or (codes >= self.sizes).any():
            raise InputError(
                "actionpiece: codes",
                got=f"shape {codes.shape}, values {codes.min(initial=0)}..{codes.max(initial=0)}",
                wanted=f"{len(self.sizes)} positions of sizes {self.sizes.tolist()} without PAD",
                do="give the codes that encode() of this tokenizer made",
            )
        return codes.astype(np.int64) + self.offsets[:-1]

    def expand(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features of tokens: indptr int64 ``[T + 1]``, position int32 ``[F]``, code int32 ``[F]``."""
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= len(self)):
            raise InputError(
                "actionpiece: tokens to expand",
                got=f"{tokens.min()}..{tokens.max()}",
                wanted=f"0..{len(self) - 1}",
                do="drop PAD, BOS and EOS before decoding",
            )
        begins, flat = self._expansions
        lengths = begins[tokens + 1] - begins[tokens]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        features = flat[np.repeat(begins[tokens] - indptr[:-1], lengths) + np.arange(indptr[-1])]
        position = np.searchsorted(self.offsets, features, side="right") - 1
        return indptr, position.astype(np.int32), (features - self.offsets[position]).astype(np.int32)

    @staticmethod
    def checked(sizes: np.ndarray, rules: np.ndarray, priorities: np.ndarray, who: str) -> Vocabulary:
        """A vocabulary from stored arrays. Raises ``InputError`` when no construction can have made them."""
        vocabulary = Vocabulary(sizes.astype(np.int32), rules.astype(np.int32), priorities.astype(np.int64))
        made = vocabulary.n_features + np.arange(len(rules))
        fits = (
            len(rules) == len(priorities)
            and len(vocabulary) <= MASK
            and bool(
                (rules[:, 0] >= 0).all()
                and (rules[:, 0] <= rules[:, 1]).all()
                and (rules[:, 1] < made).all()
                and (priorities > 0).all()
                and len(vocabulary.made_by) == len(rules)
            )
        )
        if not fits:
            raise InputError(
                f"{who} state entry rules",
                got="rules that are no sequence of merges",
                wanted="distinct pairs of earlier tokens, each with a positive priority",
                do="fit the tokenizer again",
            )
        return vocabulary


def build_vocabulary(events: Sequence[np.ndarray], sizes: np.ndarray, limit: int) -> tuple[Vocabulary, int]:
    """Vocabulary of at most ``limit`` tokens from users' feature tokens ``[events, L]``; and the tokens the corpus has left.

    sizes: codes of each position. Fewer tokens are made only when no two tokens are neighbours any more.
    """
    corpus = [StateList(user.tolist()) for user in events]
    n_features = int(sizes.sum())
    made = []
    for rule in Construction(corpus, n_features, Factors(len(sizes))) if n_features < limit else ():
        made.append(rule)
        if n_features + len(made) >= limit:
            break
    table = np.array(made, np.int64).reshape(-1, 3)
    vocabulary = Vocabulary(sizes.astype(np.int32), table[:, :2].astype(np.int32), table[:, 2])
    return vocabulary, sum(sequence.n_tokens() for sequence in corpus)
