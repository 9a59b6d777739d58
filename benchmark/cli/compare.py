"""``bench compare``: two rows side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    left: Annotated[str, typer.Argument(help="Run id or the beginning of one; seeds of one row with commas.")],
    right: Annotated[str, typer.Argument(help="The same, for the row to compare with.")],
    form: Annotated[str, typer.Option("--format", help="md, csv or json.")] = "md",
    out: Annotated[Path | None, typer.Option(help="File to write; default standard output.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of different comparability keys.")] = False,
) -> None:
    """Compare two rows metric by metric, paired over users, with intervals and tests."""
    from sidbench.benchmark.commands.compare import compare_command

    compare_command(left, right, form, out, force)
