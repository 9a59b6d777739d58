"""Whether a record says what its own settings and per-user results give: what nobody may change after a run.

Numbers without per-user results (those of the SID table, costs, effort) cannot be checked from a record; only another run
can do that (`bench reproduce RUN`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sidbench.benchmark.metrics.catalogue import named
from sidbench.benchmark.metrics.strata import split_stratum
from sidbench.benchmark.store.comparability import run_key, task_key
from sidbench.benchmark.store.records import RunRecord, TaskRecord
from sidbench.datasets.foundation.hashing import hash_json
from sidbench.leaderboards.board.store import DISAGREE, StoredRun, read_users
from sidbench.leaderboards.statistics.contributions import Columns, contributions, within
from sidbench.leaderboards.statistics.paired import RESULT_COLUMNS


def key_problems(record: RunRecord) -> list[str]:
    """Keys of a record that are not the hash of what it states, one sentence each.

    They decide which table a row stands in, so a key that was kept while the budget or a setting was changed would put
    it among rows that it cannot be compared with.
    """
    features = None if record.tokenizer is None or record.features is None else record.features.provenance
    problems = [
        f"the {name} of {task.task} is not that of its {parts}"
        for task in record.tasks
        for name, parts, own, given in (
            ("protocol key", "protocol", task.protocol_key, hash_json(task.protocol)),
            (
                "comparability key",
                "recommender, budget, features and protocol",
                task.comparability_key,
                task_key(
                    task.protocol,
                    features,
                    task.recommender.name,
                    task.recommender.config,
                    record.budget,
                    accumulate=record.environment.accumulate,
                    precision=record.environment.precision,
                    versions={"recommender": task.recommender.version, **record.units},
                ),
            ),
        )
        if own != given
    ]
    tasks = {t.task: t.comparability_key for t in record.tasks}
    if record.comparability_key != run_key(tasks, record.dataset.content_hash, features, record.budget, record.units):
        problems.append("its comparability key is not that of its tasks")
    return problems


def number_problems(run: StoredRun) -> list[str]:
    """Metrics on a record that are not what its per-user results give, one sentence each."""
    problems = []
    for task in run.record.tasks:
        parts = {name: _split(name, task) for name in task.metrics}
        read = read_users(
            run, task.task, {*_families(base for base, _ in parts.values()), *RESULT_COLUMNS.get(task.task, ()), "stratum"}
        )
        if isinstance(read, str):
            continue  # said where the file is checked
        read["user"] = np.unique(read["user"], return_inverse=True)[1]  # numbers are faster to group by than names
        inside = {s: _inside(read, s) for s in dict.fromkeys(stratum for _, stratum in parts.values())}
        for name, (base, stratum) in parts.items():
            given = _value(inside[stratum], base)
            recorded = task.metrics[name].value
            if given is not None and not abs(given - recorded) <= DISAGREE * max(1.0, abs(recorded)):
                problems.append(
                    f"{name} of {task.task} is {recorded:.6g} on the record and {given:.6g} by its per-user results"
                )
    return problems


def _split(name: str, task: TaskRecord) -> tuple[str, str]:
    """Metric and stratum ("" for all units) of a metric's name."""
    base, stratum = split_stratum(name)
    return (base, stratum) if base in task.metrics else (name, "")


def _families(names: Iterable[str]) -> set[str]:
    """The per-user columns that metrics need: their own, and both sides of an inflation."""
    found: set[str] = set()
    for name in names:
        rest = name.removeprefix("inflation_")
        found |= {name} if rest == name else {f"sid_{rest}", f"item_{rest}"}
    return found


def _inside(columns: Columns, stratum: str) -> tuple[Columns, np.ndarray] | None:
    """The rows of one stratum ("" for all) and their users, each once; ``None`` where the strata are not known."""
    chosen = within(columns, stratum) if stratum else columns
    return None if chosen is None else (chosen, np.unique(chosen["user"]))


def _value(inside: tuple[Columns, np.ndarray] | None, metric: str) -> float | None:
    """The metric by per-user results; ``None`` where they do not hold it."""
    part = None if inside is None else contributions(inside[0], named(metric), inside[1])
    return None if part is None else part.value
