"""From records to tables: one table per comparability key, one row per (tokenizer, settings), seeds aggregated.

Rows of different keys never meet. Baselines (records without a tokenizer) join every table that evaluates a task under
the same protocol, marked as baselines.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidbench.benchmark.metrics.descriptions import HIGHER, NEITHER, describe
from sidbench.benchmark.records import PluginRecord, RunRecord
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.caption import caption, warnings_of
from sidbench.leaderboards.controls import missing_controls
from sidbench.leaderboards.noise import Evidence, bootstrap, marks
from sidbench.leaderboards.store import Skipped, Store, StoredRun, identity, newest, read_users
from sidbench.leaderboards.store import read_runs as read_runs

TOKENIZER, CONTROL, BASELINE = "tokenizer", "control", "baseline"
_HAVE_COLUMNS = ("code_length", "codebook_size")


@dataclass(frozen=True)
class Column:
    """A metric column: heading, the task it belongs to (``None``: the SID table), metric name, digits printed."""

    heading: str
    task: str | None
    metric: str
    digits: int = 4


COLUMNS = (
    Column("R@10", "retrieval", "item_recall_at_10"), Column("N@10", "retrieval", "item_ndcg_at_10"),
    Column("R@50", "retrieval", "item_recall_at_50"), Column("R@100", "retrieval", "item_recall_at_100"),
    Column("N@100", "retrieval", "item_ndcg_at_100"), Column("SID R@10", "retrieval", "sid_recall_at_10"),
    Column("inflation", "retrieval", "inflation_recall_at_10", 3),
    Column("AUC", "ranking", "auc"), Column("GAUC", "ranking", "gauc"),
    Column("entropy", None, "entropy", 3), Column("utilisation", None, "utilisation", 3),
    Column("collision rate", None, "collision_rate"), Column("before policy", None, "collision_rate_before"),
    Column("category AMI", None, "cat_ami", 3), Column("co-occurrence lift", None, "cooc_lift", 2),
    Column("probe text", None, "probe_text", 3), Column("probe behaviour", None, "probe_behaviour", 3),
)


@dataclass(frozen=True)
class Cell:
    """One number: mean over seeds, units it averages, half-width of the 95 % interval over users, sd over seeds, mark.

    half_width is the mean over seeds, at least that of the mean over seeds.
    """

    value: float
    n: int
    half_width: float | None = None
    seed_sd: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """One tokenizer with one set of settings, or one baseline. ``cells``: metric name -> cell, absent where undefined.

    kind: "tokenizer", "control" or "baseline". settings: what tells it from rows of the same name, and what the user
    set. seconds: computation of all stages, mean over seeds.
    """

    name: str
    kind: str
    settings: str
    code_length: str
    codebook_size: str
    cells: Mapping[str, Cell]
    seconds: float
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[StoredRun, ...]


@dataclass(frozen=True)
class Table:
    """Rows that may be compared. ``caption``: heading -> sentence. ``notes``: what a reader must know of them."""

    key: str
    caption: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Leaderboard:
    """All tables, and what is in none of them. ``superseded``: run ids replaced by a newer record of the same run."""

    tables: tuple[Table, ...]
    skipped: tuple[Skipped, ...]
    superseded: tuple[str, ...]


def build_tables(store: Store) -> Leaderboard:
    """Group, aggregate, compare and mark. Tables are ordered by dataset, budget and key."""
    runs, superseded = newest(store.runs)
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for run in runs:
        if run.record.tokenizer is not None:
            groups[run.record.comparability_key].append(run)
    alone = []
    for run in (r for r in runs if r.record.tokenizer is None):
        hosts = [(members, tasks) for members in groups.values() if (tasks := _shared_tasks(run, members))]
        for members, tasks in hosts:
            members.append(StoredRun(run.record.model_copy(update={"tasks": tasks}), run.folder))
        if not hosts:
            alone.append(run)
    for run in alone:
        groups[run.record.comparability_key].append(run)
    tables = [_table(key, members) for key, members in groups.items()]
    return Leaderboard(tuple(sorted(tables, key=lambda t: (t.caption["dataset"], t.caption["budget"], t.key))),
                       store.skipped, superseded)


def _shared_tasks(baseline: StoredRun, members: Sequence[StoredRun]) -> tuple[Any, ...]:
    """The tasks of a baseline that the table evaluates under the same protocol."""
    protocols = {(t.task, t.protocol_key) for r in members if r.record.tokenizer is not None for t in r.record.tasks}
    return tuple(t for t in baseline.record.tasks if (t.task, t.protocol_key) in protocols)


def _table(key: str, members: Sequence[StoredRun]) -> Table:
    by_row: dict[str, list[StoredRun]] = defaultdict(list)
    for run in members:
        by_row[identity(run.record)].append(run)
    groups = [sorted(g, key=lambda r: r.record.seed) for g in by_row.values()]
    notes: list[str] = []
    evidence: list[dict[str, Evidence]] = [{} for _ in groups]
    for task in (None, *sorted({t.task for r in members for t in r.record.tasks})):
        _collect(task, groups, evidence, Rng(0).child("leaderboard", key, str(task)), notes)
    columns = tuple(c for c in COLUMNS if any(c.metric in e for e in evidence))
    marked = _marks(columns, evidence)
    rows = [_row(group, groups, evidence[i], {m: marked.get((i, m), "") for m in evidence[i]})
            for i, group in enumerate(groups)]
    order = [c for c in columns if (d := describe(c.metric)) is not None and d.direction == HIGHER]

    def standing(row: Row) -> tuple[Any, ...]:
        cell = row.cells.get(order[0].metric) if order else None
        return (cell is None, 0.0 if cell is None else -cell.value, row.name, row.settings)

    return Table(key, caption(key, members), columns, tuple(sorted(rows, key=standing)),
                 (*missing_controls(members), *dict.fromkeys(notes), *warnings_of(members)))


def _collect(task: str | None, groups: Sequence[Sequence[StoredRun]], evidence: list[dict[str, Evidence]], rng: Rng,
             notes: list[str]) -> None:
    """Fill the evidence of every row in the columns of one task."""
    columns = [c for c in COLUMNS if c.task == task]
    users: dict[str, dict[str, np.ndarray]] = {}
    if task is not None:
        for run in (r for g in groups for r in g if r.task(task) is not None):
            read = read_users(run, task, {c.metric for c in columns} | {"label", "score"})
            if isinstance(read, str):
                notes.append(f"{run.record.run_id}: no per-user {task} results ({read}); its differences are judged by "
                             "intervals as if rows shared no users.")
            else:
                users[run.record.run_id] = read
    found_draws = bootstrap(list(users.values()), [c.metric for c in columns], rng) if len(groups) > 1 and users else []
    draws = dict(zip(users, found_draws, strict=False))
    for group, row in zip(groups, evidence, strict=True):
        for column in columns:
            found = [(r, m) for r in group if (m := r.record.metric(column.metric, task)) is not None]
            if not found:
                continue
            if len(found) < len(group):
                notes.append(f"{column.heading} of {_name(group[0].record)} is undefined for "
                             f"{len(group) - len(found)} of {len(group)} seeds; its mean is over the others.")
            values = tuple(m.value for _, m in found)
            widths = [(m.high - m.low) / 2 for _, m in found if m.low is not None and m.high is not None]
            row[column.metric] = Evidence(
                float(np.mean(values)), values, float(np.mean(widths)) if len(widths) == len(found) else None,
                _mean_draws([draws.get(r.record.run_id, {}).get(column.metric) for r, _ in found]),
                min(m.n for _, m in found))


def _mean_draws(draws: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The metric under each resample of users, averaged over seeds; ``None`` unless every seed has it."""
    present = [d for d in draws if d is not None]
    return np.mean(present, axis=0) if len(present) == len(draws) else None


def _marks(columns: Sequence[Column], evidence: Sequence[Mapping[str, Evidence]]) -> dict[tuple[int, str], str]:
    marked: dict[tuple[int, str], str] = {}
    for column in columns:
        description = describe(column.metric)
        if description is None or description.direction == NEITHER:
            continue
        present = [i for i, row in enumerate(evidence) if column.metric in row]
        found = marks([evidence[i][column.metric] for i in present], description.direction == HIGHER, column.digits)
        marked |= {(i, column.metric): mark for i, mark in zip(present, found, strict=True)}
    return marked


def _row(group: Sequence[StoredRun], groups: Sequence[Sequence[StoredRun]], evidence: Mapping[str, Evidence],
         marked: Mapping[str, str]) -> Row:
    record = group[0].record
    spread = {m: float(np.std(e.seeds, ddof=1)) if len(e.seeds) > 1 else None for m, e in evidence.items()}
    cells = {m: Cell(e.value, e.n, e.half_width, spread[m], marked[m]) for m, e in evidence.items()}
    kind = BASELINE if record.tokenizer is None else CONTROL if record.control else TOKENIZER
    twins = [g[0].record for g in groups if _name(g[0].record) == _name(record)]
    length = size = ""
    if record.sids is not None:
        sizes = record.sids.sizes
        length = str(record.sids.code_length)
        active = float(np.mean([r.record.sids.mean_active for r in group if r.record.sids is not None]))
        length += f" ({active:.1f} used)" if abs(active - record.sids.code_length) >= 0.05 else ""
        size = str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)}–{max(sizes)}"
    return Row(_name(record), kind, _settings(record, twins), length, size, cells,
               float(np.mean([r.record.wall_seconds() for r in group])),
               tuple(dict.fromkeys(r.record.environment.device for r in group)),
               tuple(r.record.seed for r in group), tuple(group))


def _name(record: RunRecord) -> str:
    """Tokenizer and, if there is one, its collision policy ("rqkmeans +append"); the recommenders of a baseline."""
    if record.tokenizer is None:
        return " + ".join(t.recommender.name for t in record.tasks)
    return " +".join(p.name for p in _plugins(record))


def _settings(record: RunRecord, twins: Sequence[RunRecord]) -> str:
    """Settings that differ between rows of the same name, and those the user set on the command line."""
    parts = []
    for index, plugin in enumerate(_plugins(record)):
        others = [_plugins(t)[index].config for t in twins]
        typed = {m[1] for word in record.environment.command_line
                 if (m := re.match(r"(?:tokenizer|collisions|retriever|ranker)\.(\w+)=", word))}
        shown = [k for k, v in plugin.config.items() if k not in _HAVE_COLUMNS
                 and (k in typed or any(k not in o or o[k] != v for o in others))]
        parts += [f"{k}={plugin.config[k]}" for k in shown]
    return ", ".join(parts)


def _plugins(record: RunRecord) -> list[PluginRecord]:
    """What a row is made of: its tokenizer and collision policy or, for baselines, the recommenders."""
    if record.tokenizer is None:
        return [t.recommender for t in record.tasks]
    sids = record.sids
    policy = [] if sids is None or sids.collision_policy == "none" else \
        [PluginRecord(name=sids.collision_policy, config=sids.collision_config)]
    return [record.tokenizer, *policy]
