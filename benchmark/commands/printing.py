"""Tables of commands: drawn on a terminal, plain columns elsewhere, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Rows on stdout; the columns named in ``right`` are aligned right. Nothing is ever cut off in plain output."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(table)
        return
    from tabulate import tabulate

    aligned = ["right" if heading in right else "left" for heading in headings]
    sys.stdout.write(
        tabulate(rows, headings, tablefmt="plain", colalign=aligned if rows else None, disable_numparse=True) + "\n"
    )
