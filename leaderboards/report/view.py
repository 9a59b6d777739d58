"""What the page's tables show, as plain words and numbers: the template only lays them out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from sidbench.benchmark.metrics.declaration import HIGHER, LOWER
from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.board.values import EXACT, EXPECTED, OVER_SEEDS, OVER_USERS, TOKENIZER, Cell, Column, Row, Table
from sidbench.leaderboards.report.points import code_bits, tokenizer_seconds

GROUPS = {"retrieval": "retrieval", "ranking": "ranking", "sids": "semantic IDs", "cost": "cost"}
_ORDER = ("", *GROUPS)


@dataclass(frozen=True)
class Head:
    """A column of the page: heading with unit, its group (a key of ``GROUPS`` or ""), a tip, and which way is better
    ("higher", "lower" or "")."""

    heading: str
    group: str
    tip: str = ""
    better: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Shown:
    """A cell of the page: what to read, what to sort by ("" stands last), its doubt and its mark ("best", "second")."""

    text: str
    sort: str = ""
    doubt: str = ""
    mark: str = ""
    tip: str = ""


@dataclass(frozen=True)
class RunLine:
    """Where one seed of a row comes from."""

    run_id: str
    seed: int
    commit: str
    command: str
    created: str
    device: str


@dataclass(frozen=True)
class RowView:
    """A row of the page. ``words``: what the name filter searches. numbers: each metric with all that is known of it, for
    readers without a pointer."""

    name: str
    settings: str
    kind: str
    badges: tuple[str, ...]
    stale: tuple[str, ...]
    effort: str
    deviations: tuple[str, ...]
    cells: tuple[Shown, ...]
    runs: tuple[RunLine, ...]
    numbers: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Lower-case text the name filter searches."""
        return f"{self.name} {self.settings} {self.kind}".lower()


@dataclass(frozen=True)
class TableView:
    """One table with heads over the columns behind the name."""

    place: int
    title: str
    caption: tuple[tuple[str, str], ...]
    heads: tuple[Head, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]

    def starts_group(self, column: int) -> bool:
        """Whether a column is the first of its group."""
        group = self.heads[column].group
        return bool(group) and (column == 0 or self.heads[column - 1].group != group)


_Getter = Callable[[Row], Shown]


def table_view(table: Table, place: int) -> TableView:
    """Everything the template needs of one table."""
    columns = [*_first_columns(), *[p for c in table.columns for p in _metric_columns(table, c)], *_cost_columns(table)]
    kept = [(head, get) for head, get in columns if any(get(row).text not in ("", "–") for row in table.rows)]
    kept.sort(key=lambda column: _ORDER.index(column[0].group))
    words = {k: v for k, v in table.caption.items() if v and k not in ("dataset", "budget")}
    rows = tuple(_row(row, [get for _, get in kept], table.columns) for row in table.rows)
    return TableView(place, table.heading, tuple(words.items()), tuple(h for h, _ in kept), rows, table.notes)


def _row(row: Row, getters: list[_Getter], columns: tuple[Column, ...]) -> RowView:
    badges = (*((row.kind,) if row.kind != TOKENIZER else ()), *(("stale",) if row.stale else ()))
    return RowView(
        row.name,
        row.settings,
        row.kind,
        badges,
        row.stale,
        row.effort,
        _deviations(row),
        tuple(get(row) for get in getters),
        tuple(_run(run) for run in row.runs),
        tuple(_number(column, row.cells[column.metric]) for column in columns if column.metric in row.cells),
    )


def _number(column: Column, cell: Cell) -> str:
    shown = metric_cell(cell, column.digits)
    ends = f" ({shown.doubt})" if cell.low is not None else ""
    return f"{column.heading} {shown.text}{ends}: {shown.tip}"


def _deviations(row: Row) -> tuple[str, ...]:
    tokenizer = row.runs[0].record.tokenizer if row.runs else None
    return () if tokenizer is None else tokenizer.deviations


def _run(run: StoredRun) -> RunLine:
    record, where = run.record, run.record.environment
    commit = f"{where.git_commit[:12] or 'unknown'}{' with local changes' if where.git_dirty else ''}"
    return RunLine(
        record.run_id,
        record.seed,
        commit,
        shlex.join(where.command_line),
        record.created,
        f"{where.device}, {where.threads} threads",
    )


# -- columns -----------------------------------------------------------------------------------------------------------
def _first_columns() -> list[tuple[Head, _Getter]]:
    return [
        (Head("L", "", "positions of a SID; in brackets the mean number in use"), lambda r: _leading(r.code_length)),
        (Head("K", "", "codes of a position"), lambda r: _leading(r.codebook_size)),
        (
            Head("bits", "sids", "code bits an item has on average: Σ log₂ K over positions in use"),
            lambda r: _plain(code_bits(r), 1),
        ),
    ]


def _metric_columns(table: Table, column: Column) -> list[tuple[Head, _Getter]]:
    group = column.task or "sids"
    better = column.direction if column.direction in (HIGHER, LOWER) else ""
    head = Head(column.heading, group, column.definition, better, column.unit)
    found: list[tuple[Head, _Getter]] = [(head, lambda r: metric_cell(r.cells.get(column.metric), column.digits))]
    if column in table.headlines:
        rank = Head(
            "rank",
            group,
            f"1 + the number of rows that are significantly better in {column.heading}; rows that "
            "noise cannot separate share a rank",
            LOWER,
        )
        better_than = Head("improv.", group, f"{column.heading} over that of the best other tokenizer row", HIGHER, "%")
        found = [
            (rank, lambda r: _rank(r.ranks.get(column.metric))),
            *found,
            (better_than, lambda r: _improvement(r.improvements.get(column.metric))),
        ]
    return found


def _cost_columns(table: Table) -> list[tuple[Head, _Getter]]:
    warning = "never ranked across devices" if len({d for r in table.rows for d in r.devices}) > 1 else "median over seeds"
    parts = (
        ("tokenizer", "s", 1.0, tokenizer_seconds, "fit and encode, " + warning),
        ("encode", "items/s", 1.0, lambda r: r.costs.encode_items_per_second, "items encoded a second"),
        ("retriever fit", "s", 1.0, lambda r: r.costs.retrieval_fit_seconds, "training of the retriever"),
        ("inference", "ms/user", 1.0, lambda r: r.costs.ms_per_user, "retrieval of one user's list"),
        ("ranker fit", "s", 1.0, lambda r: r.costs.ranking_fit_seconds, "training of the ranker"),
        ("parameters", "million", 1e-6, lambda r: r.costs.tokenizer_parameters, "trained numbers of the tokenizer"),
        ("peak memory", "MiB", 2.0**-20, lambda r: r.costs.peak_memory_bytes, "largest resident size of the process"),
        ("all stages", "s", 1.0, lambda r: r.seconds, "computation of all stages, " + warning),
    )
    found: list[tuple[Head, _Getter]] = [
        (Head(h, "cost", tip, "", unit), _scaled(get, scale)) for h, unit, scale, get, tip in parts
    ]
    return [
        *found,
        (Head("device", "cost", "where the row was computed"), lambda r: Shown(", ".join(r.devices))),
        (Head("seeds", "", "runs averaged"), lambda r: _plain(float(len(r.seeds)) if r.seeds else None, 0)),
        (Head("effort", "", "where the settings come from, and the trials of tuning"), lambda r: Shown(r.effort or "–")),
    ]


def _scaled(get: Callable[[Row], float | None], scale: float) -> _Getter:
    def shown(row: Row) -> Shown:
        value = get(row)
        return _amount(None if value is None else value * scale)

    return shown


# -- cells -------------------------------------------------------------------------------------------------------------
def metric_cell(cell: Cell | None, digits: int) -> Shown:
    """A measured number with its interval, as ``value`` over ``low – high``."""
    if cell is None or not math.isfinite(cell.value):
        return Shown("–", tip="undefined")
    doubt = "" if cell.low is None or cell.high is None else f"{cell.low:.{digits}f}–{cell.high:.{digits}f}"
    says = {
        OVER_USERS: "95 % interval over users",
        OVER_SEEDS: "95 % interval over seeds",
        EXACT: "exact for this SID table",
        EXPECTED: "expectation of a model that knows the planted law",
    }
    words = says.get(cell.interval, "no interval can be given")
    if cell.interval == EXACT:
        doubt = "exact"
    spread = "" if cell.seed_sd is None else f", sd over seeds {cell.seed_sd:.{digits}f}"
    return Shown(f"{cell.value:.{digits}f}", _sortable(cell.value), doubt, cell.mark, f"{words}, n = {cell.n:,}{spread}")


def _plain(value: float | None, digits: int) -> Shown:
    return Shown("–") if value is None else Shown(f"{value:,.{digits}f}", _sortable(value))


def _amount(value: float | None) -> Shown:
    """A cost, with three digits or as a whole number."""
    if value is None or not math.isfinite(value):
        return Shown("–")
    return Shown(f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}", _sortable(value))


def _leading(text: str) -> Shown:
    digits = "".join(ch if ch.isdigit() else " " for ch in text).split()
    return Shown(text or "–", digits[0] if digits else "")


def _rank(rank: int | None) -> Shown:
    return Shown("–") if rank is None else Shown(str(rank), str(rank))


def _improvement(share: float | None) -> Shown:
    return Shown("–") if share is None or not math.isfinite(share) else Shown(f"{100 * share:+.1f}", _sortable(share))


def _sortable(value: float) -> str:
    """Eight digits: what differs behind them between machines must not change the page."""
    return f"{value:.8g}"
