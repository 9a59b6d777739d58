"""Published boards in a notebook: as they were published, long and wide."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

import sidbench as sb
from sidbench.benchmark.api.boards import BOARDS
from sidbench.benchmark.metrics.catalogue import describe


def test_a_board_is_read_as_it_was_published() -> None:
    board = sb.load_board("beauty")
    assert board.to_markdown() == (BOARDS / "beauty" / "board.md").read_text()
    assert board.to_html() == (BOARDS / "beauty" / "board.html").read_text()
    assert board.title == "Amazon Beauty" and "<table" in board._repr_html_()


def test_frames_hold_what_the_csv_holds() -> None:
    published = list(csv.DictReader(io.StringIO((BOARDS / "ml-100k" / "board.csv").read_text())))
    wide = sb.load_board("ml-100k").to_frame()
    assert len(wide) == len(published)
    metrics = [name for name in wide.columns if describe(name) is not None]
    assert {"auc", "gauc", "entropy"} <= set(metrics)
    for row, line in zip(wide.to_dict("records"), published, strict=True):
        assert (row["tokenizer"], row["kind"], row["settings"]) == (line["tokenizer"], line["kind"], line["settings"])
        for name in metrics:
            assert (float(line[name]) if line[name] else None) == (row[name] if row[name] == row[name] else None)
    long = sb.load_board(BOARDS / "ml-100k").to_frame("long")
    assert len(long) == sum(bool(line[name]) for line in published for name in metrics)
    best = long[(long["metric"] == "auc") & (long["rank"] == 1)]
    assert len(best) and set(best["mark"]) == {"best"}


def test_a_form_that_was_not_published_is_rendered_from_the_records(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(BOARDS / "synthetic" / "records", folder / "records")
    shutil.copytree(BOARDS / "synthetic" / "units", folder / "units")
    keep = sorted(p.name for p in (folder / "records").iterdir() if "-random-" in p.name or "-hash-" in p.name)
    for path in (folder / "records").iterdir():
        if path.name not in keep:
            shutil.rmtree(path)
    (folder / "board.toml").write_text('title = "Mine"\nformats = ["md"]\n')
    (folder / "board.md").write_text("as published\n")
    board = sb.load_board(str(folder))
    assert board.to_markdown() == "as published\n"
    assert set(board.to_frame()["tokenizer"]) == {"random", "hash", "oracle"}


def test_a_board_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(sb.InputError, match="did you mean 'beauty'"):
        sb.load_board("beuty")
    with pytest.raises(sb.InputError, match=r"no board\.toml"):
        sb.load_board(tmp_path)
