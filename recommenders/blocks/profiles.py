"""Retrievers that are one matrix: a user is a weighted history, and ``scores = profile @ matrix``.

Users are scored in blocks of at most ``CELLS`` scores, so memory does not grow with users times items.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import MEAN, Retriever, TargetRanks
from sidbench.recommenders.blocks.exact import CELLS, Candidates, RankCollector, rank_scores
from sidbench.recommenders.blocks.windows import check_histories, take_sequences
from sidbench.tokenizers.base import SemanticIds


def decayed_profiles(histories: Sequences, n_items: int, decay: float) -> sparse.csr_array:
    """float64 ``[B, N]``: ``sum over events of item i of decay^age``, the newest event of a history having age 0."""
    age = np.repeat(histories.indptr[1:], histories.lengths) - 1 - np.arange(len(histories.items))
    profiles = sparse.csr_array(
        (np.power(float(decay), age), histories.items.astype(np.int64), histories.indptr),
        shape=(histories.n_users, n_items),
    )
    profiles.sum_duplicates()
    return profiles


class ProfileRetriever(Retriever):
    """Ranks by ``_scores``; what it costs is on the record as ``ms_per_user``."""

    diagnostic_combine: ClassVar[Mapping[str, str]] = {"ms_per_user": MEAN}

    def __init__(self, config: Any = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._notes: dict[str, float] = {}

    @abstractmethod
    def _catalogue_size(self) -> int:
        """Number of items of the fitted model. Raises ``InputError`` before ``fit``."""

    @abstractmethod
    def _scores(self, histories: Sequences) -> np.ndarray:
        """float ``[B, N]`` of a block of histories. A row depends on its own history alone, so that equal histories
        have equal scores in every block."""

    def rank_targets(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds | None, runtime: Runtime
    ) -> TargetRanks:
        n_items = self._catalogue_size()
        check_histories(histories, targets, n_items)
        start = time.perf_counter()
        candidates, collector = Candidates(histories, targets, n_items), RankCollector(len(targets))
        rows = max(CELLS // n_items, 1)
        for begin in range(0, len(targets), rows):
            users = np.arange(begin, min(begin + rows, len(targets)))
            # Rounded, so that sums which differ in the order of their terms alone still tie.
            scores = self._scores(take_sequences(histories, users)).astype(np.float32)
            collector.add(users, rank_scores(runtime.tensor(scores), users, candidates, runtime))
        self._notes["ms_per_user"] = 1e3 * (time.perf_counter() - start) / max(len(targets), 1)
        return collector.result()

    def _not_fitted(self) -> InputError:
        return InputError(f"{self.name}: model", got="not fitted", wanted="fit or load_state_dict first")

    def diagnostics(self) -> dict[str, float]:
        return dict(self._notes)
