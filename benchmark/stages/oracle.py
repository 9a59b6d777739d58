"""What no model can exceed on planted data: the oracle's expected metrics over the test part of each task."""

from __future__ import annotations

from collections.abc import Sequence

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.stages.prepared import Prepared
from sidbench.datasets.base import PlantedTruth
from sidbench.datasets.planted.oracle import expected_auc, oracle_bounds


def planted_bounds(composed: ComposedRun, prepared: Prepared, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Task -> metric -> the expectation of it for the best model that could be: one that knows the probabilities of the next
    item given user and last item, and the probability that a row is liked. Empty for data without planted truth.

    Expectations are over other draws of the same test targets and labels, so a lucky model may pass them by a little.
    Metrics that leave the history out of the candidates have no such bound (users may take an item twice).
    """
    run = composed.run
    truth = installed().load("dataset", run.dataset)(composed.dataset).truth()
    if truth is None:
        return {}
    found = {"retrieval": _retrieval(prepared, truth, run.cutoffs)} if "retrieval" in tasks else {}
    return found | ({"ranking": _ranking(prepared, truth)} if "ranking" in tasks else {})


def _retrieval(prepared: Prepared, truth: PlantedTruth, cutoffs: Sequence[int]) -> dict[str, float]:
    data = prepared.retrieval
    newest = data.test_history.items[data.test_history.indptr[1:] - 1]  # a test user has at least two earlier events
    bounds = oracle_bounds(truth, data.test_user, newest, cutoffs)
    return {f"item_{name.replace('@', '_at_')}": value for name, value in bounds.items()}


def _ranking(prepared: Prepared, truth: PlantedTruth) -> dict[str, float]:
    if prepared.ranking is None:
        return {}
    like = truth.like(prepared.ranking_users, prepared.ranking.rows["test"].item)
    return {"auc": expected_auc(like, like)}
