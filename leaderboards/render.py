"""Tables as markdown, CSV and JSON. Best is bold, second underlined; rows that noise cannot separate share a mark."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from typing import Any

from sidbench.leaderboards.noise import BEST, SECOND
from sidbench.leaderboards.store import StoredRun
from sidbench.leaderboards.table import TOKENIZER, Cell, Column, Leaderboard, Row, Table

_READING = (
    "**Bold**: the best row of a column and every row that cannot be told from it (paired bootstrap over users, "
    "Holm-adjusted over the rows, 95 %). <u>Underlined</u>: the best row that can be told from it. ± half-width of the "
    "95 % interval over users; sd over seeds. Columns without ± are exact for the exported codes; with one seed their "
    "spread over seeds is unknown. R, N: item-level Recall and NDCG, ties in random order. inflation: SID-level over "
    "item-level R@10. Lower is better for inflation, collision rate and probe."
)


def render(board: Leaderboard, form: str) -> str:
    """The leaderboard as text; ``form`` is one of ``FORMATS``."""
    return FORMATS[form](board)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def cell_text(cell: Cell | None, column: Column) -> str:
    """A cell in markdown: mark, value, ± half-width, sd over seeds."""
    if cell is None:
        return "–"
    value = f"{cell.value:.{column.digits}f}"
    text = {BEST: f"**{value}**", SECOND: f"<u>{value}</u>"}.get(cell.mark, value)
    if cell.half_width is not None:
        text += f" ±{cell.half_width:.{column.digits}f}"
    return text + (f" (sd {cell.seed_sd:.{column.digits}f})" if cell.seed_sd is not None else "")


def _label(row: Row) -> str:
    label = _escaped(row.name + (f" ({row.settings})" if row.settings else ""))
    return label if row.kind == TOKENIZER else f"{label} · *{row.kind}*"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _markdown_table(table: Table) -> list[str]:
    heads = ["tokenizer", "L", "K", *(c.heading for c in table.columns), "seconds", "device", "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|:--|" + "--:|" * (len(heads) - 1)]
    for row in table.rows:
        cells = [_label(row), row.code_length or "–", row.codebook_size or "–",
                 *(cell_text(row.cells.get(c.metric), c) for c in table.columns),
                 _seconds(row.seconds), _escaped(", ".join(row.devices)), str(len(row.seeds))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _provenance(run: StoredRun) -> str:
    record, where = run.record, run.record.environment
    commit = f"{where.git_commit[:12] or 'unknown'}{' (with local changes)' if where.git_dirty else ''}"
    return f"`{record.run_id}` seed {record.seed}, commit {commit}: `{shlex.join(where.command_line)}`"


def _markdown(board: Leaderboard) -> str:
    lines = ["# Leaderboard", "", _READING, ""]
    for table in board.tables:
        words = dict(table.caption)
        lines += [f"## {words.pop('dataset')}, budget {words.pop('budget')}", ""]
        lines += [f"- {heading}: {_escaped(text)}" for heading, text in words.items() if text]
        lines += ["", *_markdown_table(table), ""]
        if table.notes:
            lines += ["Notes:", "", *(f"- {_escaped(n)}" for n in table.notes), ""]
        lines += ["<details><summary>Runs</summary>", ""]
        lines += [f"- {_provenance(run)}" for row in table.rows for run in row.runs]
        lines += ["", "</details>", ""]
    if board.superseded:
        lines += [f"{len(board.superseded)} records were replaced by newer ones of the same row and seed, or of newer "
                  f"code: {', '.join(f'`{r}`' for r in board.superseded)}.", ""]
    if board.skipped:
        lines += [f"{len(board.skipped)} records could not be read and are in no table:", ""]
        lines += [f"- `{s.path.parent.name}/{s.path.name}`: {_escaped(s.reason)}" for s in board.skipped] + [""]
    return "\n".join(lines)


def _csv(board: Leaderboard) -> str:
    metrics = list(dict.fromkeys(c.metric for t in board.tables for c in t.columns))
    parts = ("value", "n", "half_width", "seed_sd", "mark")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [m if p == "value" else f"{m}_{p}" for m in metrics for p in parts]
    writer.writerow(["key", "dataset", "budget", "tokenizer", "kind", "settings", "code_length", "codebook_size",
                     "seeds", "seconds", "devices", "runs", *heads])
    for table in board.tables:
        for row in table.rows:
            values: list[Any] = []
            for metric in metrics:
                cell = row.cells.get(metric)
                values += [None if cell is None else getattr(cell, part) for part in parts]
            writer.writerow([table.key, table.caption["dataset"], table.caption["budget"], row.name, row.kind,
                             row.settings, row.code_length, row.codebook_size, " ".join(map(str, row.seeds)),
                             row.seconds, " ".join(row.devices), " ".join(r.record.run_id for r in row.runs), *values])
    return out.getvalue()


def _json_row(row: Row) -> dict[str, Any]:
    runs = [{"run_id": r.record.run_id, "seed": r.record.seed, "git_commit": r.record.environment.git_commit,
             "git_dirty": r.record.environment.git_dirty, "command_line": list(r.record.environment.command_line)}
            for r in row.runs]
    return {"tokenizer": row.name, "kind": row.kind, "settings": row.settings, "code_length": row.code_length,
            "codebook_size": row.codebook_size, "seeds": list(row.seeds), "seconds": row.seconds,
            "devices": list(row.devices), "metrics": {m: vars(c) for m, c in row.cells.items()}, "runs": runs}


def _json(board: Leaderboard) -> str:
    tables = [{"key": t.key, "caption": dict(t.caption), "columns": [c.metric for c in t.columns],
               "rows": [_json_row(r) for r in t.rows], "notes": list(t.notes)} for t in board.tables]
    skipped = [{"path": str(s.path), "reason": s.reason} for s in board.skipped]
    return json.dumps({"tables": tables, "unreadable": skipped, "superseded": list(board.superseded)}, indent=2,
                      ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Leaderboard], str]] = {"md": _markdown, "csv": _csv, "json": _json}
