"""`bench leaderboard`: the tables of all finished runs of this home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sidbench.benchmark.home import runs_folder
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.leaderboards.render import FORMATS, render
from sidbench.leaderboards.store import read_runs
from sidbench.leaderboards.table import build_tables


def leaderboard_command(dataset: str | None, form: str, out: Path | None) -> None:
    """Print the leaderboard, or write it to ``out``. Records that cannot be read are named on stderr and left out.

    Raises ``InputError`` for an unknown format or dataset, and when there is no readable run.
    """
    if form not in FORMATS:
        raise unknown_name("--format", form, FORMATS, do="use one of these")
    store = read_runs(runs_folder())
    for skipped in store.skipped:
        sys.stderr.write(f"left out: {skipped.path}: {skipped.reason}\n")
    if not store.runs:
        raise InputError("no finished run", got=f"{len(store.skipped)} unreadable records in {runs_folder()}",
                         wanted="at least one record", do="run `bench run` first, or set $SIDBENCH_HOME")
    if dataset is not None:
        known = {run.record.dataset.name for run in store.runs}
        plain = {name.replace("_", "-"): name for name in known}
        if dataset.replace("_", "-") not in plain:
            raise unknown_name("dataset among finished runs", dataset, known, do=f"run `bench run --dataset {dataset}`")
        store = store.of_dataset(plain[dataset.replace("_", "-")])
    text = render(build_tables(store), form)
    if out is None:
        sys.stdout.write(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, out)
