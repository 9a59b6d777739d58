"""What every run on one dataset shares: its splits and the data of both tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.stages.tasks import ranking_data, retrieval_data
from sidbench.datasets.base import Dataset, Interactions
from sidbench.datasets.features.text import item_labels
from sidbench.datasets.foundation.hashing import hash_arrays, hash_json, hash_strings
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Split
from sidbench.datasets.splits.global_time import global_time, per_user_time
from sidbench.datasets.splits.intersect import shared_training
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.recommenders.base import RankingData, RetrievalData

SPLIT_SEED = 0  # one shuffle of ties for all runs, so that seeds vary tokenizer and recommender but never the test set
UNSEEN_USERS_LIMIT = 0.5  # share of test rows from unseen users above which a global cut is no ranking task


@dataclass(frozen=True)
class Prepared:
    """A dataset with its splits. Task data are made when first asked for."""

    dataset: Dataset
    retrieval_split: Split
    ranking_split: Split | None

    @cached_property
    def dataset_hash(self) -> str:
        return self.dataset.content_hash()

    @cached_property
    def retrieval(self) -> RetrievalData:
        return retrieval_data(self.retrieval_split, self.dataset.n_users, self.dataset.n_items)

    @cached_property
    def ranking(self) -> RankingData | None:
        return None if self.ranking_split is None else ranking_data(self.ranking_split, self.dataset)

    @property
    def shared_training(self) -> Interactions:
        """Training events of every protocol of the run, so that features hold no test event of any."""
        return shared_training(*(s for s in (self.retrieval_split, self.ranking_split) if s is not None))

    @property
    def retrieval_dropped(self) -> Mapping[str, int]:
        return self.retrieval_split.dropped

    @cached_property
    def retrieval_counts(self) -> np.ndarray:
        """int64 ``[N]`` training events per item of the retrieval split, for strata."""
        return np.bincount(self.retrieval_split.train.item, minlength=self.dataset.n_items)

    @cached_property
    def ranking_counts(self) -> np.ndarray:
        """int64 ``[N]`` training events per item of the ranking split, for strata."""
        events = self.ranking_split.train.item if self.ranking_split is not None else np.zeros(0, np.int32)
        return np.bincount(events, minlength=self.dataset.n_items)

    @cached_property
    def ranking_users(self) -> np.ndarray:
        """int32 ``[R]`` true users of the test rows (the rows themselves map unseen users to one out-of-vocabulary row)."""
        return self.ranking_split.test.user if self.ranking_split is not None else np.zeros(0, np.int32)

    @cached_property
    def retrieval_key(self) -> str:
        """Content hash of the retrieval data."""
        d = self.retrieval
        return hash_arrays(
            {
                "train_indptr": d.train.indptr,
                "train": d.train.items,
                "vu": d.validation_user,
                "vt": d.validation_target,
                "tu": d.test_user,
                "hi": d.test_history.indptr,
                "h": d.test_history.items,
                "t": d.test_target,
            }
        )

    @cached_property
    def retrieval_with_text(self) -> RetrievalData:
        """The retrieval data for recommenders that read texts."""
        return replace(self.retrieval, item_text=item_labels(self.dataset.catalog))

    @cached_property
    def retrieval_text_key(self) -> str:
        """Content hash of ``retrieval_with_text``; apart, so that what reads no text does not depend on texts."""
        text = self.retrieval_with_text.item_text
        return hash_json({"data": self.retrieval_key, "item_text": None if text is None else hash_strings(text)})

    @cached_property
    def ranking_key(self) -> str:
        """Content hash of the ranking data."""
        d = self.ranking
        if d is None:
            return ""
        rows = {f"{part}_{name}": getattr(r, name) for part, r in d.rows.items() for name in r.__dataclass_fields__}
        return hash_arrays({**rows, **{f"field_{n}": a for n, a in d.item_fields.items()}})

    def protocol(self, task: str, cutoffs: tuple[int, ...]) -> dict[str, Any]:
        """The evaluation protocol of a task in full; equal protocols test on equal events."""
        if task == "retrieval":
            return {
                "dataset": self.dataset_hash,
                "split": "leave_last_out",
                "ties": self.retrieval_split.tie_rule,
                "split_seed": SPLIT_SEED,
                "candidates": "all items",
                "history_masking": "off (masked beside it)",
                "cutoffs": list(cutoffs),
                "test": self.retrieval_key,
            }
        if self.ranking_split is None:
            return {"dataset": self.dataset_hash, "split": None}
        return {
            "dataset": self.dataset_hash,
            "split": self.ranking_split.protocol,
            "label": "rating > 3",
            "ties": self.ranking_split.tie_rule,
            "test": self.ranking_key,
        }


def prepare(run: RunConfig, dataset: Dataset) -> Prepared:
    """Split a dataset for both tasks. Data without ratings (declared on its card) have no ranking split."""
    retrieval = leave_last_out(dataset.interactions, dataset.n_users, run.ties, Rng(SPLIT_SEED).child("split", "ties"))
    ranking = None if dataset.interactions.rating is None else _ranking_split(dataset, run.ranking_split)
    return Prepared(dataset, retrieval, ranking)


def _ranking_split(dataset: Dataset, rule: str) -> Split:
    if rule == "per_user_time":
        return per_user_time(dataset.interactions, dataset.n_users)
    split = global_time(dataset.interactions)
    if rule == "auto":
        seen = np.zeros(dataset.n_users, bool)
        seen[split.train.user] = True
        if float(np.mean(~seen[split.test.user])) > UNSEEN_USERS_LIMIT:
            return per_user_time(dataset.interactions, dataset.n_users)
    return split
