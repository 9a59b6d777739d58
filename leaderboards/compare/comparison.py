"""Two rows side by side, from their records and per-user results: everything `bench compare` tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sidbench.benchmark.metrics.catalogue import named
from sidbench.benchmark.metrics.declaration import NamedMetric
from sidbench.benchmark.metrics.strata import NAMES as STRATA
from sidbench.benchmark.metrics.strata import stratum_mask
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.board.columns import columns_of, stratified_of
from sidbench.leaderboards.board.comparability import common_tasks, settings, unequal
from sidbench.leaderboards.board.provenance import costs_of
from sidbench.leaderboards.board.store import StoredRun, read_users
from sidbench.leaderboards.board.values import Column, Costs
from sidbench.leaderboards.statistics.contributions import Columns, auc_components
from sidbench.leaderboards.statistics.holm import holm
from sidbench.leaderboards.statistics.paired import (
    RESULT_COLUMNS,
    UNIT_COLUMNS,
    Difference,
    Paired,
    align,
    differences,
    user_gaps,
)
from sidbench.leaderboards.statistics.seeds import SeedTest, seed_test

MOST = 5  # users and items named at either end
ALL = "all"


@dataclass(frozen=True)
class Line:
    """One metric of the comparison.

    stratum: "all", or that of the item. left, right: means over the runs of a side. paired: what per-user results
    say, ``None`` without them. p_adjusted: Holm over all lines with a test. seeds: test over seeds, ``None`` for a
    number that one side lacks.
    """

    task: str | None
    stratum: str
    column: Column
    left: float
    right: float
    paired: Difference | None
    p_adjusted: float | None
    seeds: SeedTest | None

    @property
    def difference(self) -> float:
        """Left minus right."""
        return self.left - self.right


@dataclass(frozen=True)
class Extreme:
    """A user or item on which the rows differ. kind: "user" or "item". share: its part of the difference in the metric,
    which sums to the difference over all of its kind. left, right: its own values, ``None`` where it has none of its
    own. n: results behind it."""

    task: str
    metric: str
    kind: str
    name: str
    share: float
    left: float | None
    right: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """Everything about two rows. left_name, right_name: their rows. warnings: what a reader must know first (different
    comparability keys under --force stand here). notes: what could not be compared, and why."""

    left_name: str
    right_name: str
    left: tuple[StoredRun, ...]
    right: tuple[StoredRun, ...]
    lines: tuple[Line, ...]
    extremes: tuple[Extreme, ...]
    settings: dict[str, tuple[Any, Any]]
    costs: tuple[Costs, Costs]
    devices: tuple[tuple[str, ...], tuple[str, ...]]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def compare_rows(
    left: Sequence[StoredRun], right: Sequence[StoredRun], names: tuple[str, str], incomparable: Sequence[str] = ()
) -> Comparison:
    """Compare two rows, each with the runs of its seeds.

    incomparable: the parts of the comparability key that differ, compared all the same: they become warnings, and units
    that not all runs have are left out. Raises ``InputError`` when equal keys hide different users or items.
    """
    first, second = left[0].record, right[0].record
    notes: list[str] = []
    lines: list[Line] = []
    extremes: list[Extreme] = []
    rng = Rng(0).child("compare", *(r.record.run_id for r in (*left, *right)))
    tasks = common_tasks(first, second)
    sides = [r.record for r in left], [r.record for r in right]
    columns = columns_of(*sides)
    for record, side in ((first, "left"), (second, "right")):
        for task in (t.task for t in record.tasks if t.task not in tasks):
            notes.append(f"{task}: only the {side} side has it.")
    for task in tasks:
        own = [c for c in columns if c.task == task]
        stratified = stratified_of(task, *sides)
        paired = _paired(task, own, left, right, bool(incomparable), notes)
        lines += _task_lines(task, own, stratified, left, right, paired, rng.child(task), notes)
        if paired is not None:
            extremes += _extremes(task, stratified, paired)
    lines += [_line(None, ALL, c, left, right, None) for c in columns if c.task is None and _both(c, left, right)]
    warnings = tuple(f"Not comparable: {part}." for part in incomparable)
    return Comparison(
        *names,
        tuple(left),
        tuple(right),
        tuple(_adjusted(lines)),
        tuple(extremes),
        unequal(settings(first), settings(second)),
        (costs_of(left), costs_of(right)),
        (_devices(left), _devices(right)),
        warnings,
        tuple(dict.fromkeys(notes)),
    )


def _devices(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.record.environment.device for r in runs))


def _paired(
    task: str,
    columns: Sequence[Column],
    left: Sequence[StoredRun],
    right: Sequence[StoredRun],
    partial: bool,
    notes: list[str],
) -> Paired | None:
    wanted = {c.metric for c in columns} | {"stratum", "item", *RESULT_COLUMNS[task], *UNIT_COLUMNS[task]}
    sides: list[list[Columns]] = [[], []]
    for side, runs in zip(sides, (left, right), strict=True):
        for run in runs:
            read = read_users(run, task, wanted)
            if isinstance(read, str):
                notes.append(f"{task}: {run.record.run_id} has no per-user results ({read}), so there is no paired test.")
                return None
            side.append(read)
    paired = align(task, sides[0], sides[1], partial=partial)
    if paired.left_out:
        notes.append(f"{task}: {paired.left_out:,} results that not all runs have are left out of intervals and tests.")
    return paired


def _task_lines(
    task: str,
    own: Sequence[Column],
    stratified: Sequence[NamedMetric],
    left: Sequence[StoredRun],
    right: Sequence[StoredRun],
    paired: Paired | None,
    rng: Rng,
    notes: list[str],
) -> list[Line]:
    columns = {c.metric: c for c in own}
    found = {d.metric: d for d in differences(paired, [c.named for c in own], rng.child(ALL))} if paired is not None else {}
    lines = [
        _line(task, ALL, c, left, right, found.get(m)) for m, c in columns.items() if _both(c, left, right) or m in found
    ]
    if paired is None:
        return lines
    labels = paired.units.get("stratum")
    if labels is None:
        notes.append(f"{task}: no strata in these files, so no head, torso, tail and cold.")
        return lines
    if any(not np.array_equal(labels, c["stratum"]) for c in (*paired.left, *paired.right) if "stratum" in c):
        notes.append(f"{task}: the runs sort items into other strata, so there is no comparison by stratum.")
        return lines
    for stratum in STRATA:
        mask = stratum_mask(labels, stratum)
        inside = differences(paired.within(mask), stratified, rng.child(stratum)) if mask.any() else []
        if not inside:
            notes.append(f"{task}: no metric is defined in stratum {stratum} ({int(mask.sum())} results).")
        lines += [_line(task, stratum, columns[d.metric], left, right, d) for d in inside]
    return lines


def _values(runs: Sequence[StoredRun], metric: str, task: str | None) -> list[float]:
    return [m.value for r in runs if (m := r.record.metric(metric, task)) is not None]


def _both(column: Column, left: Sequence[StoredRun], right: Sequence[StoredRun]) -> bool:
    return all(_values(side, column.metric, column.task) for side in (left, right))


def _line(
    task: str | None,
    stratum: str,
    column: Column,
    left: Sequence[StoredRun],
    right: Sequence[StoredRun],
    paired: Difference | None,
) -> Line:
    metric = column.metric if stratum == ALL else f"{column.metric}_{stratum}"
    values = [_values(side, metric, task) for side in (left, right)]
    seeds = seed_test(values[0], values[1]) if min(map(len, values)) > 1 else None
    a, b = (paired.left, paired.right) if paired is not None else (float(np.mean(values[0])), float(np.mean(values[1])))
    return Line(task, stratum, column, a, b, paired, None, seeds)


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    tested = [i for i, line in enumerate(lines) if line.paired is not None]
    p = dict(zip(tested, holm([line.paired.test.p for line in lines if line.paired is not None]), strict=True))
    return [replace(line, p_adjusted=p.get(i)) for i, line in enumerate(lines)]


def _extremes(task: str, stratified: Sequence[NamedMetric], paired: Paired) -> list[Extreme]:
    if task == "retrieval":
        # The last of them is NDCG at the lead, which tells ranks apart that recall does not.
        gaps = user_gaps(paired, stratified[-1]) if stratified else None
        if gaps is None:
            return []
        metric = stratified[-1].name
        _, left, right = gaps
        n = len(left)
        share = (left - right) / n
        return [
            *_most(task, metric, "user", paired.users[paired.units["user"]], share, left, right),
            *_most(task, metric, "item", paired.units["target"].astype(str), share, left, right),
        ]
    found: list[Extreme] = []
    within = user_gaps(paired, named("gauc"))
    if within is not None and len(within[0]):
        users, left, right = within
        rows = np.bincount(paired.units["user"])[users]
        found += _most(task, "gauc", "user", paired.users[users], (left - right) * rows / rows.sum(), left, right, rows)
    label = paired.units["label"]
    components = [np.mean([auc_components(label, c["score"]) for c in side], axis=0) for side in (paired.left, paired.right)]
    if "item" in paired.units and np.isfinite(components[0][0]):
        # Either class alone averages to the AUC, so half of each makes shares that sum to the difference.
        weight = np.where(label > 0, 0.5 / (label > 0).sum(), 0.5 / (label <= 0).sum())
        found += _most(
            task, "auc", "item", paired.units["item"].astype(str), (components[0] - components[1]) * weight, None, None
        )
    return found


def _most(
    task: str,
    metric: str,
    kind: str,
    names: np.ndarray,
    share: np.ndarray,
    left: np.ndarray | None,
    right: np.ndarray | None,
    results: np.ndarray | None = None,
) -> list[Extreme]:
    """The ``MOST`` names with the largest shares for either side; names whose share is 0 are none."""
    keys, index, times = np.unique(names, return_inverse=True, return_counts=True)
    n = times if results is None else np.bincount(index, weights=results)
    total = np.bincount(index, weights=share)
    means = [None if v is None else np.bincount(index, weights=v) / times for v in (left, right)]
    order = np.argsort(-total, kind="stable")
    chosen = [*(i for i in order[:MOST] if total[i] > 0), *(i for i in order[::-1][:MOST][::-1] if total[i] < 0)]
    return [
        Extreme(
            task,
            metric,
            kind,
            str(keys[i]),
            float(total[i]),
            None if means[0] is None else float(means[0][i]),
            None if means[1] is None else float(means[1][i]),
            int(n[i]),
        )
        for i in chosen
    ]
