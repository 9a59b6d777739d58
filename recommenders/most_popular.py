"""Most popular items for everybody: the floor that every retrieval table should show.

``score(i)`` = training events of item ``i``; items with equal counts tie exactly, so cold items share the last ranks.
Nothing is personal but the masked ranks, which leave out what a user has seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import MEAN, RecommenderInfo, RetrievalData, Retriever, TargetRanks
from sidbench.recommenders.blocks.exact import CELLS, Candidates, RankCollector, rank_scores
from sidbench.recommenders.blocks.windows import check_histories
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="Most popular items (floor without a model)",
    version=1,
    paper="arXiv 1205.2618 (the baseline most-popular)",
    year=2009,
    url="https://arxiv.org/abs/1205.2618",
    bibtex="@misc{bpr2009,\n"
    "  title={BPR: Bayesian Personalized Ranking from Implicit Feedback}, year={2009},\n"
    "  eprint={1205.2618}, archivePrefix={arXiv}, url={https://arxiv.org/abs/1205.2618}}",
    task="retrieval",
    needs_sids=False,
)


@dataclass(frozen=True)
class MostPopularConfig:
    """Nothing to set."""


class MostPopular(Retriever):
    """Ranks the catalogue by training events, equally for all users."""

    info = INFO
    config_class = MostPopularConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {}, "quick": {}, "standard": {}, "paper": {}}
    diagnostic_combine: ClassVar[Mapping[str, str]] = {"ms_per_user": MEAN}

    def __init__(self, config: MostPopularConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.counts_: np.ndarray | None = None
        self._notes: dict[str, float] = {}

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        items = data.train.items
        if len(items) and (items.min() < 0 or items.max() >= data.n_items):
            raise InputError(
                f"{self.name}: training items", got=f"{items.min()}..{items.max()}", wanted=f"0..{data.n_items - 1}"
            )
        self.counts_ = np.bincount(items, minlength=data.n_items).astype(np.int64)
        self._notes = {}
        return self

    def rank_targets(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds | None, runtime: Runtime
    ) -> TargetRanks:
        counts = self._counts()
        check_histories(histories, targets, len(counts))
        start = time.perf_counter()
        candidates, collector = Candidates(histories, targets, len(counts)), RankCollector(len(targets))
        scores, rows = runtime.tensor(counts.astype(np.float32)), max(CELLS // len(counts), 1)
        for begin in range(0, len(targets), rows):
            users = np.arange(begin, min(begin + rows, len(targets)))
            collector.add(users, rank_scores(scores.expand(len(users), -1), users, candidates, runtime))
        self._notes = {"ms_per_user": 1e3 * (time.perf_counter() - start) / max(len(targets), 1)}
        return collector.result()

    def _counts(self) -> np.ndarray:
        if self.counts_ is None:
            raise InputError(f"{self.name}: model", got="not fitted", wanted="fit or load_state_dict first")
        return self.counts_

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"counts": self._counts()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        counts = state.get("counts")
        if counts is None or set(state) != {"counts"} or counts.ndim != 1:
            raise InputError(
                f"{self.name}: saved state", got=f"entries {sorted(state)}", wanted="one entry counts [N]", do="fit it again"
            )
        self.counts_ = np.asarray(counts, np.int64)

    def diagnostics(self) -> dict[str, float]:
        return dict(self._notes)
