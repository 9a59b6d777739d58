"""What per-user results say, by the definitions of format 1: every metric of a task, and what each user adds to it.

Retrieval. P items stand before the target and G, its own included, tie with it. Over a random order of the tied,
Recall@K = m / G with m = min(G, max(0, K - P)), and NDCG@K = (1/G) sum_{i=1..m} 1 / log2(P + i + 1); optimistic and
pessimistic recall put the target first and last. ``sid_`` counts ranks in distinct SIDs, ``masked_`` leaves the history
out, inflation is the mean of ``sid_recall`` over that of ``item_recall``. Ranking. AUC is the Mann-Whitney statistic with
ties one half; GAUC the mean of AUC within users that have both labels, weighted by rows, positives, or equally.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file
from sidbench.datasets.foundation.paths import inside
from sidbench.leaderboards.frozen.records import RECORDS, Record, Task, one_line

UNITS = "units"
EQUAL = 1e-5  # relative: runs average per-user values of single precision
STRATA = ("head", "torso", "tail", "cold")  # labels 0 to 3; the tail holds cold items too
_VIEWS = {"item": "item", "sid": "sid", "masked_item": "masked"}
_UNITS_NAME = re.compile(r"(?:retrieval|ranking)-[0-9a-f]{16}")
_COLUMNS = {
    "retrieval": {f"{view}_{end}" for view in _VIEWS.values() for end in ("better", "tied")} | {"user", "target"},
    "ranking": {"score", "user", "item", "row", "label"},
}
_NAME = re.compile(r"((?:item|sid|masked_item)_(?:recall|ndcg)|(?:optimistic|pessimistic|inflation)_recall)_at_(\d{1,6})")

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Number:
    """A metric by per-user results. n: units it averages. influence: float64 ``[U]``, sums to 0: what each user adds to
    the value, to first order, in the order of the users of the task."""

    value: float
    n: int
    influence: np.ndarray


def task_numbers(
    folder: Path, record: Record, task: Task, units: dict[Path, Columns]
) -> tuple[dict[str, Number], list[str]]:
    """Metric -> what its per-user file gives, for all metrics on the record; and a sentence for each contradiction.

    units: those read before, by file, to which this adds; all runs of a protocol share them. Nothing is given for a file
    that is not the one on the record or cannot be read.
    """
    run = f"{RECORDS}/{record.run_id}"
    try:
        results = _Results(task.task, _columns(folder, record, task, units))
    except (OSError, ValueError, pyarrow.ArrowException, InputError) as error:
        return {}, [f"{run}/{task.users_file}: {one_line(error)}"]
    numbers: dict[str, Number] = {}
    problems = []
    for name, recorded in task.metrics.items():
        number = results.number(name)
        if number is None:
            problems.append(f"{run}: {name} of {task.task} is no metric that format 1 knows")
            continue
        numbers[name] = number
        if not abs(number.value - recorded.value) <= EQUAL * max(1.0, abs(recorded.value)):
            given, own, what = f"{recorded.value:.6g}", f"{number.value:.6g}", ""
        elif number.n != recorded.n:
            given, own, what = f"{recorded.n:,}", f"{number.n:,}", "the number of units of "
        else:
            continue
        problems.append(f"{run}: {what}{name} of {task.task} is {given} on the record and {own} by its per-user results")
    return numbers, problems


def _columns(folder: Path, record: Record, task: Task, known: dict[Path, Columns]) -> dict[str, np.ndarray]:
    """Results and the units they belong to, equally many rows. Raises ``ValueError`` for what does not fit."""
    path = inside(folder / RECORDS / record.run_id, task.users_file, f"record {record.run_id}")
    if hash_file(path) != task.users_hash:
        raise ValueError("changed since it was published (not the hash on its record)")
    found = _read(path)
    units = units_of(folder, path)
    if units not in known:
        belongs = _read(units)
        if hash_arrays(belongs)[:16] != units.stem.rpartition("-")[2]:
            raise ValueError(f"{UNITS}/{units.name} changed since it was published (its name is its hash)")
        known[units] = belongs
    belongs = dict(known[units])
    if not units.name.startswith(task.task):
        raise ValueError(f"{UNITS}/{units.name} is of another task")
    lengths = {len(column) for column in (*found.values(), *belongs.values())}
    missing = _COLUMNS[task.task] - found.keys() - belongs.keys()
    if len(lengths) != 1 or 0 in lengths or missing or found.keys() & belongs.keys():
        raise ValueError(f"does not fit {UNITS}/{units.name}: {sorted(lengths)} rows, without {sorted(missing)}")
    columns = {**belongs, **found}
    for name, column in columns.items():
        if column.dtype.kind not in "iuf" or not np.isfinite(column).all():
            raise ValueError(f"{name} holds something that is no finite number")
    below = [n for n in columns if n.endswith("_better") and columns[n].min() < 0]
    below += [n for n in columns if n.endswith("_tied") and columns[n].min() < 1]
    if below or not np.isin(columns.get("label", 0), (0, 1)).all() or not np.isin(columns.get("stratum", 0), range(4)).all():
        raise ValueError(f"impossible ranks, labels or strata ({', '.join(below) or 'label or stratum'})")
    return columns


def _read(path: Path) -> dict[str, np.ndarray]:
    table = pyarrow.parquet.read_table(path, use_threads=False)  # small files: threads cost more than they save
    return {name: table[name].to_numpy() for name in table.column_names}


def units_of(folder: Path, users_file: Path) -> Path:
    """The units file that a per-user file names. Raises ``ValueError`` for a name that is none."""
    name = (pyarrow.parquet.read_schema(users_file).metadata or {}).get(b"sidbench.units", b"").decode("utf-8", "replace")
    if _UNITS_NAME.fullmatch(name) is None:
        raise ValueError(f"it names the units {name[:40]!r}")
    return folder / UNITS / f"{name}.parquet"


class _Results:
    """The per-user results of one run and task, whole and within strata."""

    def __init__(self, task: str, columns: Columns) -> None:
        self.known = {"retrieval": _retrieval, "ranking": _ranking}[task]
        users, owner = np.unique(columns["user"], return_inverse=True)
        if task == "retrieval" and len(users) != len(owner):
            raise ValueError("a user stands there twice")
        self.parts = {"": _Part(columns, owner.reshape(-1), len(users))}

    def number(self, name: str) -> Number | None:
        """The metric of this name; ``None`` for a name that is none, or a stratum that the units do not tell."""
        base, _, stratum = name.rpartition("_")
        if stratum not in STRATA:
            return self.known(name, self.parts[""])
        if stratum not in self.parts:
            label = self.parts[""].columns.get("stratum")
            if label is None:
                return None
            self.parts[stratum] = self.parts[""].only((label >= 2) if stratum == "tail" else label == STRATA.index(stratum))
        return self.known(base, self.parts[stratum])


@dataclass(frozen=True)
class _Part:
    """Rows of results. owner: int ``[R]``, the user of each row among the ``n_users`` of the task."""

    columns: Columns
    owner: np.ndarray
    n_users: int

    def only(self, chosen: np.ndarray) -> _Part:
        return _Part({name: column[chosen] for name, column in self.columns.items()}, self.owner[chosen], self.n_users)

    def ratio(self, above: np.ndarray, below: np.ndarray, owner: np.ndarray | None = None) -> Number:
        """``sum(above) / sum(below)`` over the entries of ``owner``, or over all rows; n counts the entries."""
        owner = self.owner if owner is None else owner
        over, under = (np.bincount(owner, weights=part, minlength=self.n_users) for part in (above, below))
        total = float(under.sum())
        value = float(over.sum()) / total if total else float("nan")
        return Number(value, len(owner), (over - value * under) / total if total else np.full(self.n_users, np.nan))

    @cached_property
    def user_aucs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Users with both labels: user, AUC within the user, rows, positives, ``[V]`` each."""
        positive, score = self.columns["label"] > 0, self.columns["score"]
        order = np.lexsort((score, self.owner))
        u, s, p = self.owner[order], score[order], positive[order]
        starts = np.concatenate([[True], (u[1:] != u[:-1]) | (s[1:] != s[:-1])])[: len(u)]
        block = np.cumsum(starts) - 1
        size = np.bincount(block)
        rows = np.bincount(self.owner)
        rank = (np.cumsum(size) - (size - 1) / 2)[block] - (np.cumsum(rows) - rows)[u]  # mid-rank within the user, from 1
        positives = np.bincount(u[p], minlength=len(rows))
        ranks = np.bincount(u[p], weights=rank[p], minlength=len(rows))
        both = np.flatnonzero((positives > 0) & (positives < rows))
        plus, every = positives[both], rows[both]
        return both, (ranks[both] - plus * (plus + 1) / 2) / (plus * (every - plus)), every, plus


def _retrieval(name: str, part: _Part) -> Number | None:
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    family, k, columns = found[1], int(found[2]), part.columns
    below = np.ones(len(part.owner))
    if family == "inflation_recall":
        above, below = (_expected("recall", columns, view, k) for view in ("sid", "item"))
    elif family == "optimistic_recall":
        above = columns["item_better"] < k
    elif family == "pessimistic_recall":
        above = columns["item_better"].astype(np.int64) + columns["item_tied"] <= k
    else:
        view, _, kind = family.rpartition("_")
        above = _expected(kind, columns, _VIEWS[view], k)
    return part.ratio(above.astype(np.float32), below.astype(np.float32))  # runs average values of single precision


def _expected(kind: str, columns: Columns, view: str, k: int) -> np.ndarray:
    """Expected Recall@K or NDCG@K of every user, float64 ``[U]``."""
    before, tied = (columns[f"{view}_{end}"].astype(np.int64) for end in ("better", "tied"))
    hits = np.minimum(tied, np.maximum(0, k - before))
    if kind == "recall":
        return np.asarray(hits / tied)
    gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    first = np.minimum(before, k)
    return np.asarray((gains[first + hits] - gains[first]) / tied)


def _ranking(name: str, part: _Part) -> Number | None:
    if name == "auc":
        return _auc(part)
    if name not in ("gauc", "gauc_click_weighted", "gauc_unweighted", "gauc_coverage_users", "gauc_coverage_rows"):
        return None
    user, auc, rows, positives = part.user_aucs
    if name.startswith("gauc_coverage"):
        owner = part.owner if name.endswith("rows") else np.unique(part.owner)
        return part.ratio(np.isin(owner, user), np.ones(len(owner)), owner)
    weight = {"gauc": rows, "gauc_click_weighted": positives}.get(name, np.ones(len(user)))
    return part.ratio(auc * weight, weight, user)


def _auc(part: _Part) -> Number:
    """The influence of a user is the sum of the components of DeLong (Biometrics 44, 1988) over the user's rows."""
    positive, score = part.columns["label"] > 0, part.columns["score"]
    order = np.argsort(score)
    ordered, inside = score[order], positive[order]
    block = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))[: len(ordered)]
    plus, minus = (np.bincount(block, weights=own) for own in (inside, ~inside))
    n_plus, n_minus = plus.sum(), minus.sum()
    if not n_plus or not n_minus:
        return Number(float("nan"), len(score), np.full(part.n_users, np.nan))
    beaten = ((np.cumsum(minus) - minus / 2) / n_minus)[block]  # of the negatives, ties one half
    beating = 1 - ((np.cumsum(plus) - plus / 2) / n_plus)[block]  # of the positives
    component = np.where(inside, beaten, beating)
    value = float(component[inside].mean())
    weight = np.where(inside, 1 / n_plus, 1 / n_minus)
    influence = np.bincount(part.owner[order], weights=(component - value) * weight, minlength=part.n_users)
    return Number(value, len(score), influence)
