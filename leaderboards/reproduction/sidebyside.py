"""Ours beside the published values: pure functions of published tables, a plan and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sidbench.benchmark.metrics.catalogue import describe
from sidbench.leaderboards.board.caption import caption
from sidbench.leaderboards.board.provenance import effort_of
from sidbench.leaderboards.board.store import Store
from sidbench.leaderboards.reproduction.bound_checks import BoundViolation, marked_cells, violations
from sidbench.leaderboards.reproduction.evidence import Estimate, contrast, gather
from sidbench.leaderboards.reproduction.papers import OTHER_QUANTITY, PublishedPaper, PublishedTable, our_metric
from sidbench.leaderboards.reproduction.plan import Plan
from sidbench.leaderboards.reproduction.selection import Selection, Wanted, select_all
from sidbench.leaderboards.reproduction.verdicts import Hypothesis, Verdict, hypotheses, judge

TASKS = (None, "retrieval", "ranking")
_TASK_NAMES = {None: "SID tables", "retrieval": "retrieval", "ranking": "ranking"}
FIGURE_METRICS = {
    "3": ("entropy", "item_recall_at_50", "item_recall_at_100", "auc", "gauc"),
    "4": ("item_recall_at_50", "auc"),
    "5": ("auc_head", "auc_torso", "auc_tail"),
}


@dataclass(frozen=True)
class Change:
    """Difference to the table's reference row: published, and ours with 95 % interval and p (``None`` where unknown)."""

    published: float | None
    ours: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class SideCell:
    """One cell. marked: the published value breaks a bound. difference: ours minus published, where both measure the same
    (``alike``). change: to the reference row, where the table has one."""

    published: float | None
    marked: bool
    ours: Estimate | None
    change: Change | None = None
    alike: bool = True

    @property
    def difference(self) -> float | None:
        if self.published is None or self.ours is None or not self.alike:
            return None
        return self.ours.value - self.published


@dataclass(frozen=True)
class SideLine:
    """One row. runs: ids behind ours. absent: why a column has nothing of ours. differs: settings off the plan."""

    row: str
    cells: Mapping[str, SideCell]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    absent: str = ""
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideTable:
    """A published table with ours beside it; ``dataset`` is ours, "" where nothing of ours can stand there."""

    table: PublishedTable
    dataset: str
    lines: tuple[SideLine, ...]
    violations: tuple[BoundViolation, ...]


@dataclass(frozen=True)
class FigureRow:
    """One row of a figure: metric -> number."""

    row: str
    values: Mapping[str, Estimate]
    notes: Mapping[str, float]


@dataclass(frozen=True)
class SideFigure:
    """A figure as numbers. differences: row -> metric -> difference to ``reference``."""

    number: str
    title: str
    reading: str
    metrics: tuple[str, ...]
    rows: tuple[FigureRow, ...]
    reference: str = ""
    differences: Mapping[str, Mapping[str, Change]] | None = None


@dataclass(frozen=True)
class SideBySide:
    """Everything that one command prints. settings: heading -> what ours had. missing: rows without a run -> why."""

    paper: PublishedPaper
    dataset: str
    budget: str
    tables: tuple[SideTable, ...]
    figures: tuple[SideFigure, ...]
    verdicts: tuple[Verdict, ...]
    settings: Mapping[str, str]
    missing: Mapping[str, str]
    notes: tuple[str, ...]


def chosen_tables(paper: PublishedPaper, numbers: Sequence[str], dataset: str) -> list[tuple[PublishedTable, bool]]:
    """The tables of these numbers for this data set or for data that are not public, each with whether ours stands
    beside it. A number without a table for the data set shows that of Beauty, else all it has, with ours beside."""
    chosen: list[tuple[PublishedTable, bool]] = []
    for number in numbers:
        tables = [t for t in paper.tables if t.number == number]
        home = next((d for d in (dataset, "beauty") if any(t.dataset == d for t in tables)), None)
        chosen += [
            (t, home is None or t.dataset == home) for t in tables if home is None or t.dataset in (home, "industrial")
        ]
    return chosen


def rows_needed(
    paper: PublishedPaper, plan: Plan, tables: Sequence[str], figures: Sequence[str], dataset: str
) -> tuple[str, ...]:
    """Rows that these tables and figures show, in order."""
    shown = [row for table, ours in chosen_tables(paper, tables, dataset) if ours for row in table.rows]
    return tuple(dict.fromkeys([*shown, *(row for f in figures for row in plan.figures.get(f, ()))]))


def side_by_side(
    paper: PublishedPaper,
    plan: Plan,
    wanted: Mapping[str, Wanted],
    store: Store,
    dataset: str,
    budget: str,
    tables: Sequence[str],
    figures: Sequence[str],
    missing: Mapping[str, str],
    key: str = "",
) -> SideBySide:
    """Build everything from records. wanted: the rows that can have runs. missing: row -> why, or the command for it."""
    selections = select_all(wanted, store, key)
    chosen = chosen_tables(paper, tables, dataset)
    claims = [h for h in hypotheses(paper.name) if h.number in (*tables, *(f"figure {f}" for f in figures))]
    metrics = _metrics(paper, chosen, figures, claims)
    gathered = {task: gather(selections[task].rows, task, metrics[task]) for task in TASKS}
    known = {task: found for task, (found, _) in gathered.items()}

    def number(row: str, column: str) -> Estimate | None:
        task, metric = _of_ours(column, paper.level)
        return known[task].get(row, {}).get(metric)

    def evidence(claim: Hypothesis, row: str) -> Estimate | str:
        found = number(row, claim.metric)
        task, _ = _of_ours(claim.metric, paper.level)
        no_run = row not in selections[task].rows
        if no_run:
            why = missing.get(row, "")
            return why if why and not why.startswith("bench ") else "no run of ours"
        return found or f"no {claim.metric} on its records"

    shown = tuple(_table(t, paper, plan, dataset if ours else "", selections, known, missing) for t, ours in chosen)
    drawn = tuple(_figure(paper, f, plan, selections, known) for f in figures)
    absent = {row: why for row, why in missing.items() if not any(row in s.rows for s in selections.values())}
    return SideBySide(
        paper,
        dataset,
        budget,
        shown,
        drawn,
        judge(claims, evidence),
        _settings(selections, wanted),
        absent,
        (*_notes(selections), *(n for _, notes in gathered.values() for n in notes)),
    )


def _of_ours(column: str, level: str) -> tuple[str | None, str]:
    """(task, metric) of a published column or of a metric name of ours."""
    entry = describe(column)
    return our_metric(column, level) if entry is None else (entry.task, column)


def _metrics(
    paper: PublishedPaper,
    tables: Sequence[tuple[PublishedTable, bool]],
    figures: Sequence[str],
    claims: Sequence[Hypothesis],
) -> dict[str | None, list[str]]:
    """Task -> metrics that anything printed needs."""
    columns = [c for t, _ in tables for c in t.columns] + [m for f in figures for m in FIGURE_METRICS.get(f, ())]
    pairs = dict.fromkeys(_of_ours(c, paper.level) for c in [*columns, *(h.metric for h in claims)])
    return {task: [m for t, m in pairs if t == task] for task in TASKS}


_ByTask = Mapping[str | None, Mapping[str, Mapping[str, Estimate]]]


def _table(
    table: PublishedTable,
    paper: PublishedPaper,
    plan: Plan,
    dataset: str,
    selections: Mapping[str | None, Selection],
    known: _ByTask,
    missing: Mapping[str, str],
) -> SideTable:
    marked, lines = marked_cells(table), []

    def ours(row: str, column: str) -> Estimate | None:
        task, metric = our_metric(column, paper.level)
        return known[task].get(row, {}).get(metric) if dataset else None

    for row, values in table.rows.items():
        cells = {
            c: SideCell(values[c], (row, c) in marked, ours(row, c), _change(table, row, c, ours), c not in OTHER_QUANTITY)
            for c in table.columns
        }
        tasks = dict.fromkeys(our_metric(c, paper.level)[0] for c in table.columns) if dataset else {}
        found = [selections[t].rows[row] for t in tasks if row in selections[t].rows]
        runs = {r.record.run_id: r for o in found for r in o.runs}
        need = plan.needs.get(row, "no run of ours is planned")
        absent = need if isinstance(need, str) else missing.get(row, "")
        lines.append(
            SideLine(
                row,
                cells,
                tuple(runs),
                tuple(sorted({r.record.seed for r in runs.values()})),
                "" if found or not dataset else absent,
                tuple(dict.fromkeys(d for o in found for d in o.differs)),
            )
        )
    return SideTable(table, dataset, tuple(lines), violations(table))


def _change(table: PublishedTable, row: str, column: str, ours: Callable[[str, str], Estimate | None]) -> Change | None:
    if not table.reference or row == table.reference:
        return None
    here, there = table.rows[row][column], table.rows[table.reference][column]
    published = None if here is None or there is None else here - there
    left, right = ours(row, column), ours(table.reference, column)
    return _difference(published, left, right)


def _difference(published: float | None, left: Estimate | None, right: Estimate | None) -> Change:
    if left is None or right is None:
        return Change(published, None)
    found = contrast([left], [right])
    if found.problem:
        return Change(published, found.difference)
    return Change(published, found.difference, found.low, found.high, found.p)


def _figure(
    paper: PublishedPaper, number: str, plan: Plan, selections: Mapping[str | None, Selection], known: _ByTask
) -> SideFigure:
    figure = next(f for f in paper.figures if f.number == number)
    metrics = FIGURE_METRICS[number]
    rows = []
    for row in plan.figures[number]:
        values = {m: k for m in metrics if (k := known[_of_ours(m, paper.level)[0]].get(row, {}).get(m)) is not None}
        sids = selections[None].rows.get(row)
        notes: dict[str, float] = {}
        if sids is not None:
            records = [r.record for r in sids.runs]
            active = [r.sids.mean_active for r in records if r.sids is not None]
            notes |= {"mean codes in use": sum(active) / len(active)} if number == "3" else {}
            diagnostics = [r.tokenizer.diagnostics for r in records if r.tokenizer is not None]
            for q in (1, 2, 3, 4) if number == "4" else ():
                name = f"mean_weight_count_q{q}"
                found = [d[name] for d in diagnostics if name in d]
                notes |= {f"mean w, popularity quartile {q}": sum(found) / len(found)} if found else {}
        rows.append(FigureRow(row, values, notes))
    reference = plan.figures[number][0] if number == "5" else ""
    base = next((r for r in rows if r.row == reference), None)
    differences = (
        None
        if base is None or not base.values
        else {
            r.row: {m: _difference(None, k, base.values.get(m)) for m, k in r.values.items()} for r in rows if r is not base
        }
    )
    return SideFigure(number, figure.title, figure.reading, metrics, tuple(rows), reference, differences)


def _settings(selections: Mapping[str | None, Selection], wanted: Mapping[str, Wanted]) -> dict[str, str]:
    """What ours had, per task: caption of the records and their key."""
    found: dict[str, str] = {}
    for task in ("retrieval", "ranking"):
        selection = selections[task]
        runs = [r for ours in selection.rows.values() for r in ours.runs]
        if runs:
            words = caption(selection.key[:12], runs)
            found |= {h: t for h, t in words.items() if h in ("counts", "features")}
            found[task] = f"{words.get(task, '')}; key {selection.key[:12]}"
    sizes: dict[str, dict[str, None]] = {}
    efforts: dict[str, dict[str, None]] = {}
    for row, run in ((row, run) for s in selections.values() for row, ours in s.rows.items() for run in ours.runs):
        if run.record.sids is not None:
            size = f"{run.record.sids.code_length} codes of {max(run.record.sids.sizes)}"
            sizes.setdefault(size, {})[row] = None
        efforts.setdefault(effort_of(run.record), {})[row] = None
    for what, by_words in (("code length and codebook size", sizes), ("effort of tuning", efforts)):
        if by_words:
            found[what] = "; ".join(f"{w} ({', '.join(rows)})" for w, rows in by_words.items())
    return found


def _notes(selections: Mapping[str | None, Selection]) -> tuple[str, ...]:
    notes = []
    for task, selection in selections.items():
        others = {k: n for k, n in selection.others.items() if n}
        if others:
            listed = ", ".join(f"{k[:12]} ({n} rows)" for k, n in others.items())
            notes.append(
                f"{_TASK_NAMES[task]}: records of other comparability keys are not shown: {listed}; choose one with --key"
            )
    return tuple(notes)
