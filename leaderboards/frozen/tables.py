"""Whether the tables of ``board.json`` are what the records and per-user results of a board say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidbench.datasets.foundation.hashing import canonical_json
from sidbench.leaderboards.frozen.captions import caption, title
from sidbench.leaderboards.frozen.cells import cell_problems, equal
from sidbench.leaderboards.frozen.columns import COLUMNS, HEADLINES
from sidbench.leaderboards.frozen.costs import all_seconds, costs, effort
from sidbench.leaderboards.frozen.document import BASELINE, BOUND, CONTROL, TOKENIZER, Board, Cell, Row, Table
from sidbench.leaderboards.frozen.numbers import Number
from sidbench.leaderboards.frozen.records import Plugin, Record

Numbers = Mapping[tuple[str, str], Mapping[str, Number]]  # (run id, task) -> metric -> what per-user results give


@dataclass(frozen=True)
class Evidence:
    """Everything that a board's tables are judged by: records by run id, and what per-user results give."""

    records: Mapping[str, Record]
    numbers: Numbers


def table_problems(board: Board, evidence: Evidence) -> list[str]:
    """What in the tables is not what the records say, one sentence each."""
    problems = [f"board.json: {len(left)} records are {how}" for how, left in _left_out(board).items() if left]
    seen = Counter(run.run_id for table in board.tables for row in table.rows for run in row.runs)
    problems += [f"board.json: no record of {name} is here" for name in sorted(seen.keys() - evidence.records.keys())]
    problems += [f"board.json: {name} stands in no row" for name in sorted(evidence.records.keys() - seen.keys())]
    problems += [
        f"board.json: {name} stands in {n} rows"
        for name, n in seen.items()
        if n > 1 and name in evidence.records and evidence.records[name].tokenizer is not None
    ]
    if len({table.key for table in board.tables}) < len(board.tables):
        problems.append("board.json: two tables have the same key")
    for table in board.tables:
        problems += [f"board.json: {told}" for told in _TableJudge(table, evidence).problems()]
    return problems


def lead_of(table: Table, records: Mapping[str, Record]) -> Record | None:
    """The record that the caption of a table speaks of: the first with SIDs, or the first."""
    members = sorted(
        (records[run.run_id] for row in table.rows for run in row.runs if run.run_id in records),
        key=lambda r: (r.tokenizer is None, r.created, r.run_id),
    )
    return members[0] if members else None


def _left_out(board: Board) -> dict[str, Sequence[Any]]:
    return {"named as unreadable": board.unreadable, "named as replaced by newer ones": board.superseded}


class _TableJudge:
    """One table against its records."""

    def __init__(self, table: Table, evidence: Evidence) -> None:
        self.table, self.evidence = table, evidence
        self.of_row = [[evidence.records[r.run_id] for r in row.runs if r.run_id in evidence.records] for row in table.rows]
        self.members = [record for group in self.of_row for record in group]
        self.protocols = {(t.task, t.protocol_key) for r in self.members if r.tokenizer is not None for t in r.tasks}

    def problems(self) -> Iterator[str]:
        table = self.table
        lead = lead_of(table, self.evidence.records)
        if lead is None:
            yield f"table {table.key[:8]}: none of its runs is here"
            return
        words = caption(lead, table.key)
        for heading, text in words.items():
            said = table.caption.get(heading, "")
            if said != text:
                yield f"table {table.key[:8]}: {heading} says {said[:80]!r}, the records {text[:80]!r}"
        if table.caption.keys() != words.keys() or not table.title.startswith(title(words)):
            yield f"table {table.key[:8]}: its title or caption is not that of its records"
        shown = [m for m in COLUMNS if any(self.found(m, group) for group in self.of_row)]
        if table.columns != shown or table.headlines != [m for m in shown if m in HEADLINES]:
            yield f"table {table.key[:8]}: its columns are {', '.join(table.columns)}, the records give {', '.join(shown)}"
        for record in self.members:
            sids = record.sids
            notes = [] if sids is None else [f"{sids.collision_policy}: {note}" for note in sids.collision_notes]
            for warning in (*record.warnings, *notes):
                if f"{record.run_id}: {warning}" not in table.notes:
                    yield f"table {table.key[:8]}: a warning of {record.run_id} is not among its notes: {warning[:80]}"
        for label, times in Counter(row.label for row in table.rows).items():
            if times > 1:
                yield f"table {table.key[:8]}: {times} rows are called {label}"
        first = [row.metrics[shown[0]].value for row in table.rows if shown and shown[0] in row.metrics]
        if first != sorted(first, reverse=True):
            yield f"table {table.key[:8]}: its rows do not stand in the order of {COLUMNS[shown[0]].heading}"
        for row, group in zip(table.rows, self.of_row, strict=True):
            told = self.bound(row) if row.kind == BOUND else self.row(row, group) if group else ["none of its runs is here"]
            yield from (f"row {row.label}: {problem}" for problem in told)

    def found(self, metric: str, group: Sequence[Record]) -> list[tuple[Any, Number | None]]:
        """The metric on each record of a row that has it, with what its per-user results give."""
        task, pairs = COLUMNS[metric].task, []
        for record in group:
            number, part = record.metric(metric, task), record.task(task)
            if number is None or (part is not None and not self.joins(part.task, part.protocol_key, record)):
                continue
            pairs.append((number, None if task is None else self.evidence.numbers[record.run_id, task].get(metric)))
        return [p for p in pairs if task is None or p[1] is not None]  # a file that gives nothing was told already

    def joins(self, task: str, protocol: str, record: Record) -> bool:
        """Whether a task of a record belongs into this table: baselines bring those of an equal protocol."""
        return record.comparability_key == self.table.key or (task, protocol) in self.protocols

    def row(self, row: Row, group: Sequence[Record]) -> Iterator[str]:
        lead = group[0]
        for record, run in zip(group, (r for r in row.runs if r.run_id in self.evidence.records), strict=True):
            where = record.environment
            stated = (run.seed, run.git_commit, run.git_dirty, run.command_line)
            if stated != (record.seed, where.git_commit, where.git_dirty, where.command_line):
                yield f"seed, commit or command of {run.run_id} are not those of its record"
            if record.tokenizer is not None and record.comparability_key != self.table.key:
                yield f"{run.run_id} has another comparability key than the table"
            if record.tokenizer is None and not any(self.joins(t.task, t.protocol_key, record) for t in record.tasks):
                yield f"{run.run_id} shares no task and protocol with the table"
            if _identity(record) != _identity(lead):
                yield f"{run.run_id} has other settings than {lead.run_id}"
        baseline, control = lead.tokenizer is None, lead.control
        expected = {
            "tokenizer": _name(lead),
            "kind": BASELINE if baseline else CONTROL if control else TOKENIZER,
            "settings": self.settings(lead),
            "code_length": _code_length(group),
            "codebook_size": _codebook_size(lead),
            "seeds": [r.seed for r in group],
            "devices": list(dict.fromkeys(r.environment.device for r in group)),
            "effort": "; ".join(dict.fromkeys(effort(r) for r in group)),
            "stale": [],
        }
        for name, value in expected.items():
            if getattr(row, name) != value:
                yield f"{name} says {str(getattr(row, name))[:60]!r}, the records {str(value)[:60]!r}"
        if len({r.seed for r in group}) < len(group):
            yield "a seed stands there twice"
        given = {**costs(group), "seconds": all_seconds(group)}
        for name, cost in {**row.costs, "seconds": row.seconds}.items():
            if name not in given or not equal(cost, given[name]):
                yield f"{name} is {cost}, the records give {given.get(name)}"
        if row.costs.keys() != costs(group).keys():
            yield "costs are missing"
        for metric in {*COLUMNS, *row.metrics}:
            numbers = self.found(metric, group) if metric in COLUMNS else []
            cell = row.metrics.get(metric)
            if cell is None or not numbers:
                if cell is not None or numbers:
                    yield f"{metric} is {'missing' if cell is None else 'on no record'}"
                continue
            yield from (f"{metric}: {told}" for told in cell_problems(metric, cell, numbers))
        yield from self.standing(row)

    def settings(self, record: Record) -> str:
        """Settings that differ between rows of one name, and those that the user set."""
        twins = [group[0] for group in self.of_row if group and _name(group[0]) == _name(record)]
        pattern = r"(?:tokenizer|collisions|retriever|ranker)\.(\w+)="
        typed = {m[1] for word in record.environment.command_line if (m := re.match(pattern, word))}
        parts = []
        for place, plugin in enumerate(_plugins(record)):
            others = [_plugins(twin)[place].config for twin in twins]
            parts += [
                f"{name}={value}"
                for name, value in plugin.config.items()
                if name not in ("code_length", "codebook_size")
                and (name in typed or any(name not in o or o[name] != value for o in others))
            ]
        return ", ".join(parts)

    def standing(self, row: Row) -> Iterator[str]:
        """Ranks as far as values bound them (the tests behind them are not repeated), marks and improvements."""
        for metric in HEADLINES:
            cell, rank = row.metrics.get(metric), row.ranks.get(metric)
            if cell is None:
                continue
            cells = [r.metrics[metric] for r in self.table.rows if r.kind != BOUND and metric in r.metrics]
            better = sum(other.value > cell.value for other in cells)
            ranks = sorted({r.ranks[metric] for r in self.table.rows if metric in r.ranks})
            mark = 0 if rank is None or rank not in ranks[:2] else ranks.index(rank) + 1
            if rank is None or not 1 <= rank <= 1 + better or cell.mark != mark:
                yield f"rank {rank} in {metric} with {better} better rows, or its mark, cannot be"
            best = max((c.value for c in self.competitors(row, metric)), default=0.0)
            own = cell.value / best - 1 if row.kind == TOKENIZER and best else None
            stated = row.improvements.get(metric)
            if (own is None) != (stated is None) or own is not None and abs((stated or 0.0) - own) > 1e-6:
                yield f"improvement in {metric} is {stated}, its values give {own}"
        if (row.ranks.keys() | row.improvements.keys()) - set(HEADLINES) & row.metrics.keys():
            yield "a rank or improvement stands in a column that has none"

    def competitors(self, row: Row, metric: str) -> Iterator[Cell]:
        for other in self.table.rows:
            if other is not row and other.kind == TOKENIZER and metric in other.metrics:
                yield other.metrics[metric]

    def bound(self, row: Row) -> Iterator[str]:
        """The row that nobody ran: what the newest record with bounds states."""
        stated = max((r for r in self.members if r.dataset.bounds), key=lambda r: (r.created, r.run_id), default=None)
        bounds = {} if stated is None else stated.dataset.bounds
        expected = {m: bounds[c.task][m] for m, c in COLUMNS.items() if c.task in bounds and m in bounds[c.task]}
        if {m: v for m, v in expected.items() if m in self.table.columns}.keys() != row.metrics.keys():
            yield "its columns are not those for which the records state a bound"
        for metric, cell in row.metrics.items():
            units = [r.metrics[metric].n for r in self.table.rows if r.kind != BOUND and metric in r.metrics]
            doubt = (cell.half_width, cell.seed_sd, cell.low, cell.high, cell.mark, cell.interval)
            if not equal(cell.value, expected.get(metric)) or doubt != (None, None, None, None, 0, "expected"):
                yield f"{metric} is {cell.value}, the records state {expected.get(metric)}"
            if cell.n != max(units, default=0):
                yield f"{metric} averages {cell.n} units, the other rows {max(units, default=0)}"
        if row.tokenizer != "oracle" or any(
            (
                row.settings,
                row.code_length,
                row.codebook_size,
                row.seeds,
                row.devices,
                row.ranks,
                row.improvements,
                row.effort,
            )
        ):
            yield "a row that nobody ran has settings, seeds or ranks"
        if row.runs or row.seconds is not None or any(value is not None for value in row.costs.values()):
            yield "a row that nobody ran has runs or costs"


def _plugins(record: Record) -> list[Plugin]:
    """What a row is made of: tokenizer and collision policy or, for baselines, the recommenders."""
    if record.tokenizer is None:
        return [t.recommender for t in record.tasks]
    sids = record.sids
    if sids is None or sids.collision_policy == "none":
        return [record.tokenizer]
    return [record.tokenizer, Plugin(name=sids.collision_policy, config=sids.collision_config)]


def _name(record: Record) -> str:
    return (" + " if record.tokenizer is None else " +").join(plugin.name for plugin in _plugins(record))


def _identity(record: Record) -> str:
    return canonical_json([record.tokenizer is None, record.control, [[p.name, p.config, p.code] for p in _plugins(record)]])


def _code_length(group: Sequence[Record]) -> str:
    sids = [r.sids for r in group if r.sids is not None]
    if not sids:
        return ""
    active = float(np.mean([s.mean_active for s in sids]))
    used = f" ({active:.1f} used)" if abs(active - sids[0].code_length) >= 0.05 else ""
    return f"{sids[0].code_length}{used}"


def _codebook_size(record: Record) -> str:
    sizes = set() if record.sids is None else set(record.sids.sizes)
    return str(min(sizes)) if len(sizes) == 1 else f"{min(sizes)}–{max(sizes)}" if sizes else ""
