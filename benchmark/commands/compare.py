"""`bench compare`: two rows side by side, paired over the same users and items."""

from __future__ import annotations

import sys
from pathlib import Path

from sidbench.benchmark.api.comparing import compare
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.files import write_whole
from sidbench.leaderboards.compare.text import COMPARISON_FORMATS


def compare_command(left: str, right: str, form: str, out: Path | None, force: bool) -> None:
    """Print a comparison of two rows, or write it to ``out``.

    left, right: run ids, beginnings of them, or folders with a record; seeds of one row with commas. Raises
    ``InputError`` for unknown runs, runs that are no seeds of one row, and rows of different comparability keys unless
    ``force``, which puts a warning on the result instead.
    """
    if form not in COMPARISON_FORMATS:
        raise unknown_name("--format", form, COMPARISON_FORMATS, do="use one of these")
    text = compare(_ids(left), _ids(right), force=force).text(form)
    if out is None:
        sys.stdout.write(text)
        return
    write_whole(out, text)


def _ids(text: str) -> list[str]:
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise InputError("run", got=repr(text), wanted="run ids with commas", do="list them with `bench runs ls`")
    return ids
