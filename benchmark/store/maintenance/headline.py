"""The one number that stands for a run in a list."""

from __future__ import annotations

from sidbench.benchmark.metrics.catalogue import column_names, headline_names, tasks_in_order
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import RunRecord


def headline(record: RunRecord) -> tuple[str, Metric] | None:
    """Name and value of the headline of the first task that has one, then of the SID table; where no headline has a
    number, the first metric that has a column. ``None`` for a run without any."""
    for names_of in (headline_names, column_names):
        for task in tasks_in_order():
            held = [name for name in _names(record, task) if record.metric(name, task) is not None]
            for name in names_of(task, held, held):
                metric = record.metric(name, task)
                if metric is not None:
                    return name, metric
    return None


def _names(record: RunRecord, task: str | None) -> list[str]:
    if task is None:
        return [] if record.sids is None else list(record.sids.metrics)
    return [name for entry in record.tasks if entry.task == task for name in entry.metrics]
