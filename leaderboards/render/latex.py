"""Tables for papers: one ``table*`` a comparability key, ruled by booktabs, sized by adjustbox."""

from __future__ import annotations

import re

from sidbench.leaderboards.board import columns as shown
from sidbench.leaderboards.board.values import Cell, Column, Leaderboard, Row, Table
from sidbench.leaderboards.statistics.groups import BEST, SECOND

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "ˢ": r"$^{s}$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda found: _SPECIAL[found[0]], text.replace("\n", " "))


def cell_latex(cell: Cell | None, column: Column) -> str:
    """A cell: mark, value, half-width in small type; seeds as superscript."""
    if cell is None:
        return "--"
    value = f"{cell.value:.{column.digits}f}"
    text = {BEST: f"\\textbf{{{value}}}", SECOND: f"\\underline{{{value}}}"}.get(cell.mark, value)
    doubt = shown.doubt_text(cell, column, plus_minus=r"$\pm$", over_seeds=r"$^{s}$", exact="", unknown="")
    return text + (f"{{\\scriptsize\\,{doubt}}}" if doubt else "")


def _label(row: Row) -> str:
    words = shown.row_markers(row)
    return escaped(row.label) + (f" \\textit{{({', '.join(words)})}}" if words else "")


def _table(table: Table, number: int) -> list[str]:
    columns = table.columns
    heads, lines = (
        ["Tokenizer", "$L$", "$K$"],
        [[_label(r), escaped(r.code_length or "–"), escaped(r.codebook_size or "–")] for r in table.rows],
    )
    for column in columns:
        heads.append(escaped(column.heading))
        for row, line in zip(table.rows, lines, strict=True):
            line.append(cell_latex(row.cells.get(column.metric), column))
        if column in table.headlines:
            heads += ["rank", "Improv."]
            for row, line in zip(table.rows, lines, strict=True):
                line += [escaped(shown.rank_text(row, column)), escaped(shown.improvement_text(row, column))]
    costs = shown.present_costs(table)
    heads += [escaped(c.heading) for c in costs]
    for row, line in zip(table.rows, lines, strict=True):
        line += [escaped(shown.cost_text(row.costs, c)) for c in costs]
    title = f"{table.heading}. "
    rest = "; ".join(
        f"{heading}: {text}"
        for heading, text in table.caption.items()
        if text and heading not in ("dataset", "budget", "key")
    )
    runs = sum(len(r.runs) for r in table.rows)
    return [
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{escaped(title + rest)}. Bold: not significantly worse than any row; underlined: the next rank "
        f"(5\\,\\%, Holm). $\\pm$: half of the 95\\,\\% interval over users, $^{{s}}$ over seeds. {runs} runs, key "
        f"\\texttt{{{table.key[:12]}}}.}}",
        f"\\label{{tab:sidbench-{number}}}",
        "\\begin{adjustbox}{max width=\\textwidth}",
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        "\\toprule",
        " & ".join(heads) + " \\\\",
        "\\midrule",
        *(" & ".join(line) + " \\\\" for line in lines),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{adjustbox}",
        *(f"% {escaped(note)}" for note in table.notes),
        "\\end{table*}",
        "",
    ]


def latex(board: Leaderboard) -> str:
    """The leaderboard as LaTeX; needs the packages booktabs and adjustbox."""
    lines = [f"% {escaped(board.title)}", "% \\usepackage{booktabs,adjustbox}", ""]
    for number, table in enumerate(board.tables, start=1):
        lines += _table(table, number)
    if board.skipped:
        lines.append(f"% {len(board.skipped)} records could not be read and are in no table")
    return "\n".join(lines) + "\n"
