"""`bench leaderboard`: the tables of finished runs, printed, written, published with their records, or checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from typer.exceptions import Exit

from sidbench.benchmark.api.versions import installed_versions
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.store.paths import runs_folder
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.files import write_whole
from sidbench.leaderboards.board.controls import missing_controls
from sidbench.leaderboards.board.provenance import newest_data, stale_reasons
from sidbench.leaderboards.board.store import Store, StoredRun, read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.board.values import Leaderboard
from sidbench.leaderboards.publish.publishing import RECORDS, SETTINGS, BoardSettings, check, publish, read_settings
from sidbench.leaderboards.render.formats import FORMATS, SUFFIXES, render

ALL_FORMATS = "all"


_GOES_WITH = {
    "check": (),
    "freeze": ("version",),
    "publish": ("source", "title", "budget", "dataset", "formats", "out"),
    "": ("dataset", "formats", "out", "data_dir"),
}
_SPELLED = {"source": "--from", "formats": "--format", "data_dir": "--data-dir"}


def refuse_mixed(**given: object) -> None:
    """Refuse options that the chosen work (``check``, ``freeze``, ``publish`` or printing) would not use.

    given: option -> value, ``None`` where it was not given. Raises ``InputError``.
    """
    present = [name for name, value in given.items() if value is not None]
    chosen = next((name for name in ("check", "freeze", "publish") if name in present), "")
    for name in present:
        if name != chosen and name not in _GOES_WITH[chosen]:
            raise InputError(
                f"option {_SPELLED.get(name, f'--{name}')}",
                got=f"together with --{chosen}" if chosen else f"without --{'freeze' if name == 'version' else 'publish'}",
                wanted="an option that this command uses",
                do="leave it out; see `bench leaderboard --help`",
            )


def leaderboard_command(
    dataset: str | None, formats: str, out: Path | None, *, texts: str = "auto", data_dir: Path | None = None
) -> None:
    """Print the leaderboard in one format, or write it: one format to the file ``out``, several into the folder ``out``.

    texts, data_dir: whether the HTML page shows item texts, and where raw files are. Records that cannot be read are
    named on stderr and left out. Raises ``InputError`` for an unknown format or dataset, several formats without
    ``out``, and when there is no readable run.
    """
    names = parse_formats(formats)
    store = _selected(_readable(runs_folder()), dataset)
    if len(names) > 1 and out is None:
        raise InputError(
            f"{len(names)} formats",
            got="no folder for them",
            wanted="--out FOLDER",
            do=f"bench leaderboard --format {formats} --out tables",
        )
    board = build_tables(store, installed_versions(store.runs), controls=installed().controls())
    for name in names:
        text = _render(board, name, texts, data_dir)
        if out is None:
            sys.stdout.write(text)
        else:
            write_whole(out / f"leaderboard.{SUFFIXES[name]}" if len(names) > 1 or out.is_dir() else out, text)


def parse_formats(text: str) -> tuple[str, ...]:
    """Names of formats from a comma list; "all" stands for every one."""
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    for name in names:
        if name not in (*FORMATS, ALL_FORMATS):
            raise unknown_name("--format", name, (*FORMATS, ALL_FORMATS), do="use one of these, or several with commas")
    if not names:
        raise InputError("--format", got="nothing", wanted=f"one or more of {', '.join(FORMATS)}")
    return tuple(FORMATS) if ALL_FORMATS in names else names


def publish_command(
    name: str,
    source: Path | None,
    out: Path | None,
    *,
    dataset: str | None,
    formats: str | None,
    title: str | None,
    budgets: str | None,
) -> None:
    """Write a board of the runs below ``source`` (a home or a folder of runs; default: this home) into ``out``.

    Settings of a board that is there already stay unless they are given again.
    """
    folder = out if out is not None else Path(name)
    old = read_settings(folder) if (folder / SETTINGS).exists() else None
    if old is None and folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"--out {folder}",
            got=f"a folder with files and without {SETTINGS}",
            wanted="a new folder, or that of a board",
            do="choose another folder",
        )
    place = runs_folder() if source is None else source / "runs" if (source / "runs").is_dir() else source
    store = _readable(place)
    chosen = _selected(store, dataset)
    base = old or BoardSettings(title or name)
    settings = BoardSettings(
        title=title or base.title,
        dataset=chosen.runs[0].record.dataset.name if dataset is not None else base.dataset,
        budgets=base.budgets if budgets is None else tuple(b.strip() for b in budgets.split(",") if b.strip()),
        formats=base.formats if formats is None else parse_formats(formats),
    )
    done = publish(settings, chosen, folder)
    for line in done.skipped:
        sys.stderr.write(f"left out: {line}\n")
    for note in _without_controls(read_runs(folder / RECORDS).runs):
        sys.stderr.write(f"{note}\n")
    for run_id in done.superseded:
        sys.stderr.write(f"replaced by a newer run of its row: {run_id}\n")
    sys.stdout.write(
        f"{folder}: {len(done.added)} runs added, {len(done.kept)} kept, {len(done.superseded)} replaced by "
        f"newer ones, {done.size_bytes / 1e6:.1f} MB. Check it with `bench leaderboard --check {folder}`.\n"
    )


def check_living(folder: Path) -> None:
    """Check a living board. Exits with 1, naming every place, when a table is not what the records give.

    Rows whose plugins have another version now are told on stderr; they are no failure, since their records still give
    the tables.
    """
    problems = check(folder)
    store = read_runs(folder / RECORDS)
    current, data = installed_versions(store.runs), newest_data(store.runs)
    for run in store.runs:
        if reasons := stale_reasons(run, current, data):
            sys.stderr.write(f"stale: {run.record.run_id}: {'; '.join(reasons)}\n")
    for problem in problems:
        sys.stderr.write(f"{folder}: {problem}\n")
    if problems:
        raise Exit(1)
    sys.stdout.write(f"{folder}: living board; the tables are what its {len(store.runs)} records give.\n")


def _without_controls(runs: Sequence[StoredRun]) -> list[str]:
    """What ``missing_controls`` says of each table; for the one who publishes, since boards depend on records alone."""
    tables: dict[str, list[StoredRun]] = {}
    for run in runs:
        tables.setdefault(run.record.comparability_key, []).append(run)
    return [note for members in tables.values() for note in missing_controls(members, installed().controls())]


def _readable(folder: Path) -> Store:
    store = read_runs(folder)
    for skipped in store.skipped:
        sys.stderr.write(f"left out: {skipped.path}: {skipped.reason}\n")
    if not store.runs:
        raise InputError(
            "no finished run",
            got=f"{len(store.skipped)} unreadable records in {folder}",
            wanted="at least one record",
            do="run `bench run` first, or set $SIDBENCH_HOME",
        )
    return store


def _selected(store: Store, dataset: str | None) -> Store:
    if dataset is None:
        return store
    known = {run.record.dataset.name for run in store.runs}
    plain = {name.replace("_", "-"): name for name in known}
    if dataset.replace("_", "-") not in plain:
        raise unknown_name("dataset among finished runs", dataset, known, do=f"run `bench run --dataset {dataset}`")
    return store.of_dataset(plain[dataset.replace("_", "-")])


def _render(board: Leaderboard, form: str, texts: str, data_dir: Path | None) -> str:
    if form != "html":
        return render(board, form)
    from sidbench.benchmark.commands.report import report_details
    from sidbench.leaderboards.report.page import html_page

    return html_page(board, report_details(board, texts, data_dir))
