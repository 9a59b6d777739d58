"""The contracts of recommender plugins: ``Retriever`` (next item over the whole catalogue) and ``Ranker`` (one row).

Life cycle. The pipeline constructs the class with its config, calls ``fit`` once per (data, SIDs, config, seed), then
``rank_targets`` (retriever) or ``predict`` (ranker) on validation-free test data once. ``state_dict`` is saved after
``fit``. Everything random comes from ``rng``; every tensor lives on ``runtime.device``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from sidbench.datasets.foundation.plugin import PluginBase
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.datasets.splits.rows import EventRows as RankingRows
from sidbench.tokenizers.base import SemanticIds

# How one diagnostic of several processes, each of which ranked a part of the users or rows, becomes that of all.
SUM = "sum"  # counts of what a process did
MEAN = "mean"  # times and shares, weighted by the users or rows of each process
MAX, MIN = "max", "min"
SAME = "same"  # facts of the model, alike in every process
COMBINATIONS = (SUM, MEAN, MAX, MIN, SAME)


@dataclass(frozen=True)
class RecommenderInfo:
    """Static metadata, read from source without importing it: keep every argument a literal.

    year: of the paper, ``None`` without one. task: "retrieval" or "ranking". needs_sids: False for item-ID baselines.
    reads_text: whether it reads ``RetrievalData.item_text``, which no other recommender is given.
    url: page of the paper (arXiv or DOI); bibtex: its key or whole entry; both empty without one.
    version: raised by its author when the numbers it computes change; part of stage keys, run ids and comparability.
    """

    title: str
    paper: str
    task: str
    year: int | None = None
    needs_sids: bool = True
    reads_text: bool = False
    deviations: tuple[str, ...] = ()
    version: int = 1
    url: str = ""
    bibtex: str = ""


@dataclass(frozen=True)
class RetrievalData:
    """Sequences for next-item prediction. ``history``-target pairs, one per evaluated user.

    train: training sequences of all users. n_items: catalogue size.
    validation_history / validation_target: int64 user index ``[V]`` is ``validation_user``; the history is the user's
    training sequence, the target int32 ``[V]``. test_*: the history is training plus validation events.
    item_text: title, brand and categories of each item in one string, empty where it has none; ``None`` where the
    catalogue has no such field, and for recommenders whose ``info.reads_text`` is false.
    """

    n_items: int
    train: Sequences
    validation_user: np.ndarray
    validation_target: np.ndarray
    test_user: np.ndarray
    test_history: Sequences
    test_target: np.ndarray
    item_text: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TargetRanks:
    """Where the target stands among all items, as an interval that states ties instead of breaking them.

    better: int64 ``[B]`` items scored strictly above the target. tied: int64 ``[B]`` items scored exactly like it,
    itself included (>= 1); the target's 1-based rank is uniform on ``better+1 .. better+tied``.
    sid_better, sid_tied: the same counted in distinct SIDs (what string-level metrics see).
    masked_better, masked_tied: item level after removing the user's history from the candidates.
    score: float32 ``[B]`` the target's score; NaN where a beam did not reach it.
    depth: int64 ``[B]`` number of best items whose ranks, with and without the user's history, are known one by one;
    the number of items for exact models. sid_depth: int64 ``[B]`` the same in distinct SIDs. A target beyond the depth
    has everything that was not covered as its interval, so a metric at a cut-off above the depth means nothing.
    """

    better: np.ndarray
    tied: np.ndarray
    sid_better: np.ndarray
    sid_tied: np.ndarray
    masked_better: np.ndarray
    masked_tied: np.ndarray
    score: np.ndarray
    depth: np.ndarray
    sid_depth: np.ndarray


@dataclass(frozen=True)
class RankingData:
    """Rows for click/like prediction under a global (or per-user) time split.

    Each split name ("train", "validation", "test") maps to rows; history of a row holds only strictly earlier events.
    user int32 ``[R]`` (``n_users`` = the out-of-vocabulary row for users without training rows), item int32 ``[R]``,
    label float32 ``[R]`` in {0, 1}, day_of_week and month int32 ``[R]``, history int32 ``[R, H]`` newest first, -1 = none.
    item_fields: name -> int32 ``[N]`` categorical side fields (category, brand, price bucket), 0 = unknown.
    item_field_sizes: name -> number of values including unknown.
    """

    n_users: int
    n_items: int
    rows: Mapping[str, RankingRows]
    item_fields: Mapping[str, np.ndarray]
    item_field_sizes: Mapping[str, int]


class Recommender(PluginBase):
    """What retrievers and rankers share; constructor and ``name`` are those of ``PluginBase``.

    diagnostic_combine: name of a diagnostic -> one of ``COMBINATIONS``; a class adds to those of its bases. Every name that
    ``diagnostics`` may give is declared, which ``bench plugin check`` demands. One that is not is taken as ``SAME``; where
    the processes of a command then differ, the mean is recorded with a warning.
    """

    entry_points: ClassVar[str] = "sidbench.recommenders"
    info: ClassVar[RecommenderInfo]
    diagnostic_combine: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def combinations(cls) -> dict[str, str]:
        """``diagnostic_combine`` of the class and all its bases; what is nearer to the class wins."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base).get("diagnostic_combine", {})
        return found

    @property
    def reads_sids(self) -> bool:
        """Whether this model, with its config, reads SIDs; a row of a tokenizer must, a baseline must not."""
        return self.info.needs_sids

    @abstractmethod
    def state_dict(self) -> dict[str, np.ndarray]:
        """Learned state as numpy arrays."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore ``state_dict`` (needs the same config). Raises ``InputError`` naming the entry that does not fit."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers for the record: examples_per_second, truncated histories, best epoch, embedding parameters. Their names
        are those of ``diagnostic_combine``."""
        return {}

    @property
    def n_parameters(self) -> int:
        """Number of learned scalars."""
        return int(sum(a.size for a in self.state_dict().values()))


class Retriever(Recommender):
    """Predicts the next item of a user among all items."""

    @abstractmethod
    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        """Train on ``data.train``, selecting by validation; never reads the test fields."""

    @abstractmethod
    def rank_targets(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds | None, runtime: Runtime
    ) -> TargetRanks:
        """Rank intervals of ``targets`` int32 ``[B]`` given ``B`` histories, over the whole catalogue: exact, or down
        to the stated depth."""


class Ranker(Recommender):
    """Scores (user, item) rows."""

    @abstractmethod
    def fit(self, data: RankingData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        """Train on ``data.rows["train"]``, selecting by ``"validation"``; never reads ``"test"``."""

    @abstractmethod
    def predict(self, data: RankingData, split: str, sids: SemanticIds | None, runtime: Runtime) -> np.ndarray:
        """float32 ``[R]`` scores of the rows of one split; higher means more likely positive."""
