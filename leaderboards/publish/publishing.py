"""Living boards: a folder with the records behind every row, small per-user results, and the rendered tables.

``board.toml`` (settings), ``records/<run id>/`` (record and compact per-user files), ``units/`` (what the results belong
to, without keys), ``board.md`` and the other formats, ``figures/`` (plots of the markdown). Rendering depends on the
folder's records alone, so anyone can check that the tables are what the records give. Frozen boards
(``leaderboards/frozen``) are judged without rendering.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sidbench.benchmark.store.paths import RECORD_NAME
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file
from sidbench.leaderboards.board.compact import UNITS, compact, units_of
from sidbench.leaderboards.board.store import Store, StoredRun, newest, one_line, read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.frozen.index import refuse_frozen
from sidbench.leaderboards.publish.verification import key_problems, number_problems
from sidbench.leaderboards.render.formats import FORMATS, SUFFIXES, markdown, render

SETTINGS, RECORDS, TABLE, FIGURES = "board.toml", "records", "board", "figures"


@dataclass(frozen=True)
class BoardSettings:
    """What a board shows. dataset, budgets: only runs of these; all where empty. formats: the files written."""

    title: str
    dataset: str = ""
    budgets: tuple[str, ...] = ()
    formats: tuple[str, ...] = tuple(FORMATS)

    def select(self, store: Store) -> Store:
        """The runs that belong on the board."""
        return replace(
            store,
            runs=tuple(
                r
                for r in store.runs
                if self.dataset in ("", r.record.dataset.name) and (not self.budgets or r.record.budget in self.budgets)
            ),
        )

    def toml(self) -> str:
        """The text of ``board.toml``."""
        values = {"title": self.title, "dataset": self.dataset, "budgets": list(self.budgets), "formats": list(self.formats)}
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


def read_settings(folder: Path) -> BoardSettings:
    """Read ``board.toml``. Raises ``InputError`` for a missing or damaged file and unknown names or values."""
    path = folder / SETTINGS
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"board {folder}",
            got=f"no {SETTINGS}",
            wanted="the folder of a published board",
            do=f"write one with `bench leaderboard --publish NAME --out {folder}`",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"settings {path}", got=one_line(error), wanted="TOML") from error
    known: dict[str, type] = {"title": str, "dataset": str, "budgets": list, "formats": list}
    for name, value in raw.items():
        if name not in known:
            raise unknown_name(f"setting of {path}", name, known, do="correct the file")
        if not isinstance(value, known[name]) or (isinstance(value, list) and not all(isinstance(v, str) for v in value)):
            raise InputError(
                f"setting {name} of {path}",
                got=repr(value)[:80],
                wanted="text" if known[name] is str else "a list of texts",
                do="correct the file",
            )
    if not raw.get("title"):
        raise InputError(f"settings {path}", got="no title", wanted='title = "…"')
    plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in raw.items()}
    settings = BoardSettings(**plain)
    for form in settings.formats:
        if form not in FORMATS:
            raise unknown_name(f"format of {path}", form, FORMATS, do="correct the file")
    return settings


@dataclass(frozen=True)
class Published:
    """What ``publish`` did: run ids by where they came from, those left out because newer ones replace them, and why
    others could not be read."""

    added: tuple[str, ...]
    kept: tuple[str, ...]
    superseded: tuple[str, ...]
    skipped: tuple[str, ...]
    size_bytes: int


def publish(settings: BoardSettings, store: Store, folder: Path) -> Published:
    """Write a board of the runs in ``store`` and those the folder already holds, whose place newer ones take.

    Beside ``folder`` and then renamed, so that a reader sees the old board or the new one. Raises ``InputError`` for the
    folder of a frozen board, when no run is left, or a per-user file cannot be made compact.
    """
    refuse_frozen(folder)
    old = read_runs(folder / RECORDS) if folder.exists() else Store(())
    there = {r.record.run_id: r.record.created for r in old.runs}
    fresh = [r for r in store.runs if r.record.created > there.get(r.record.run_id, "")]  # repeated runs keep their id
    ids = there.keys() - {r.record.run_id for r in fresh}
    together = sorted(
        [*(r for r in old.runs if r.record.run_id in ids), *fresh], key=lambda r: (r.record.created, r.record.run_id)
    )
    runs, superseded = newest(settings.select(Store(tuple(together))).runs)
    if not runs:
        raise InputError(
            f"board {folder.name}",
            got="no run that belongs on it",
            do="run `bench run` first",
            wanted=f"{settings.dataset or 'any dataset'}, budget {', '.join(settings.budgets) or 'any'}",
        )
    temporary, retired = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for run in runs:
            _copy(run, temporary) if run.record.run_id in ids or _is_compact(run) else _compact(run, temporary)
        (temporary / SETTINGS).write_text(settings.toml(), encoding="utf-8")
        for name, text in rendered(settings, temporary, temporary / FIGURES).items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file())
        if folder.exists():
            os.replace(folder, retired)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
    names = [r.record.run_id for r in runs]
    return Published(
        tuple(n for n in names if n not in ids),
        tuple(n for n in names if n in ids),
        superseded,
        tuple(f"{s.path}: {s.reason}" for s in (*store.skipped, *old.skipped)),
        size,
    )


def _is_compact(run: StoredRun) -> bool:
    """Whether the run comes from a board: its per-user files are in the published form already."""
    try:
        return any(units_of(run.file(entry.users_file)) is not None for entry in run.record.tasks if entry.users_file)
    except (OSError, ValueError, pyarrow.ArrowException, InputError):
        return False  # told where the file is read


def _copy(run: StoredRun, board: Path) -> None:
    target = board / RECORDS / run.record.run_id
    target.mkdir(parents=True)
    shutil.copyfile(run.folder / RECORD_NAME, target / RECORD_NAME)
    for entry in run.record.tasks:
        if entry.users_file and run.file(entry.users_file).is_file():
            path = run.file(entry.users_file)
            shutil.copyfile(path, target / entry.users_file)
            units = units_of(path)
            if units is not None:
                (board / UNITS).mkdir(exist_ok=True)
                shutil.copyfile(units, board / UNITS / units.name)


def _compact(run: StoredRun, board: Path) -> None:
    target = board / RECORDS / run.record.run_id
    target.mkdir(parents=True)
    tasks = []
    for entry in run.record.tasks:
        if entry.users_file:
            source = run.file(entry.users_file)
            try:
                compact(entry, source, target / entry.users_file, board / UNITS)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise InputError(
                    f"per-user file {source}",
                    got=one_line(error),
                    wanted="the file that the run wrote",
                    do=f"run it again, or leave it out: remove {source.parent}",
                ) from error
            entry = entry.model_copy(update={"users_hash": hash_file(target / entry.users_file)})
        tasks.append(entry)
    record = run.record.model_copy(
        update={
            "tasks": tuple(tasks),
            "environment": run.record.environment.model_copy(
                update={"command_line": tuple(map(_without_folder, run.record.environment.command_line))}
            ),
        }
    )
    (target / RECORD_NAME).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")


def _without_folder(word: str) -> str:
    """A word of a command line without the folders of an absolute path: they say nothing to others."""
    found = re.fullmatch(r"([\w.+-]*=)?(?:/|~/|[A-Za-z]:\\).*?([^/\\]*)[/\\]*", word, re.DOTALL)
    return word if found is None else f"{found[1] or ''}{found[2]}"


def rendered(settings: BoardSettings, folder: Path, figures: Path) -> dict[str, str]:
    """File name -> text of every format, from the records in ``folder``; the plots of markdown go to ``figures``."""
    from sidbench.leaderboards.report.figures import write_figures  # matplotlib: only where plots are drawn

    board = build_tables(settings.select(read_runs(folder / RECORDS)), title=settings.title)
    texts = {}
    for form in settings.formats:
        if form == "md":
            plots = {t.key: [f"{FIGURES}/{path.name}" for path in write_figures(t, figures)] for t in board.tables}
            text = markdown(board, plots)
        else:
            text = render(board, form)
        texts[f"{TABLE}.{SUFFIXES[form]}"] = text
    return texts


def check(folder: Path) -> list[str]:
    """What is wrong with a living board, one sentence each; nothing when its tables are what its records give.

    Raises ``InputError`` when there is no board or its settings are damaged.
    """
    settings = read_settings(folder)
    store = read_runs(folder / RECORDS)
    problems = [f"{s.path.relative_to(folder)}: {s.reason}" for s in store.skipped]
    for run in store.runs:
        problems += _check_files(run)
        problems += [f"{RECORDS}/{run.folder.name}: {p}" for p in (*key_problems(run.record), *number_problems(run))]
    if not store.runs:
        return [*problems, f"{RECORDS}: no record"]
    outside = {r.record.run_id for r in store.runs} - {r.record.run_id for r in settings.select(store).runs}
    problems += [f"{RECORDS}/{name}: not of the dataset or budget in {SETTINGS}" for name in sorted(outside)]
    with tempfile.TemporaryDirectory() as drawn:
        texts = rendered(settings, folder, Path(drawn))
        figures = sorted(Path(drawn).iterdir())
        problems += [found for path in figures if (found := _check_figure(folder / FIGURES / path.name, path))]
    problems += _strangers(folder, store, {SETTINGS, *texts, *(f"{FIGURES}/{path.name}" for path in figures)})
    for name, text in texts.items():
        path = folder / name
        published = path.read_bytes().decode("utf-8", "replace") if path.is_file() else None
        if published is None:
            problems.append(f"{name}: missing; {SETTINGS} names its format")
        elif published != text:
            problems.append(f"{name}: {_first_difference(published, text)}")
    return problems


def _check_figure(published: Path, drawn: Path) -> str:
    """What is wrong with a published plot, "" for nothing. Where lines lie depends on the release of matplotlib; which
    words and numbers stand on the plot does not."""
    if not published.is_file():
        return f"{FIGURES}/{drawn.name}: missing"
    words = [
        re.findall(r"<text[^>]*>(.*?)</text>", path.read_bytes().decode("utf-8", "replace"), re.DOTALL)
        for path in (published, drawn)
    ]
    return "" if words[0] == words[1] else f"{FIGURES}/{drawn.name}: its words are not those that the records give"


def _strangers(folder: Path, store: Store, own: set[str]) -> list[str]:
    """Files that belong to no record, table or plot: nobody checks what they hold, which may be keys or texts of items."""
    known, unreadable = {folder / name for name in own}, {s.path.parent for s in store.skipped}
    for run in store.runs:
        known.add(run.folder / RECORD_NAME)
        for entry in run.record.tasks:
            try:
                path = run.file(entry.users_file) if entry.users_file else run.folder / RECORD_NAME
                known |= {path, *((units,) if path.suffix == ".parquet" and (units := units_of(path)) is not None else ())}
            except (OSError, ValueError, pyarrow.ArrowException, InputError):
                known.add(run.folder / entry.users_file)  # told by ``_check_files``
    return [
        f"{path.relative_to(folder).as_posix()}: belongs to no record, table or plot; remove it"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in known and path.parent not in unreadable
    ]


def _check_files(run: StoredRun) -> list[str]:
    name, problems = f"{RECORDS}/{run.folder.name}", []
    if run.folder.name != run.record.run_id:
        problems.append(f"{name}: its record is that of {run.record.run_id}")
    for entry in run.record.tasks:
        if not entry.users_file:
            continue
        try:
            path = run.file(entry.users_file)
            if hash_file(path) != entry.users_hash:
                problems.append(f"{name}/{entry.users_file}: changed since it was published (not the hash on its record)")
            units = units_of(path)
            if units is None:
                problems.append(f"{name}/{entry.users_file}: not in the published form, it may hold user and item keys")
            elif _units_hash(units) != units.stem.rpartition("-")[2]:
                problems.append(f"{UNITS}/{units.name}: changed since it was published (its name is its hash)")
        except (OSError, ValueError, pyarrow.ArrowException, InputError) as error:
            problems.append(f"{name}/{entry.users_file}: {one_line(error)}")
    return problems


def _units_hash(path: Path) -> str:
    table = pyarrow.parquet.read_table(path)
    return hash_arrays({name: table[name].to_numpy() for name in table.column_names})[:16]


def _first_difference(published: str, text: str) -> str:
    """Where a published file departs from what its records give: line number and both lines."""
    left, right = published.split("\n"), text.split("\n")
    pairs: Sequence[tuple[str, str]] = list(zip(left, right, strict=False))
    line = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    a, b = (
        _around(x[line], y[line] if line < len(y) else "") if line < len(x) else "(end of file)"
        for x, y in ((left, right), (right, left))
    )
    return f"line {line + 1} is published as `{a}`, the records give `{b}`"


def _around(text: str, other: str, width: int = 60) -> str:
    """The part of a line from shortly before it departs from another one."""
    first = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = max(0, first - width // 3)
    return ("…" if start else "") + text[start : start + width] + ("…" if len(text) > start + width else "")
