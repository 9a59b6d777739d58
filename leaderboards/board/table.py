"""From records to tables: one table per comparability key, one row per (tokenizer, settings), seeds aggregated.

Rows of different keys never meet. Baselines (records without a tokenizer) join every table that evaluates a task under
the same protocol, marked as baselines.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sidbench.benchmark.metrics.declaration import HIGHER, LOWER, NEITHER
from sidbench.benchmark.store.records import PluginRecord, RunRecord
from sidbench.leaderboards.board.caption import caption, titles, warnings_of
from sidbench.leaderboards.board.columns import columns_of
from sidbench.leaderboards.board.controls import missing_controls
from sidbench.leaderboards.board.evidence import collect
from sidbench.leaderboards.board.oracle_row import oracle_rows
from sidbench.leaderboards.board.provenance import costs_of, effort_of, newest_data, stale_reasons
from sidbench.leaderboards.board.recorded_versions import Plugin
from sidbench.leaderboards.board.store import Store, StoredRun, newest
from sidbench.leaderboards.board.values import BASELINE, CONTROL, TOKENIZER, Cell, Column, Leaderboard, Row, Table
from sidbench.leaderboards.statistics.groups import Evidence, marks, ranks

_HAVE_COLUMNS = ("code_length", "codebook_size")


def build_tables(
    store: Store,
    current: Mapping[Plugin, str] | None = None,
    title: str = "Leaderboard",
    controls: Sequence[str] = (),
) -> Leaderboard:
    """Group, aggregate, compare and mark. Tables are ordered by dataset, budget and key.

    current: (kind, name) -> version of the installed plugins, by which rows of other versions are flagged; ``None``
    flags none. controls: tokenizers that a table must hold to be complete; notes name those without a row. Without both
    the tables depend on the records alone.
    """
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
    data = newest_data(store.runs)
    tables = sorted(
        (_table(key, members, current, data, controls) for key, members in groups.items()),
        key=lambda t: (t.caption["dataset"], t.caption["budget"], t.key),
    )
    named = zip(tables, titles([t.caption for t in tables]), strict=True)
    return Leaderboard(tuple(replace(t, title=own) for t, own in named), store.skipped, superseded, title)


def _shared_tasks(baseline: StoredRun, members: Sequence[StoredRun]) -> tuple[Any, ...]:
    """The tasks of a baseline that the table evaluates under the same protocol."""
    protocols = {(t.task, t.protocol_key) for r in members if r.record.tokenizer is not None for t in r.record.tasks}
    return tuple(t for t in baseline.record.tasks if (t.task, t.protocol_key) in protocols)


def _table(
    key: str,
    members: Sequence[StoredRun],
    current: Mapping[Plugin, str] | None,
    data: Mapping[str, str],
    controls: Sequence[str],
) -> Table:
    by_row: dict[str, list[StoredRun]] = defaultdict(list)
    for run in members:
        by_row[run.row].append(run)
    groups = [sorted(g, key=lambda r: r.record.seed) for g in by_row.values()]
    notes: list[str] = []
    evidence: list[dict[str, Evidence]] = [{} for _ in groups]
    known = columns_of([r.record for r in members])
    for task in (None, *sorted({t.task for r in members for t in r.record.tasks})):
        found, told = collect(task, [c for c in known if c.task == task], groups)
        for row, more in zip(evidence, found, strict=True):
            row |= more
        notes += told
    columns = tuple(c for c in known if any(c.metric in e for e in evidence))
    notes += _unequal_units(columns, evidence)
    ranked = {c.metric: _ranks(c, evidence) for c in columns}
    headlines = tuple(c for c in columns if c.headline)
    rows = [_row(i, groups, evidence[i], ranked, headlines) for i in range(len(groups))]
    stale = [tuple(dict.fromkeys(s for r in g for s in stale_reasons(r, current, data))) for g in groups]
    rows = [
        replace(row, stale=reasons, improvements=_improvements(row, rows, headlines))
        for row, reasons in zip(rows, stale, strict=True)
    ]
    rows += oracle_rows(members, columns, evidence)
    order = [c for c in (*headlines, *columns) if c.direction == HIGHER]

    def standing(row: Row) -> tuple[Any, ...]:
        cell = row.cells.get(order[0].metric) if order else None
        return (cell is None, 0.0 if cell is None else -cell.value, row.name, row.settings)

    notes = [*missing_controls(members, controls), *dict.fromkeys(notes)]
    words = caption(key, members)
    return Table(
        key,
        words,
        columns,
        tuple(sorted(rows, key=standing)),
        (*notes, *warnings_of(members, words["budget"])),
        headlines,
    )


def _unequal_units(columns: Sequence[Column], evidence: Sequence[Mapping[str, Evidence]]) -> list[str]:
    """A note for every column of a task whose rows average different numbers of users or rows."""
    found = []
    for column in columns:
        units = sorted({e[column.metric].n for e in evidence if column.metric in e})
        if column.task is not None and len(units) > 1:
            found.append(f"{column.heading}: rows average between {units[0]:,} and {units[-1]:,} units.")
    return found


def _ranks(column: Column, evidence: Sequence[Mapping[str, Evidence]]) -> dict[int, tuple[int, str]]:
    """Row -> (rank, mark) in one column; nothing for numbers of which neither end is better."""
    if column.direction == NEITHER:
        return {}
    present = [i for i, row in enumerate(evidence) if column.metric in row]
    found = ranks([evidence[i][column.metric] for i in present], column.direction == HIGHER, column.digits)
    return {i: (rank, mark) for i, rank, mark in zip(present, found, marks(found), strict=True)}


def _improvements(row: Row, rows: Sequence[Row], headlines: Sequence[Column]) -> dict[str, float]:
    """Headline metric -> value over the best value of the other tokenizer rows, minus 1, as papers' "Improv." column.

    Controls and baselines are not competitors. Nothing for them, without a competitor, and where that has 0.
    """
    found = {}
    for column in headlines if row.kind == TOKENIZER else ():
        own = row.cells.get(column.metric)
        others = [
            r.cells[column.metric].value for r in rows if r is not row and r.kind == TOKENIZER and column.metric in r.cells
        ]
        if own is not None and others:
            best = min(others) if column.direction == LOWER else max(others)
            if best:
                found[column.metric] = own.value / best - 1
    return found


def _row(
    index: int,
    groups: Sequence[Sequence[StoredRun]],
    evidence: Mapping[str, Evidence],
    ranked: Mapping[str, Mapping[int, tuple[int, str]]],
    headlines: Sequence[Column],
) -> Row:
    group, record = groups[index], groups[index][0].record
    cells = {}
    for metric, e in evidence.items():
        spread = float(np.std(e.seeds, ddof=1)) if len(e.seeds) > 1 else None
        half = None if e.low is None or e.high is None else (e.high - e.low) / 2
        cells[metric] = Cell(e.value, e.n, half, spread, ranked[metric].get(index, (0, ""))[1], e.low, e.high, e.interval)
    kind = BASELINE if record.tokenizer is None else CONTROL if record.control else TOKENIZER
    twins = [g[0].record for g in groups if row_name(g[0].record) == row_name(record)]
    length = size = ""
    if record.sids is not None:
        sizes = record.sids.sizes
        length = str(record.sids.code_length)
        active = float(np.mean([r.record.sids.mean_active for r in group if r.record.sids is not None]))
        length += f" ({active:.1f} used)" if abs(active - record.sids.code_length) >= 0.05 else ""
        size = str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)}–{max(sizes)}"
    return Row(
        row_name(record),
        kind,
        _settings(record, twins),
        length,
        size,
        cells,
        float(np.median([r.record.wall_seconds() for r in group])),
        tuple(dict.fromkeys(r.record.environment.device for r in group)),
        tuple(r.record.seed for r in group),
        tuple(group),
        ranks={c.metric: ranked[c.metric][index][0] for c in headlines if index in ranked[c.metric]},
        costs=costs_of(group),
        effort="; ".join(dict.fromkeys(effort_of(r.record) for r in group)),
    )


def row_name(record: RunRecord) -> str:
    """Tokenizer and, if there is one, its collision policy ("rqkmeans +append"); the recommenders of a baseline."""
    if record.tokenizer is None:
        return " + ".join(t.recommender.name for t in record.tasks)
    return " +".join(p.name for p in _plugins(record))


def _settings(record: RunRecord, twins: Sequence[RunRecord]) -> str:
    """Settings that differ between rows of the same name, and those the user set by hand."""
    parts = []
    for index, plugin in enumerate(_plugins(record)):
        others = [_plugins(t)[index].config for t in twins]
        typed = {
            m[1]
            for word in record.environment.command_line
            if (m := re.match(r"(?:tokenizer|collisions|retriever|ranker)\.(\w+)=", word))
        }
        shown = [
            k
            for k, v in plugin.config.items()
            if k not in _HAVE_COLUMNS and (k in typed or any(k not in o or o[k] != v for o in others))
        ]
        parts += [f"{k}={plugin.config[k]}" for k in shown]
    return ", ".join(parts)


def _plugins(record: RunRecord) -> list[PluginRecord]:
    """What a row is made of: its tokenizer and collision policy or, for baselines, the recommenders."""
    if record.tokenizer is None:
        return [t.recommender for t in record.tasks]
    sids = record.sids
    policy = (
        []
        if sids is None or sids.collision_policy == "none"
        else [PluginRecord(name=sids.collision_policy, config=sids.collision_config)]
    )
    return [record.tokenizer, *policy]
