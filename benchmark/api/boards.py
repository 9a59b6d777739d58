"""Leaderboards in a notebook: of runs, and as they were published."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sidbench.benchmark.api.frames import Shape, board_frame
from sidbench.benchmark.plugins.registry import ROOT
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.files import write_whole
from sidbench.leaderboards.board.store import read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.board.values import Leaderboard
from sidbench.leaderboards.publish.publishing import RECORDS, SETTINGS, TABLE, read_settings
from sidbench.leaderboards.render.formats import SUFFIXES, render

BOARDS = ROOT / "leaderboards" / "boards"


@dataclass(frozen=True)
class Board:
    """A leaderboard. title: its heading. failed: runs that are in no table, (run, reason).

    A notebook shows it as its markdown; ``to_frame`` gives its numbers.
    """

    title: str
    text: Callable[[str], str]  # name of a format -> the whole board in it
    failed: tuple[tuple[str, str], ...] = ()

    def to_markdown(self) -> str:
        """The tables in markdown, with how to read them, notes and the runs behind every row."""
        return self.text("md") + "".join(f"\nFailed and in no table: {run}: {reason}\n" for run, reason in self.failed)

    def to_html(self, path: str | Path | None = None) -> str:
        """The board as one HTML page that needs no server and no network; also written to ``path`` if there is one."""
        page = self.text("html")
        if path is not None:
            write_whole(Path(path), page)
        return page

    def to_frame(self, shape: Shape = "wide") -> pd.DataFrame:
        """One row per table row ("wide"), or per number with its interval and rank ("long").

        Numbers have eight significant digits, as in the board's own files.
        """
        return board_frame(self.text("json"), shape)

    def _repr_html_(self) -> str:
        """The wide frame, without the page around it, as notebooks show values."""
        return f"<h3>{html.escape(self.title)}</h3>{self.to_frame().to_html()}{failed_html(self.failed)}"

    def __repr__(self) -> str:
        return f"<Board {self.title!r}>"


def failed_html(failed: Sequence[tuple[str, str]]) -> str:
    """A paragraph for each (run, reason)."""
    return "".join(f"<p>failed: {html.escape(run)}: {html.escape(reason)}</p>" for run, reason in failed)


def board_of(values: Leaderboard, failed: Sequence[tuple[str, str]] = ()) -> Board:
    """The tables of runs as a board."""
    return Board(values.title, lambda form: render(values, form), tuple(failed))


def load_board(board: str | Path) -> Board:
    """A published board: the name of one in ``leaderboards/boards``, or a folder that ``bench leaderboard --publish``
    wrote.

    Its tables are read as they were published. A form that was not published is rendered from the board's records; an
    installed package has the tables only. Raises ``InputError`` for a name or a folder without a board.
    """
    folder = _folder(board)
    settings = read_settings(folder)

    def text(form: str) -> str:
        path = folder / f"{TABLE}.{SUFFIXES[form]}"
        if form in settings.formats and path.is_file():
            return path.read_text(encoding="utf-8")
        if not (folder / RECORDS).is_dir():
            raise InputError(
                f"board {settings.title!r} as {form}",
                got=f"no file {path.name} and no records in {folder}",
                wanted=f"one of the published forms: {', '.join(settings.formats)}",
                do="ask for a published form, or load the board from a checkout of the repository, which has its records",
            )
        return render(build_tables(settings.select(read_runs(folder / RECORDS)), title=settings.title), form)

    return Board(settings.title, text)


def _folder(board: str | Path) -> Path:
    folder = Path(board).expanduser()
    if isinstance(board, Path) or (folder / SETTINGS).is_file() or folder.name != str(board):
        return folder
    known = sorted(path.parent.name for path in BOARDS.glob(f"*/{SETTINGS}"))
    if board not in known:
        where = "give a folder, or a board of the repository" if known else "give a folder; this installation has no boards"
        raise unknown_name("board", str(board), known, do=where)
    return BOARDS / board
