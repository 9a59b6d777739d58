"""How boards of format 1 print the tables of ``board.json`` in markdown, LaTeX and HTML: a pattern for every cell.

A number may stand as any rounding of a value that has the eight digits of ``board.json``; every other character is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidbench.leaderboards.frozen.cells import DIGITS
from sidbench.leaderboards.frozen.columns import COLUMNS, COSTS
from sidbench.leaderboards.frozen.costs import code_bits, costs, tokenizer_seconds
from sidbench.leaderboards.frozen.document import BOUND, TOKENIZER, Cell, Row, Table
from sidbench.leaderboards.frozen.records import Record

NONE = "–"
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "ˢ": r"$^{s}$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


class Grid(NamedTuple):
    """A table of a page: headings, and a pattern for every cell of every row."""

    heads: list[str]
    rows: list[list[str]]


def number(value: float, spec: str, scale: float = 1.0) -> str:
    """A pattern for a value of eight digits, times ``scale``, in a format of Python."""
    exact = (value * (1 - DIGITS), value, value * (1 + DIGITS))
    return "(?:" + "|".join(sorted({re.escape(format(v * scale, spec)) for v in exact})) + ")"


def escaped_markdown(text: str) -> str:
    """Text as it stands in markdown."""
    return text.replace("\n", " ").replace("<", "&lt;").replace("|", "\\|")


def escaped_latex(text: str) -> str:
    """Text as it stands in LaTeX."""
    return re.sub("|".join(map(re.escape, _TEX)), lambda found: _TEX[found[0]], text.replace("\n", " "))


def _marked(cell: Cell, digits: int, marks: tuple[tuple[str, str], tuple[str, str]]) -> str:
    value = number(cell.value, f".{digits}f")
    before, behind = marks[cell.mark - 1] if cell.mark else ("", "")
    return re.escape(before) + value + re.escape(behind)


def _markdown_cell(cell: Cell | None, digits: int) -> str:
    if cell is None:
        return NONE
    text = _marked(cell, digits, (("**", "**"), ("<u>", "</u>")))
    if cell.half_width is None:
        text += {"exact": " =", "unknown": " ±\\?"}.get(cell.interval, "")
    else:
        text += f" ±{'ˢ' if cell.interval == 'seeds' else ''}{number(cell.half_width, f'.{digits}f')}"
    return text + (f" \\(sd {number(cell.seed_sd, f'.{digits}f')}\\)" if cell.seed_sd is not None else "")


def _latex_cell(cell: Cell | None, digits: int) -> str:
    if cell is None:
        return "--"
    text = _marked(cell, digits, (("\\textbf{", "}"), ("\\underline{", "}")))
    if cell.half_width is None:
        return text
    over = "$^{s}$" if cell.interval == "seeds" else ""
    half = number(cell.half_width, f".{digits}f")
    return text + re.escape("{\\scriptsize\\,$\\pm$" + over) + half + re.escape("}")


def _improvement(row: Row, metric: str) -> str:
    value = row.improvements.get(metric)
    return NONE if value is None else number(value, "+.1%")


def _costs(table: Table) -> list[str]:
    return [name for name in COSTS if any(row.costs.get(name) is not None for row in table.rows)]


def _cost(row: Row, name: str) -> str:
    value = row.costs.get(name)
    return NONE if value is None else number(value, f",.{COSTS[name].digits}f", 1 / COSTS[name].unit)


def _split(table: Table) -> tuple[list[str], list[str]]:
    tasks = [m for m in table.columns if COLUMNS[m].task is not None]
    return tasks, [m for m in table.columns if COLUMNS[m].task is None]


def _grid(columns: Sequence[tuple[str, Callable[[Row], str]]], rows: Sequence[Row]) -> Grid:
    return Grid([head for head, _ in columns], [[pattern(row) for _, pattern in columns] for row in rows])


def markdown_grids(table: Table) -> list[Grid]:
    """The two tables of markdown: quality, and what stands behind it."""

    def label(row: Row) -> str:
        return re.escape(escaped_markdown(row.label) + ("" if row.kind == TOKENIZER else f" · *{row.kind}*"))

    def shown(metric: str) -> tuple[str, Callable[[Row], str]]:
        return COLUMNS[metric].heading, lambda row: _markdown_cell(row.metrics.get(metric), COLUMNS[metric].digits)

    tasks, sids = _split(table)
    first: list[tuple[str, Callable[[Row], str]]] = [
        ("tokenizer", label),
        ("L", lambda row: re.escape(row.code_length or NONE)),
        ("K", lambda row: re.escape(row.codebook_size or NONE)),
    ]
    for metric in tasks or sids:
        first.append(shown(metric))
        if metric in table.headlines:
            first += _standing(metric, f"rank {COLUMNS[metric].heading}", f"Improv. {COLUMNS[metric].heading}")
    first.append(("seeds", lambda row: str(len(row.seeds) or NONE)))
    behind: list[tuple[str, Callable[[Row], str]]] = [("tokenizer", label), *(shown(m) for m in (sids if tasks else ()))]
    behind += [(COSTS[name].heading, lambda row, name=name: _cost(row, name)) for name in _costs(table)]  # type: ignore[misc]
    behind += [
        ("all stages s", lambda row: NONE if row.seconds is None else _seconds(row.seconds)),
        ("device", lambda row: re.escape(escaped_markdown(", ".join(row.devices)))),
        ("effort", lambda row: re.escape(escaped_markdown(row.effort))),
    ]
    return [_grid(first, table.rows), _grid(behind, [row for row in table.rows if row.kind != BOUND])]


def _seconds(value: float) -> str:
    return number(value, ".1f" if value < 10 else ",.0f")


def _standing(metric: str, rank: str, improvement: str) -> list[tuple[str, Callable[[Row], str]]]:
    return [(rank, lambda row: str(row.ranks.get(metric, NONE))), (improvement, lambda row: _improvement(row, metric))]


def latex_grid(table: Table) -> Grid:
    """The table of LaTeX."""

    def label(row: Row) -> str:
        kind = "" if row.kind == TOKENIZER else f" \\textit{{({row.kind})}}"
        return re.escape(escaped_latex(row.label) + kind)

    def tex(pattern: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: pattern(row).replace(NONE, "--").replace("%", "\\\\%")

    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("Tokenizer", label),
        ("$L$", lambda row: re.escape(escaped_latex(row.code_length or NONE))),
        ("$K$", lambda row: re.escape(escaped_latex(row.codebook_size or NONE))),
    ]
    for metric in table.columns:
        heading, digits = COLUMNS[metric].heading, COLUMNS[metric].digits
        columns.append((heading, lambda row, m=metric, d=digits: _latex_cell(row.metrics.get(m), d)))  # type: ignore[misc]
        if metric in table.headlines:
            columns += [(head, tex(pattern)) for head, pattern in _standing(metric, "rank", "Improv.")]
    columns += [(COSTS[name].heading, tex(lambda row, name=name: _cost(row, name))) for name in _costs(table)]  # type: ignore[misc]
    return _grid(columns, table.rows)


# -- the HTML page -----------------------------------------------------------------------------------------------------
def html_grid(table: Table, groups: Sequence[Sequence[Record]]) -> Grid:
    """The table of HTML: each cell as ``sort|text|doubt|mark|tip``. groups: the records of every row."""
    records = {row.label: list(group) for row, group in zip(table.rows, groups, strict=True)}
    spent = {label: costs(group) for label, group in records.items()}  # with all digits, as those of the table are scaled
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("row", lambda row: re.escape(" ".join(filter(None, [row.tokenizer, row.settings, _kind(row)])))),
        ("L", lambda row: _first_number(row.code_length)),
        ("K", lambda row: _first_number(row.codebook_size)),
        ("seeds", lambda row: _plain(float(len(row.seeds)) if row.seeds else None, ",.0f")),
        ("effort", lambda row: _html(re.escape(row.effort or NONE))),
    ]
    groups_of = {"retrieval": [], "ranking": [], None: []}  # type: dict[str | None, list[tuple[str, Callable[[Row], str]]]]
    groups_of[None].append(("bits", lambda row: _plain(code_bits(records[row.label][0]) if row.runs else None, ",.1f")))
    for metric in table.columns:
        heading, task, digits, unit = COLUMNS[metric]
        own = groups_of[task]
        shown = lambda row, m=metric, d=digits: _html_cell(row.metrics.get(m), d)  # noqa: E731
        if metric in table.headlines:
            own.append(("rank", lambda row, m=metric: _plain(row.ranks.get(m), ",.0f")))  # type: ignore[misc]
        own.append((f"{heading} {unit}".rstrip(), shown))
        if metric in table.headlines:
            own.append(("improv. %", lambda row, m=metric: _plain(row.improvements.get(m), "+.1f", 100)))  # type: ignore[misc]
    columns += [*groups_of["retrieval"], *groups_of["ranking"], *groups_of[None]]
    paid: list[tuple[str, Callable[[Row], float | None]]] = [
        ("tokenizer s", lambda row: tokenizer_seconds(records[row.label]) if row.runs else None),
        ("encode items/s", lambda row: spent[row.label]["encode_items_per_second"]),
        ("retriever fit s", lambda row: spent[row.label]["retrieval_fit_seconds"]),
        ("inference ms/user", lambda row: spent[row.label]["ms_per_user"]),
        ("ranker fit s", lambda row: spent[row.label]["ranking_fit_seconds"]),
        ("parameters million", lambda row: _times(spent[row.label]["tokenizer_parameters"], 1e-6)),
        ("peak memory MiB", lambda row: _times(spent[row.label]["peak_memory_bytes"], 2.0**-20)),
        ("all stages s", lambda row: row.seconds),
    ]
    columns += [(head, lambda row, get=get: _amount(get(row))) for head, get in paid]  # type: ignore[misc]
    columns.append(("device", lambda row: _html(re.escape(", ".join(row.devices)))))
    kept = [(head, show) for head, show in columns if head == "row" or not all(map(_is_absent, map(show, table.rows)))]
    return _grid(kept, table.rows)


def numbers_list(table: Table, row: Row) -> list[str]:
    """Patterns of the line of each metric under a row of the HTML page."""
    lines = []
    for metric in table.columns:
        cell = row.metrics.get(metric)
        if cell is not None:
            heading, digits = COLUMNS[metric].heading, COLUMNS[metric].digits
            ends = "" if cell.low is None else f" \\({_ends(cell, digits)}\\)"
            lines.append(f"{re.escape(heading)} {number(cell.value, f'.{digits}f')}{ends}: {_tip(cell, digits)}")
    return lines


def _kind(row: Row) -> str:
    return "" if row.kind == TOKENIZER else row.kind


def _times(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _is_absent(pattern: str) -> bool:
    return pattern.split("\\|")[1:2] in ([NONE], [""])


def _html(text: str, sort: str = "", doubt: str = "", mark: str = "", tip: str = "") -> str:
    return "\\|".join([sort or text, text, doubt, mark, tip])


def _plain(value: float | None, spec: str, scale: float = 1.0) -> str:
    return _html(NONE) if value is None else _html(number(value, spec, scale), number(value, ".8g"))


def _amount(value: float | None) -> str:
    return _html(NONE) if value is None else _plain(value, ",.0f" if abs(value) >= 100 else ".3g")


def _first_number(text: str) -> str:
    digits = re.findall(r"\d+", text)
    return _html(re.escape(text or NONE), digits[0] if digits else "")


def _ends(cell: Cell, digits: int) -> str:
    return f"{number(cell.low or 0.0, f'.{digits}f')}–{number(cell.high or 0.0, f'.{digits}f')}"


def _tip(cell: Cell, digits: int) -> str:
    words = {
        "users": "95 % interval over users",
        "seeds": "95 % interval over seeds",
        "exact": "exact for this SID table",
        "expected": "expectation of a model that knows the planted law",
    }.get(cell.interval, "no interval can be given")
    spread = "" if cell.seed_sd is None else f", sd over seeds {number(cell.seed_sd, f'.{digits}f')}"
    return f"{re.escape(words)}, n = {cell.n:,}{spread}"


def _html_cell(cell: Cell | None, digits: int) -> str:
    if cell is None:
        return _html(NONE, tip="undefined")
    doubt = "exact" if cell.interval == "exact" else "" if cell.low is None else _ends(cell, digits)
    mark = ("", "best", "second")[cell.mark]
    return _html(number(cell.value, f".{digits}f"), number(cell.value, ".8g"), doubt, mark, _tip(cell, digits))
