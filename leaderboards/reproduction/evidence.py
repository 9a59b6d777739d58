"""What records know of a number, and contrasts between rows: users and seeds both count as doubt.

A contrast is the mean of some rows minus the mean of others. Its variance adds two parts that are independent: users
(infinitesimal jackknife, paired, the trained models held fixed) and seeds (sample variance over the seeds of every row,
test users held fixed). Degrees of freedom follow Welch and Satterthwaite with the users' part known. A number of a SID
table has no users: only seeds speak for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from sidbench.benchmark.metrics.catalogue import named
from sidbench.benchmark.metrics.strata import split_stratum
from sidbench.leaderboards.board.columns import column_of
from sidbench.leaderboards.board.evidence import collect
from sidbench.leaderboards.board.store import StoredRun, read_users
from sidbench.leaderboards.board.values import OVER_USERS
from sidbench.leaderboards.reproduction.selection import Ours
from sidbench.leaderboards.statistics.contributions import Columns, contributions, within
from sidbench.leaderboards.statistics.groups import Evidence
from sidbench.leaderboards.statistics.paired import RESULT_COLUMNS
from sidbench.leaderboards.statistics.resampling import user_keys
from sidbench.leaderboards.statistics.welch import Part, combined, of_seeds

_Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """One number of one row: mean over seeds, each seed's value, units, 95 % half-width over users (``None`` without
    users), influence float64 ``[U]``: what each user adds to the value, to first order (mean over seeds)."""

    value: float
    seeds: tuple[float, ...]
    n: int
    half_width: float | None = None
    influence: np.ndarray | None = None

    @property
    def seed_sd(self) -> float | None:
        """Sample standard deviation over seeds."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Contrast:
    """Difference with its 95 % interval and two-sided p; ``problem`` says why there is none ("" otherwise). error:
    standard error. freedom: degrees of freedom. one_seed: training noise of some row is unknown and not included.
    paired: rows were compared user by user where the number has users."""

    difference: float
    low: float
    high: float
    p: float
    error: float
    freedom: float
    one_seed: bool = False
    problem: str = ""
    paired: bool = True

    def p_above(self, bound: float) -> float:
        """One-sided p of "the true difference is at most ``bound``"."""
        return _tail((self.difference - bound), self.error, self.freedom)

    def p_below(self, bound: float) -> float:
        """One-sided p of "the true difference is at least ``bound``"."""
        return _tail((bound - self.difference), self.error, self.freedom)


def _tail(distance: float, error: float, freedom: float) -> float:
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(student.sf(distance / error, freedom))


def gather(
    rows: Mapping[str, Ours], task: str | None, metrics: Sequence[str]
) -> tuple[dict[str, dict[str, Estimate]], tuple[str, ...]]:
    """Row -> metric -> what is known, and notes; metrics that no seed of a row has are left out.

    Numbers over all units are those of a leaderboard, with its intervals. Influences of one metric are over the same
    users in the same order for all rows, so that differences are paired.
    """
    inside = [m for m in metrics if task == "ranking" and split_stratum(m)[1]]
    columns = [column_of(m, task) for m in metrics if m not in inside]
    evidence, notes = collect(task, columns, [ours.runs for ours in rows.values()])
    found = {row: {metric: _known(e) for metric, e in own.items()} for row, own in zip(rows, evidence, strict=True)}
    for row, own in _of_strata(rows, task, inside).items() if task is not None else ():
        found[row] |= own
    return found, tuple(dict.fromkeys(notes))


def _known(evidence: Evidence) -> Estimate:
    low, high = (evidence.low, evidence.high) if evidence.interval == OVER_USERS else (None, None)
    half = None if low is None or high is None else (high - low) / 2
    return Estimate(evidence.value, evidence.seeds, evidence.n, half, evidence.influence)


def _of_strata(rows: Mapping[str, Ours], task: str, metrics: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """Row -> metric -> what is known of metrics within a stratum of items; intervals are those of the records."""
    influences = _influences(rows, task, metrics)
    found: dict[str, dict[str, Estimate]] = {row: {} for row in rows}
    for row, ours in rows.items():
        for metric in metrics:
            present = [(r, m) for r in ours.runs if (m := r.record.metric(metric, task)) is not None]
            if not present:
                continue
            values = tuple(m.value for _, m in present)
            widths = [(m.high - m.low) / 2 for _, m in present if m.low is not None and m.high is not None]
            parts = [i for r, _ in present if (i := influences.get((r.record.run_id, metric))) is not None]
            found[row][metric] = Estimate(
                float(np.mean(values)),
                values,
                min(m.n for _, m in present),
                float(np.mean(widths)) if len(widths) == len(present) else None,
                np.mean(parts, axis=0) if len(parts) == len(present) else None,
            )
    return found


def _influences(rows: Mapping[str, Ours], task: str, metrics: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """(run id, metric) -> what each user adds to the metric; absent where files cannot give it."""
    runs = {r.record.run_id: r for ours in rows.values() for r in ours.runs}
    families: dict[str, dict[str, str]] = {}  # stratum -> family of metrics -> the metric's name
    for metric in metrics:
        base, stratum = split_stratum(metric)
        families.setdefault(stratum, {})[base] = metric
    found: dict[tuple[str, str], np.ndarray] = {}
    for stratum, names in families.items():
        users = {i: columns for i, run in runs.items() if (columns := _columns(run, task, stratum)) is not None}
        if not users:
            continue
        keys = user_keys(list(users.values()))
        for run_id, columns in users.items():
            for family, metric in names.items():
                part = contributions(columns, named(family), keys)
                if part is not None and np.isfinite(influence := part.influence()).all():
                    found[run_id, metric] = influence
    return found


def _columns(run: StoredRun, task: str, stratum: str) -> Columns | None:
    """Per-user columns of a run, narrowed to a stratum of items; ``None`` where the files cannot give them."""
    read = read_users(run, task, {*RESULT_COLUMNS[task], "stratum"})
    return None if isinstance(read, str) else within(read, stratum)


def contrast(left: Sequence[Estimate], right: Sequence[Estimate]) -> Contrast:
    """Mean of ``left`` minus mean of ``right``."""
    difference = float(np.mean([k.value for k in left]) - np.mean([k.value for k in right]))
    users, paired = _user_variance(left, right)
    seeds = [part for side in (left, right) for known in side for part in of_seeds(known.seeds, 1 / len(side))]
    one_seed = any(len(k.seeds) < 2 for k in (*left, *right))
    if users is None and one_seed:
        return Contrast(
            difference,
            np.nan,
            np.nan,
            np.nan,
            np.nan,
            np.nan,
            True,
            "at least two seeds a row are needed: the number is exact for one SID table, and only seeds show how it varies",
        )
    error, freedom = combined((Part(users or 0.0, np.inf), *seeds))
    reach = float(student.ppf(0.975, freedom)) * error if np.isfinite(freedom) else _Z * error
    if error == 0:
        p = 1.0 if difference == 0 else 0.0
    else:
        p = float(2 * student.sf(abs(difference) / error, freedom))
    return Contrast(difference, difference - reach, difference + reach, p, error, freedom, one_seed, paired=paired)


def _user_variance(left: Sequence[Estimate], right: Sequence[Estimate]) -> tuple[float | None, bool]:
    """Variance of the contrast over users, and whether it is paired: where per-user results are missing it is as if rows
    shared no users, which is the careful side. ``None`` where there are no users."""
    everyone = (*left, *right)
    parts = [[k.influence for k in side if k.influence is not None] for side in (left, right)]
    if len(parts[0]) == len(left) and len(parts[1]) == len(right):
        each = np.mean(parts[0], axis=0) - np.mean(parts[1], axis=0)
        if len(each) > 1:
            return float((each**2).sum() * len(each) / (len(each) - 1)), True
    if all(k.half_width is not None for k in everyone):
        return sum((float(k.half_width or 0.0) / _Z / len(side)) ** 2 for side in (left, right) for k in side), False
    return None, True
