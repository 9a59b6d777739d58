"""Tables as markdown, CSV and JSON, and the list of all formats. Equal boards give equal bytes."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidbench.benchmark.metrics.declaration import NEITHER
from sidbench.datasets.foundation.errors import printable
from sidbench.leaderboards.board import columns as shown
from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.board.values import Cell, Column, Leaderboard, Row, Table
from sidbench.leaderboards.render.latex import latex
from sidbench.leaderboards.statistics.groups import BEST, SECOND

FIGURE_WORDS = {"bits": "the code bits of an item", "seconds": "the seconds to fit the tokenizer and encode"}
SIGNIFICANT = 8  # digits of numbers in CSV and JSON: sums of floats differ behind these between machines


def render(board: Leaderboard, form: str) -> str:
    """The leaderboard as text; ``form`` is one of ``FORMATS``."""
    return FORMATS[form](board)


def escaped(text: str) -> str:
    """Text for a cell or a line of markdown, in which markup and control characters of a stranger's record stay text."""
    return printable(text.replace("\n", " ")).replace("<", "&lt;").replace("|", "\\|")


def _code(text: str) -> str:
    """Text between backquotes."""
    return printable(text.replace("\n", " ")).replace("`", "'")


def cell_text(cell: Cell | None, column: Column) -> str:
    """A cell in markdown: mark, value, ± half-width, sd over seeds."""
    if cell is None:
        return "–"
    value = f"{cell.value:.{column.digits}f}"
    text = {BEST: f"**{value}**", SECOND: f"<u>{value}</u>"}.get(cell.mark, value) + shown.doubt_text(cell, column)
    return text + (f" (sd {cell.seed_sd:.{column.digits}f})" if cell.seed_sd is not None else "")


def _label(row: Row) -> str:
    return " · ".join([escaped(row.label), *(f"*{word}*" for word in shown.row_markers(row))])


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table in markdown, first column to the left, and an empty line."""
    return [
        "| " + " | ".join(heads) + " |",
        "|:--|" + "--:|" * (len(heads) - 1),
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
    ]


def _quality(table: Table) -> list[str]:
    tasks, sids = shown.split(table)
    columns = tasks or sids
    heads, lines = ["tokenizer", "L", "K"], [[_label(r), r.code_length or "–", r.codebook_size or "–"] for r in table.rows]
    for column in columns:
        heads.append(column.heading)
        for row, line in zip(table.rows, lines, strict=True):
            line.append(cell_text(row.cells.get(column.metric), column))
        if column in table.headlines:
            heads += [f"rank {column.heading}", f"Improv. {column.heading}"]
            for row, line in zip(table.rows, lines, strict=True):
                line += [shown.rank_text(row, column), shown.improvement_text(row, column)]
    for row, line in zip(table.rows, lines, strict=True):
        line.append(str(len(row.seeds) or "–"))
    return markdown_table([*heads, "seeds"], lines)


def _behind(table: Table) -> list[str]:
    """The second table: quantisation, costs, effort."""
    tasks, sids = shown.split(table)
    columns, costs = sids if tasks else (), shown.present_costs(table)
    heads = ["tokenizer", *(c.heading for c in columns), *(c.heading for c in costs), "all stages s", "device", "effort"]
    lines = [
        [
            _label(row),
            *(cell_text(row.cells.get(c.metric), c) for c in columns),
            *(shown.cost_text(row.costs, c) for c in costs),
            shown.seconds_text(row.seconds),
            escaped(", ".join(row.devices)),
            escaped(row.effort),
        ]
        for row in table.measured.rows
    ]
    return markdown_table(heads, lines)


def _provenance(run: StoredRun) -> str:
    record, where = run.record, run.record.environment
    commit = f"{where.git_commit[:12] or 'unknown'}{' (with local changes)' if where.git_dirty else ''}"
    return f"`{record.run_id}` seed {record.seed}, commit {commit}: `{_code(shlex.join(where.command_line))}`"


def markdown(board: Leaderboard, figures: Mapping[str, Sequence[str]] | None = None) -> str:
    """The leaderboard as markdown; ``figures``: key of a table -> paths of the plots to show under it."""
    lines = [f"# {escaped(board.title)}", "", shown.READING, ""]
    for table in board.tables:
        words = dict(table.caption)
        lines += [f"## {escaped(table.heading)}", ""]
        lines += [
            f"- {heading}: {escaped(text)}"
            for heading, text in words.items()
            if text and heading not in ("dataset", "budget")
        ]
        lines += ["", *_quality(table), "Quantisation and cost:" if shown.split(table)[0] else "Cost:", "", *_behind(table)]
        plots = (figures or {}).get(table.key, ())
        lines += [*(f"![{_picture(path, table)}]({path})" for path in plots), *([""] if plots else [])]
        notes = [
            *(f"{row.label} is stale: {reason}; run it again." for row in table.rows for reason in row.stale),
            *table.notes,
        ]
        if notes:
            lines += ["Notes:", "", *(f"- {escaped(n)}" for n in notes), ""]
        lines += ["<details><summary>Runs</summary>", ""]
        lines += [f"- {_provenance(run)}" for row in table.rows for run in row.runs]
        lines += ["", "</details>", ""]
    lines += _legend(board)
    if board.superseded:
        lines += [
            f"{len(board.superseded)} records were replaced by newer ones of the same row and seed, or of newer "
            f"code: {', '.join(f'`{r}`' for r in board.superseded)}.",
            "",
        ]
    if board.skipped:
        lines += [f"{len(board.skipped)} records could not be read and are in no table:", ""]
        lines += [f"- `{s.path.parent.name}/{s.path.name}`: {escaped(s.reason)}" for s in board.skipped] + [""]
    return "\n".join(lines)


def _picture(path: str, table: Table) -> str:
    """What a plot shows, for those who do not see it; its file is named by ``report.figures``."""
    _, over, task = Path(path).stem.split("-", 2)
    column = next((c.heading for c in table.headlines if c.task == task), task)
    return f"{column} ({task}) over {FIGURE_WORDS.get(over, over)}, one point a row"


def _legend(board: Leaderboard) -> list[str]:
    """What every column of the board is, folded."""
    same: dict[str, list[str]] = {}  # definition -> columns: cut-offs and modalities share one
    for column in dict.fromkeys(c for t in board.tables for c in t.columns):
        if column.definition:
            better = f"; {column.direction} is better" if column.direction != NEITHER else ""
            same.setdefault(column.definition + better, []).append(column.heading)
    if not same:
        return []
    costs = dict.fromkeys(c for t in board.tables for c in shown.present_costs(t))
    return [
        "<details><summary>Columns</summary>",
        "",
        "- L, K: codes of an item (in brackets the mean number in use), codes of a position",
        *(f"- {', '.join(headings)}: {escaped(words)}" for words, headings in same.items()),
        *(f"- {c.heading}: {c.meaning}" for c in costs),
        "- all stages s: computation of everything behind the row, median over seeds",
        "- effort: where the settings of the row come from",
        "",
        "</details>",
        "",
    ]


def rounded(value: Any) -> Any:
    """A float with ``SIGNIFICANT`` digits; anything else as it is."""
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value


_PARTS = ("value", "n", "low", "high", "interval", "half_width", "seed_sd", "mark")


def _csv(board: Leaderboard) -> str:
    metrics = list(dict.fromkeys(c.metric for t in board.tables for c in t.columns))
    headlines = list(dict.fromkeys(c.metric for t in board.tables for c in t.headlines))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [m if p == "value" else f"{m}_{p}" for m in metrics for p in _PARTS]
    writer.writerow(
        [
            "key",
            "dataset",
            "budget",
            "tokenizer",
            "kind",
            "settings",
            "code_length",
            "codebook_size",
            "seeds",
            "seconds",
            "devices",
            "runs",
            "effort",
            "stale",
            *(c.field for c in shown.COSTS),
            *(f"{m}_{p}" for m in headlines for p in ("rank", "improvement")),
            *heads,
        ]
    )
    for table in board.tables:
        for row in table.rows:
            values: list[Any] = [getattr(row.costs, c.field) for c in shown.COSTS]
            for metric in headlines:
                values += [row.ranks.get(metric), row.improvements.get(metric)]
            for metric in metrics:
                cell = row.cells.get(metric)
                values += [None if cell is None else getattr(cell, part) for part in _PARTS]
            writer.writerow(
                [
                    table.key,
                    table.caption["dataset"],
                    table.caption["budget"],
                    row.name,
                    row.kind,
                    row.settings,
                    row.code_length,
                    row.codebook_size,
                    " ".join(map(str, row.seeds)),
                    rounded(row.seconds),
                    " ".join(row.devices),
                    " ".join(r.record.run_id for r in row.runs),
                    row.effort,
                    "; ".join(row.stale),
                    *map(rounded, values),
                ]
            )
    return out.getvalue()


def _json_row(row: Row) -> dict[str, Any]:
    runs = [
        {
            "run_id": r.record.run_id,
            "seed": r.record.seed,
            "git_commit": r.record.environment.git_commit,
            "git_dirty": r.record.environment.git_dirty,
            "command_line": list(r.record.environment.command_line),
        }
        for r in row.runs
    ]
    return {
        "tokenizer": row.name,
        "kind": row.kind,
        "settings": row.settings,
        "code_length": row.code_length,
        "codebook_size": row.codebook_size,
        "seeds": list(row.seeds),
        "seconds": rounded(row.seconds),
        "devices": list(row.devices),
        "ranks": dict(row.ranks),
        "improvements": {m: rounded(v) for m, v in row.improvements.items()},
        "costs": {k: rounded(v) for k, v in vars(row.costs).items()},
        "effort": row.effort,
        "stale": list(row.stale),
        "metrics": {m: {k: rounded(v) for k, v in vars(c).items()} for m, c in row.cells.items()},
        "runs": runs,
    }


def _json(board: Leaderboard) -> str:
    tables = [
        {
            "key": t.key,
            "title": t.heading,
            "caption": dict(t.caption),
            "columns": [c.metric for c in t.columns],
            "headlines": [c.metric for c in t.headlines],
            "rows": [_json_row(r) for r in t.rows],
            "notes": list(t.notes),
        }
        for t in board.tables
    ]
    skipped = [{"path": f"{s.path.parent.name}/{s.path.name}", "reason": s.reason} for s in board.skipped]
    return (
        json.dumps(
            {"title": board.title, "tables": tables, "unreadable": skipped, "superseded": list(board.superseded)},
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


def _html(board: Leaderboard) -> str:
    from sidbench.leaderboards.report.page import html_page  # jinja2: only where a page is asked for

    return html_page(board)


FORMATS: dict[str, Callable[[Leaderboard], str]] = {
    "md": markdown,
    "html": _html,
    "latex": latex,
    "csv": _csv,
    "json": _json,
}
SUFFIXES = {"md": "md", "html": "html", "latex": "tex", "csv": "csv", "json": "json"}
