"""``--check`` of a frozen board: its files, index, records, per-user results, tables and pages, by the rules of format 1.

No plugin is looked at and nothing is rendered, so a board passes or fails the same under every later release.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.leaderboards.frozen.captions import protocol_words
from sidbench.leaderboards.frozen.document import Board
from sidbench.leaderboards.frozen.index import board_name, entry_of
from sidbench.leaderboards.frozen.manifest import (
    MANIFEST,
    Manifest,
    Origin,
    file_problems,
    files_of,
    read_manifest,
    stranger_problems,
)
from sidbench.leaderboards.frozen.numbers import UNITS, Columns, Number, task_numbers, units_of
from sidbench.leaderboards.frozen.pages import PAGES
from sidbench.leaderboards.frozen.records import (
    RECORD,
    RECORDS,
    Record,
    one_line,
    read_json,
    read_records,
    reason_of,
    record_problems,
)
from sidbench.leaderboards.frozen.tables import Evidence, lead_of, table_problems

SETTINGS, TABLE, FIGURES = "board.toml", "board.json", "figures"


@dataclass(frozen=True)
class Judged:
    """What is wrong with a board, one sentence each; and how much was judged.

    by_users, alone: metrics on the records that per-user results determine, and those of SID tables, which only another
    run could judge.
    """

    problems: list[str]
    records: dict[str, Record]
    by_users: int
    alone: int
    protocol: str


def check_frozen(folder: Path) -> tuple[Judged, Manifest]:
    """Judge a frozen board against its manifest, the index beside it, and itself. Raises ``InputError`` without a manifest
    of a known format, or with a damaged index."""
    manifest = read_manifest(folder)
    found, problems = files_of(folder)
    problems += file_problems(manifest, found)
    problems += index_problems(folder, manifest)
    judged = judge(folder)
    problems += judged.problems
    if manifest.board != board_name(folder):
        problems.append(f"{MANIFEST}: that of the board {manifest.board}")
    if manifest.records != origin(judged.records):
        problems.append(f"{MANIFEST}: number, release or commits of the records are not those on them")
    if judged.protocol and manifest.protocol != judged.protocol:
        problems.append(f"{MANIFEST}: the protocol is not that of the records")
    return Judged(problems, judged.records, judged.by_users, judged.alone, judged.protocol), manifest


def index_problems(folder: Path, manifest: Manifest) -> list[str]:
    """Whether the index beside a board names this manifest."""
    entry = entry_of(folder)
    if entry is None:
        return [f"{MANIFEST}: no index beside the folder names this board, so nothing says which manifest was published"]
    problems = []
    if entry.manifest != hash_file(folder / MANIFEST):
        problems.append(f"{MANIFEST}: not the manifest that the index names")
    if (entry.version, entry.date, entry.protocol) != (manifest.version, manifest.date, manifest.protocol):
        problems.append(f"{MANIFEST}: its version, date or protocol is not that of the index")
    return problems


def origin(records: dict[str, Record]) -> Origin:
    """Where the records of a board come from."""
    where = [record.environment for record in records.values()]
    return Origin(
        count=len(records),
        sidbench=sorted({e.versions.get("sidbench", "unknown") for e in where}),
        git_commits=sorted({e.git_commit for e in where}),
    )


def judge(folder: Path) -> Judged:
    """Judge records, per-user results, tables and pages of a board by each other alone."""
    records, problems = read_records(folder)
    numbers: dict[tuple[str, str], dict[str, Number]] = {}
    units: dict[Path, Columns] = {}
    for record in records.values():
        problems += record_problems(record)
        if len({task.task for task in record.tasks}) < len(record.tasks):
            problems.append(f"{RECORDS}/{record.run_id}: a task stands there twice")
        for task in record.tasks:
            numbers[record.run_id, task.task], told = task_numbers(folder, record, task, units)
            problems += told
    by_users = sum(map(len, numbers.values()))
    alone = sum(len(r.sids.metrics) for r in records.values() if r.sids is not None)
    try:
        board = Board.model_validate(read_json(folder / TABLE, TABLE))
    except (OSError, ValueError, InputError) as error:
        return Judged([*problems, f"{TABLE}: no tables of format 1: {reason_of(error)}"], records, by_users, alone, "")
    problems += table_problems(board, Evidence(records, numbers))
    problems += _settings_problems(folder, board)
    problems += _page_problems(folder, board, records)
    problems += stranger_problems(files_of(folder)[0], _own_files(folder, board, records))
    leads = [lead for table in board.tables if (lead := lead_of(table, records)) is not None]
    return Judged(problems, records, by_users, alone, protocol_words(leads))


def _settings_problems(folder: Path, board: Board) -> list[str]:
    try:
        settings = tomllib.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return [f"{SETTINGS}: {one_line(error)}"]
    problems = [] if settings.get("title") == board.title else [f"{SETTINGS}: its title is not that of the tables"]
    captions = [table.caption for table in board.tables]
    for name, chosen in (("dataset", {settings.get("dataset")}), ("budget", set(settings.get("budgets", [])))):
        if chosen not in ({""}, set()) and not all(words.get(name) in chosen for words in captions):
            problems.append(f"{SETTINGS}: a table is not of its {name}")
    return problems


def _page_problems(folder: Path, board: Board, records: dict[str, Record]) -> list[str]:
    known = all(run.run_id in records for table in board.tables for row in table.rows for run in row.runs)
    if not known:
        return []  # told where the tables are judged
    problems = []
    for name, judge_page in PAGES.items():
        try:
            problems += [f"{name}: {told}" for told in judge_page((folder / name).read_bytes().decode(), board, records)]
        except FileNotFoundError:
            problems.append(f"{name}: missing; a frozen board has every format, so publish it with --format all")
        except (OSError, ValueError, LookupError) as error:
            problems.append(f"{name}: {one_line(error)}")
    return problems


def _own_files(folder: Path, board: Board, records: dict[str, Record]) -> set[str]:
    """Every file that a board of these records and tables has."""
    own = {SETTINGS, TABLE, *PAGES}
    tasks = {(table.key[:8], task) for table in board.tables for task in ("retrieval", "ranking")}
    plots = {f"{FIGURES}/{key}-{over}-{task}.svg" for key, task in tasks for over in ("bits", "seconds")}
    page = folder / "board.md"
    linked = set(re.findall(r"^!\[.*\]\((.*)\)$", page.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    own |= linked & plots
    for record in records.values():
        own.add(f"{RECORDS}/{record.run_id}/{RECORD}")
        for task in record.tasks:
            own.add(f"{RECORDS}/{record.run_id}/{task.users_file}")
            try:
                own.add(f"{UNITS}/{units_of(folder, folder / RECORDS / record.run_id / task.users_file).name}")
            except (OSError, ValueError, pyarrow.ArrowException):
                continue  # told where the file is read
    return own
