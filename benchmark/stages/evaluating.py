"""From SIDs to results: each task of a run, trained, evaluated and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.metrics.auc import RankingNumbers, ranking_metrics
from sidbench.benchmark.metrics.ranking_at_k import (
    RetrievalNumbers,
    beyond_depth,
    bound_violations,
    retrieval_metrics,
)
from sidbench.benchmark.metrics.strata import item_strata
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.reporter import Watch
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.fitted import Fitted
from sidbench.benchmark.stages.prepared import Prepared
from sidbench.benchmark.stages.recommending import evaluate_ranker, evaluate_retriever, fit_recommender
from sidbench.benchmark.stages.result_frames import ranking_frame, retrieval_frame
from sidbench.benchmark.stages.tokenizing import Tokenized
from sidbench.benchmark.store.records import StageRecord
from sidbench.benchmark.store.stage_cache import Traced, traces
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RankingData, RetrievalData

NO_SIDS = "none"  # in place of a key of SIDs
RETRIEVAL, RANKING = "retrieval", "ranking"


@dataclass(frozen=True)
class TaskResult:
    """One task of a run. name, config: of the recommender. inference: its numbers about prediction. frame: one row a user
    or test event. violations: metric pairs that break the NDCG-Recall bounds. stages: their costs in order."""

    task: str
    name: str
    config: Any
    fitted: Fitted
    inference: Mapping[str, float]
    numbers: RetrievalNumbers | RankingNumbers
    counts: Mapping[str, int]
    frame: pl.DataFrame
    violations: tuple[str, ...]
    warnings: tuple[str, ...]
    stages: tuple[StageRecord, ...]


def tasks_of(composed: ComposedRun) -> dict[str, tuple[str, Any]]:
    """Task -> name and config of its recommender, for the tasks of a run."""
    found = {
        RETRIEVAL: (composed.retriever_name, composed.retriever),
        RANKING: (composed.ranker_name, composed.ranker),
    }
    return {task: (name, config) for task, (name, config) in found.items() if name is not None}


def fit_task(
    context: StageContext,
    composed: ComposedRun,
    prepared: Prepared,
    task: str,
    tokenized: Tokenized | None,
    seed: int,
    watch: Watch | None = None,
) -> Traced[Fitted]:
    """Train the recommender of one task of a run; reads no test data. tokenized: ``None`` for baselines.

    Raises ``InputError`` for data that the task cannot use.
    """
    name, config = tasks_of(composed)[task]
    model = installed().load("recommender", name)(config)
    data, data_key = _training_data(prepared, task, model.info.reads_text)
    if data is None:
        raise InputError(
            f"recommender {name}",
            got=f"dataset {composed.run.dataset} without ratings",
            wanted="ratings, which decide the labels of the ranking task",
            do="leave the ranker out: --recommender mtp",
        )
    sids, key = (None, NO_SIDS) if tokenized is None else (tokenized.sids, tokenized.key)
    return fit_recommender(context, task, name, model, data, data_key, sids, key, seed, watch)


def _training_data(prepared: Prepared, task: str, reads_text: bool) -> tuple[RetrievalData | RankingData | None, str]:
    """What the recommender of a task is given, and its key."""
    if task == RANKING:
        return prepared.ranking, prepared.ranking_key
    if reads_text:
        return prepared.retrieval_with_text, prepared.retrieval_text_key
    return prepared.retrieval, prepared.retrieval_key


def evaluate(
    context: StageContext,
    composed: ComposedRun,
    prepared: Prepared,
    task: str,
    tokenized: Tokenized | None,
    seed: int,
) -> TaskResult:
    """Train and evaluate the recommender of one task, "retrieval" or "ranking". tokenized: ``None`` for baselines.

    Raises ``InputError`` for data that the task cannot use, ``StageError`` for what fails inside a plugin.
    """
    fitted = fit_task(context, composed, prepared, task, tokenized, seed)
    work = _retrieval if task == RETRIEVAL else _ranking
    return work(context, composed, prepared, fitted, tokenized)


def _retrieval(
    context: StageContext,
    composed: ComposedRun,
    prepared: Prepared,
    fitted: Traced[Fitted],
    tokenized: Tokenized | None,
) -> TaskResult:
    name, config = tasks_of(composed)[RETRIEVAL]
    data, cutoffs = prepared.retrieval, composed.run.cutoffs
    model = installed().load("recommender", name)(config)
    sids = None if tokenized is None else tokenized.sids
    evaluated = evaluate_retriever(context, name, model, fitted.value, data, sids)
    ranks, inference = evaluated.value
    strata = item_strata(prepared.retrieval_counts)[data.test_target]
    numbers = retrieval_metrics(ranks, strata, Rng(0).child("intervals").numpy(), cutoffs)
    shallow = depth_warnings(name, beyond_depth(ranks, cutoffs))
    for warning in shallow:
        context.reporter.warn(warning)
    violations = bound_violations({n: m.value for n, m in numbers.metrics.items()})
    if violations:
        raise StageError(
            f"retrieval metrics of {name} break the NDCG-Recall bounds: {', '.join(violations)}. This "
            "cannot happen with one target per user; please report it with the record."
        )
    frame = retrieval_frame(ranks, numbers.per_user, prepared, data)
    counts = {"users": len(data.test_target), **{k: int(v) for k, v in prepared.retrieval_dropped.items()}}
    warnings, stages = traces([fitted, evaluated])
    return TaskResult(
        RETRIEVAL,
        name,
        config,
        fitted.value,
        inference,
        numbers,
        counts,
        frame,
        violations,
        (*warnings, *shallow),
        stages,
    )


def depth_warnings(name: str, missing: Mapping[str, str]) -> tuple[str, ...]:
    """What to say of cut-offs that have no number because a beam is too short for them. missing: metric -> why."""
    found = []
    for reason in dict.fromkeys(missing.values()):
        cutoffs = sorted({int(metric.rsplit("_", 1)[1]) for metric, why in missing.items() if why == reason})
        found.append(
            f"retrieval by {name}: no numbers at {', '.join(f'@{k}' for k in cutoffs)}, since the "
            f"shortest {reason}; raise its cover, or leave these cut-offs out"
        )
    return tuple(found)


def _ranking(
    context: StageContext,
    composed: ComposedRun,
    prepared: Prepared,
    fitted: Traced[Fitted],
    tokenized: Tokenized | None,
) -> TaskResult:
    name, config = tasks_of(composed)[RANKING]
    data = prepared.ranking
    if data is None:
        raise StageError(f"ranking by {name}: trained, yet there are no rows to rank; please report this")
    model = installed().load("recommender", name)(config)
    sids = None if tokenized is None else tokenized.sids
    evaluated = evaluate_ranker(context, name, model, fitted.value, data, sids)
    scores, inference = evaluated.value
    rows, events = data.rows["test"], prepared.ranking_users
    strata = item_strata(prepared.ranking_counts)[rows.item]
    numbers = ranking_metrics(events, rows.label, scores, strata, Rng(0).child("intervals").numpy())
    frame = ranking_frame(scores, prepared, rows, events, strata)
    counts = {**{f"{part}_rows": len(r) for part, r in data.rows.items()}, **numbers.counts}
    return TaskResult(
        RANKING,
        name,
        config,
        fitted.value,
        inference,
        numbers,
        counts,
        frame,
        (),
        *traces([fitted, evaluated]),
    )
