"""From records and per-user files to the evidence behind every cell: value, interval, contributions of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sidbench.benchmark.metrics.declaration import ROW_AUC
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.board.store import DISAGREE, StoredRun, read_users
from sidbench.leaderboards.board.values import EXACT, OVER_SEEDS, OVER_USERS, UNKNOWN, Column
from sidbench.leaderboards.statistics.bca import acceleration, bca_interval
from sidbench.leaderboards.statistics.contributions import Auc, Columns, Ratio, contributions
from sidbench.leaderboards.statistics.groups import Evidence
from sidbench.leaderboards.statistics.paired import RESULT_COLUMNS, UNIT_COLUMNS
from sidbench.leaderboards.statistics.resampling import bootstrap, user_keys
from sidbench.leaderboards.statistics.seeds import t_interval


def collect(
    task: str | None, columns: Sequence[Column], groups: Sequence[Sequence[StoredRun]]
) -> tuple[list[dict[str, Evidence]], tuple[str, ...]]:
    """For each group of seeds: metric -> evidence in the columns of one task (``None``: the SID table); and notes.

    Per-user results are paired over the same users and items. A file whose users or targets are not those of most
    other rows is set aside with a note, as is one that cannot be read or that contradicts its record. Resamples depend
    on the task and the number of users alone, so that a number has the same interval wherever it is printed.
    """
    rng = Rng(0).child("leaderboard", str(task))
    notes: list[str] = []
    users: dict[str, Columns] = {}
    if task is not None:
        users = _read(task, columns, [r for g in groups for r in g if r.task(task) is not None], notes)
    keys = np.arange(max((int(u["user"].max()) + 1 for u in users.values()), default=0))
    metrics = [c.named for c in columns]
    parts = {
        run_id: {m.name: p for m in metrics if (p := contributions(u, m, keys)) is not None} for run_id, u in users.items()
    }
    drawn = bootstrap(list(users.values()), [m for m in metrics if m.statistic != ROW_AUC], rng) if users else []
    draws = dict(zip(users, drawn, strict=True))
    found: list[dict[str, Evidence]] = []
    for group in groups:
        row: dict[str, Evidence] = {}
        for column in columns:
            evidence = _evidence(column, group, parts, draws, notes)
            if evidence is not None:
                row[column.metric] = evidence
        found.append(row)
    return found, tuple(notes)


def _evidence(
    column: Column,
    group: Sequence[StoredRun],
    parts: Mapping[str, Mapping[str, Ratio | Auc]],
    draws: Mapping[str, Mapping[str, np.ndarray]],
    notes: list[str],
) -> Evidence | None:
    metric, task = column.metric, column.task
    found = [(r, m) for r in group if (m := r.record.metric(metric, task)) is not None]
    name = group[0].record.tokenizer.name if group[0].record.tokenizer is not None else "a baseline"
    for run in group:
        entry = run.task(task)
        if entry is not None and metric in entry.undefined:
            notes.append(f"{column.heading} of {name} has no number: {entry.undefined[metric]}.")
    if not found:
        return None
    if len(found) < len(group):
        notes.append(
            f"{column.heading} of {name} is undefined for {len(group) - len(found)} of {len(group)} seeds; its "
            "mean is over the others."
        )
    values = tuple(m.value for _, m in found)
    value, n = float(np.mean(values)), min(m.n for _, m in found)
    ids = [r.record.run_id for r, _ in found]
    shares = [parts[i][metric] for i in ids if metric in parts.get(i, {})]
    for run_id, recorded, share in zip(ids, values, shares, strict=False) if len(shares) == len(ids) else ():
        if not abs(share.value - recorded) <= DISAGREE * max(1.0, abs(recorded)):
            notes.append(
                f"{run_id}: {metric} is {recorded:.6g} on the record and {share.value:.6g} by its per-user "
                "results; one of them was changed."
            )
            shares = []
    if shares and len(shares) == len(ids):
        influence = np.mean([s.influence() for s in shares], axis=0)
        ends = _user_interval(column.named.statistic, shares, influence, [draws[i].get(metric) for i in ids])
        if np.isfinite(influence).all():
            return _with(value, values, n, ends, OVER_USERS if ends else UNKNOWN, influence)
    low, high = ([getattr(m, end) for _, m in found] for end in ("low", "high"))
    if None not in low + high:
        return _with(value, values, n, (float(np.mean(low)), float(np.mean(high))), OVER_USERS)
    over_seeds = t_interval(values)
    if over_seeds is not None:
        return _with(value, values, n, over_seeds, OVER_SEEDS)
    return _with(value, values, n, None, EXACT if task is None else UNKNOWN)


def _with(
    value: float,
    values: tuple[float, ...],
    n: int,
    ends: tuple[float, float] | None,
    interval: str,
    influence: np.ndarray | None = None,
) -> Evidence:
    low, high = ends if ends is not None else (None, None)
    # Intervals over seeds do not make a row "as if independent": the test over seeds is the better one there.
    half = (high - low) / 2 if low is not None and high is not None and interval == OVER_USERS else None
    return Evidence(value, values, half, influence, n, low, high, interval)


def _user_interval(
    statistic: str, shares: Sequence[Ratio | Auc], influence: np.ndarray, draws: Sequence[np.ndarray | None]
) -> tuple[float, float] | None:
    """BCa over users of the mean over seeds; for AUC the normal interval from DeLong's components."""
    n, value = len(influence), float(np.mean([s.value for s in shares]))
    if n < 2 or not np.isfinite(influence).all():
        return None
    if statistic == ROW_AUC:
        reach = 1.959964 * float(np.sqrt((influence**2).sum() * n / (n - 1)))
        return max(0.0, value - reach), min(1.0, value + reach)
    present = [d for d in draws if d is not None]
    if len(present) < len(shares):
        return None
    return bca_interval(value, np.mean(present, axis=0), acceleration(np.mean([s.jackknife() for s in shares], axis=0)))


def _read(task: str, columns: Sequence[Column], runs: Sequence[StoredRun], notes: list[str]) -> dict[str, Columns]:
    """Run id -> per-user columns with ``user`` as an index into the users of all kept runs."""
    wanted = {c.metric for c in columns} | {*RESULT_COLUMNS.get(task, ()), *UNIT_COLUMNS.get(task, ("user",))}
    read: dict[str, dict[str, np.ndarray]] = {}
    for run in runs:
        found = read_users(run, task, wanted)
        if isinstance(found, str):
            notes.append(
                f"{run.record.run_id}: no per-user {task} results ({found}); its differences are judged by "
                "intervals as if rows shared no users."
            )
        else:
            read[run.record.run_id] = found
    if not read:
        return {}
    keys = user_keys(list(read.values()))
    first = next(iter(read.values()))["user"]
    index = np.searchsorted(keys, first)
    same: list[tuple[list[np.ndarray], list[str]]] = []  # runs by the units their results belong to
    for run_id, table in read.items():
        table["user"] = (
            index if table["user"] is first or np.array_equal(table["user"], first) else np.searchsorted(keys, table["user"])
        )
        units = _units(task, table)
        mates = next((ids for known, ids in same if all(map(np.array_equal, known, units))), None)
        if mates is None:
            same.append((units, [run_id]))
        else:
            mates.append(run_id)
    kept = max((ids for _, ids in same), key=len)
    odd = [run_id for run_id in read if run_id not in kept]
    for run_id in odd:
        notes.append(
            f"{run_id}: its {task} results are not about the users and items of the other rows; its differences "
            "are judged by intervals."
        )
    return {run_id: table for run_id, table in read.items() if run_id in kept}


def _units(task: str, table: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What results belong to, in an order that does not depend on the file's; users alone where the rest is missing."""
    names = [n for n in UNIT_COLUMNS.get(task, ("user",)) if n in table]
    arrays = [table[n] for n in names]
    order = np.argsort(arrays[-1] if names[-1] == "row" else arrays[0], kind="stable")
    return [a[order] for a in arrays]
