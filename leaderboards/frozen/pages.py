"""Whether the pages of a frozen board print what ``board.json`` states: CSV, markdown, LaTeX and HTML.

Judged are titles, captions, notes, every cell and every run. Explanations, plots and the embedded explorer are not: their
files are held by the manifest alone.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import zip_longest
from typing import Any

from sidbench.leaderboards.frozen.columns import COSTS
from sidbench.leaderboards.frozen.document import Board, Row, Table
from sidbench.leaderboards.frozen.printed import (
    Grid,
    escaped_latex,
    escaped_markdown,
    html_grid,
    latex_grid,
    markdown_grids,
    numbers_list,
)
from sidbench.leaderboards.frozen.records import Record

_MARKS = ("", "best", "second")
_PARTS = ("value", "n", "low", "high", "interval", "half_width", "seed_sd", "mark")


def csv_problems(text: str, board: Board, records: Mapping[str, Record]) -> list[str]:
    """Where ``board.csv`` departs from ``board.json``."""
    metrics = list(dict.fromkeys(m for t in board.tables for m in t.columns))
    headlines = list(dict.fromkeys(m for t in board.tables for m in t.headlines))
    expected = [(table, row, _csv_row(table, row, metrics, headlines)) for table in board.tables for row in table.rows]
    rows = list(csv.reader(io.StringIO(text)))
    heads, lines = rows[0] if rows else [], rows[1:]
    if expected and heads != list(expected[0][2]):
        return [f"its columns are {', '.join(heads)[:80]}, wanted {', '.join(expected[0][2])[:80]}"]
    problems = [] if len(lines) == len(expected) else [f"it has {len(lines)} rows, the tables {len(expected)}"]
    for line, (_, row, values) in zip(lines, expected, strict=False):
        if len(line) != len(values):
            problems.append(f"the row {row.label} has {len(line)} columns, wanted {len(values)}")
        problems += [
            f"{name} of {row.label} is {own!r}, the tables give {given!r}"
            for (name, given), own in zip(values.items(), line, strict=False)
            if own != given
        ]
    return problems


def _csv_row(table: Table, row: Row, metrics: Sequence[str], headlines: Sequence[str]) -> dict[str, str]:
    values: dict[str, Any] = {
        "key": table.key,
        "dataset": table.caption["dataset"],
        "budget": table.caption["budget"],
        "tokenizer": row.tokenizer,
        "kind": row.kind,
        "settings": row.settings,
        "code_length": row.code_length,
        "codebook_size": row.codebook_size,
        "seeds": " ".join(map(str, row.seeds)),
        "seconds": row.seconds,
        "devices": " ".join(row.devices),
        "runs": " ".join(run.run_id for run in row.runs),
        "effort": row.effort,
        "stale": "; ".join(row.stale),
        **{name: row.costs[name] for name in COSTS},
    }
    for metric in headlines:
        values |= {f"{metric}_rank": row.ranks.get(metric), f"{metric}_improvement": row.improvements.get(metric)}
    for metric in metrics:
        cell = row.metrics.get(metric)
        for part in _PARTS:
            value = None if cell is None else _MARKS[cell.mark] if part == "mark" else getattr(cell, part)
            values[metric if part == "value" else f"{metric}_{part}"] = value
    return {name: "" if value is None else str(value) for name, value in values.items()}


def markdown_problems(text: str, board: Board, records: Mapping[str, Record]) -> list[str]:
    """Where ``board.md`` departs from ``board.json``."""
    blocks: list[list[list[str]]] = []
    lines = text.split("\n")
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("| "):
            if not before.startswith("|"):
                blocks.append([])
            blocks[-1].append(re.split(r"(?<!\\) \| ", line[2:].removesuffix(" |")))
    wanted = [grid for table in board.tables for grid in markdown_grids(table)]
    problems = _grid_problems([(b[0], b[1:]) for b in blocks], wanted)
    words = [f"# {escaped_markdown(board.title)}"]
    for table in board.tables:
        words.append(f"## {escaped_markdown(table.title)}")
        words += [f"- {h}: {escaped_markdown(w)}" for h, w in table.caption.items() if w and h not in ("dataset", "budget")]
        words += [f"- {escaped_markdown(note)}" for note in table.notes]
        for run in (run for row in table.rows for run in row.runs):
            commit = f"{run.git_commit[:12]}{' (with local changes)' if run.git_dirty else ''}"
            command = shlex.join(run.command_line).replace("\n", " ").replace("`", "'")
            words.append(f"- `{run.run_id}` seed {run.seed}, commit {commit}: `{command}`")
    return problems + _missing(words, lines)


def latex_problems(text: str, board: Board, records: Mapping[str, Record]) -> list[str]:
    """Where ``board.tex`` departs from ``board.json``."""
    bodies = re.findall(r"\\toprule\n(.*?)\n\\midrule\n(.*?)\n?\\bottomrule", text, re.DOTALL)
    grids = []
    for head, body in bodies:
        heads, *rows = [
            re.split(r"(?<!\\) & ", line.removesuffix(" \\\\")) for line in [head, *body.split("\n")] if line.strip()
        ]
        grids.append((heads, rows))
    problems = _grid_problems(grids, [latex_grid(table) for table in board.tables])
    words = []
    for table in board.tables:
        rest = "; ".join(f"{h}: {w}" for h, w in table.caption.items() if w and h not in ("dataset", "budget", "key"))
        runs = sum(len(row.runs) for row in table.rows)
        words += [
            f"\\caption{{{escaped_latex(f'{table.title}. {rest}')}.",
            f"{runs} runs, key \\texttt{{{table.key[:12]}}}.",
        ]
        words += [f"% {escaped_latex(note)}" for note in table.notes]
    return problems + [f"it does not say `{word[:80]}`" for word in words if word not in text]


def html_problems(text: str, board: Board, records: Mapping[str, Record]) -> list[str]:
    """Where the tables of ``board.html`` depart from ``board.json`` and its records."""
    page = _Page()
    page.feed(text)
    page.close()
    groups = [[[records[run.run_id] for run in row.runs] for row in table.rows] for table in board.tables]
    wanted = [html_grid(table, own) for table, own in zip(board.tables, groups, strict=True)]
    problems = _grid_problems(page.grids, wanted)
    words = [board.title]
    for table in board.tables:
        words += [table.title, *(w for h, w in table.caption.items() if w and h not in ("dataset", "budget")), *table.notes]
        for row in table.rows:
            words += [run.run_id for run in row.runs] + [shlex.join(run.command_line) for run in row.runs]
    problems += _missing(words, page.texts)
    lists = [numbers_list(table, row) for table in board.tables for row in table.rows]
    if len(lists) != len(page.numbers):
        problems.append(f"it lists the numbers of {len(page.numbers)} rows, the tables have {len(lists)}")
    for wanted_lines, lines in zip(lists, page.numbers, strict=False):
        if len(wanted_lines) != len(lines) or not all(map(re.fullmatch, wanted_lines, lines)):
            problems.append(f"the numbers listed under a row are not those of the tables: {'; '.join(lines)[:80]}")
    for table in board.tables:
        for row in table.rows:
            for run in row.runs:
                record = records[run.run_id]
                told = f"seed {run.seed} · commit {run.git_commit[:12]}"
                if not any(t.startswith(told) and record.created in t for t in page.texts):
                    problems.append(f"seed, commit or date of {run.run_id} are not said")
    return problems


PAGES: Mapping[str, Callable[[str, Board, Mapping[str, Record]], list[str]]] = {
    "board.csv": csv_problems,
    "board.md": markdown_problems,
    "board.tex": latex_problems,
    "board.html": html_problems,
}


def _grid_problems(found: Sequence[tuple[list[str], list[list[str]]]], wanted: Sequence[Grid]) -> list[str]:
    if len(found) != len(wanted):
        return [f"it has {len(found)} tables, wanted {len(wanted)}"]
    return [told for (heads, rows), grid in zip(found, wanted, strict=True) for told in _one_grid(heads, rows, grid)]


def _one_grid(heads: list[str], rows: list[list[str]], grid: Grid) -> Iterator[str]:
    if heads != grid.heads:
        yield f"the headings are {', '.join(heads)[:80]}, wanted {', '.join(grid.heads)[:80]}"
        return
    rows = [row for row in rows if not re.fullmatch(r":?-+:?(\|-+:?)*\|?", "".join(row))]
    if len(rows) != len(grid.rows):
        yield f"a table has {len(rows)} rows, wanted {len(grid.rows)}"
    for row, patterns in zip(rows, grid.rows, strict=False):
        for head, cell, pattern in zip_longest(heads, row, patterns, fillvalue=""):
            if re.fullmatch(pattern, cell) is None:
                yield f"{head} of {row[0]} is `{cell}`, which is not what the tables state"


def _missing(words: Sequence[str], lines: Sequence[str]) -> list[str]:
    there = set(lines)
    return [f"it does not say `{word[:80]}`" for word in words if word not in there]


class _Page(HTMLParser):
    """The tables of a page with their cells as ``sort|text|doubt|mark|tip``, the lists of numbers, and all its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: list[tuple[list[str], list[list[str]]]] = []
        self.numbers: list[list[str]] = []
        self.texts: list[str] = []
        self._stack: list[tuple[str, dict[str, str]]] = []
        self._pieces: list[str] = []
        self._cell: dict[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attrs}
        self._flush()
        if tag in ("meta", "link", "input", "br"):
            return
        self._stack.append((tag, own))
        if tag == "table":
            self.grids.append(([], []))
        elif tag == "tr" and self.grids and self._inside("tbody") and own.get("class") != "more":
            self.grids[-1][1].append([])
        elif tag in ("td", "th") and self._inside("table") and not self._inside_class("more"):
            self._cell = {"sort": own.get("data-sort", ""), "tip": own.get("title", "")}

    def handle_data(self, data: str) -> None:
        self._pieces.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._flush()
        while self._stack:
            name, own = self._stack.pop()
            if name == tag:
                break
        else:
            return
        if tag in ("td", "th") and self._cell is not None and self.grids:
            self._end_cell(tag, own)

    def _flush(self) -> None:
        text = " ".join("".join(self._pieces).split())
        self._pieces = []
        if not text:
            return
        if not any(tag in ("script", "style", "svg") for tag, _ in self._stack):
            self.texts.append(text)
        tag, own = self._stack[-1] if self._stack else ("", {})
        if tag == "summary" and text == "Numbers":
            self.numbers.append([])
        elif tag == "li" and self._inside_class("more") and self.numbers and self._in_numbers():
            self.numbers[-1].append(text)
        if self._cell is not None:
            part = own.get("class", "").split()
            kind = part[0] if tag == "span" and part else "text"
            self._cell["mark"] = part[1] if kind == "value" and len(part) > 1 else self._cell.get("mark", "")
            place = "doubt" if kind == "doubt" else "text"
            self._cell[place] = " ".join(filter(None, [self._cell.get(place, ""), text]))

    def _end_cell(self, tag: str, own: dict[str, str]) -> None:
        cell, self._cell = self._cell or {}, None
        heads, rows = self.grids[-1]
        if tag == "th" and own.get("scope") == "col":
            heads.append(cell.get("text", ""))
        elif tag == "th":
            rows[-1].append(cell.get("text", ""))
        elif rows:
            rows[-1].append("|".join(cell.get(part, "") for part in ("sort", "text", "doubt", "mark", "tip")))

    def _inside(self, tag: str) -> bool:
        return any(name == tag for name, _ in self._stack)

    def _inside_class(self, name: str) -> bool:
        return any(own.get("class") == name for _, own in self._stack)

    def _in_numbers(self) -> bool:
        return self._inside("details")
