"""The boards of this repository: frozen, as their records and per-user results say, and nothing of a data set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.leaderboards.board.store import read_runs
from sidbench.leaderboards.frozen.index import read_index

FOLDER = Path(__file__).resolve().parents[3] / "leaderboards" / "boards"
BOARDS = sorted(p.parent.name for p in FOLDER.glob("*/board.toml"))
EACH = pytest.mark.parametrize("name", BOARDS)
LARGEST = 20_000_000  # bytes of a board
# Version, date and manifest of every frozen board. A published board never changes, so no line of this changes either.
FROZEN = {
    "beauty": ("1.0", "2026-11-28", "39fb37c2bcd4cc5bf55a4df0c31fa4613e2a05feba1ce52dd698d49413911068"),
    "beauty-file-order": ("1.0", "2026-11-28", "0017d493eda6dcd09a725dc4874c48cbfd7b05c96c07e68b98bad25238bc434d"),
    "ml-100k": ("1.0", "2026-11-28", "9fff41b2e40d2a1100610a88f01a3a759b6c5e0d7d0dc415a1b8353def338b3c"),
    "synthetic": ("1.0", "2026-11-28", "c1d327864a8e51bb2e41c4772feb8a9bdddcebb9df6c266785ab2b17060c70b1"),
}


def test_the_index_names_every_board_and_no_other() -> None:
    page = (FOLDER / "README.md").read_text()
    assert re.findall(r"^## (\S+)$", page, re.MULTILINE) == BOARDS
    listed = dict(re.findall(r"^\| \[(\S+)\]\(\S+\) \| (.+) \|$", page, re.MULTILINE))
    frozen = {name: f"{entry.version} | {entry.date}" for name, entry in read_index(FOLDER).items()}
    assert {name: words.rsplit(" | ", 1)[0] for name, words in listed.items()} == {
        name: frozen.get(name, "living | –") for name in BOARDS
    }
    assert sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) == BOARDS


def test_no_frozen_board_was_taken_back_or_frozen_anew() -> None:
    index = {name: (entry.version, entry.date, entry.manifest) for name, entry in read_index(FOLDER).items()}
    assert {name: index.get(name) for name in FROZEN} == FROZEN


@EACH
def test_a_board_passes_its_check(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["leaderboard", "--check", str(FOLDER / name)]) == 0, capsys.readouterr()
    said = capsys.readouterr()
    assert name not in FROZEN or ("as it was frozen" in said.out and not said.err)


@EACH
def test_every_record_was_made_by_committed_code_on_equal_data(name: str) -> None:
    records = [run.record for run in read_runs(FOLDER / name / "records").runs]
    assert records and not any(r.environment.git_dirty for r in records)
    assert all(re.fullmatch("[0-9a-f]{40}", r.environment.git_commit) for r in records)
    assert len({r.dataset.content_hash for r in records}) == 1
    assert len({r.environment.device for r in records}) == len({r.environment.threads for r in records}) == 1


@EACH
def test_a_board_is_small_and_holds_no_keys(name: str) -> None:
    files = [p for p in (FOLDER / name).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < LARGEST
    for path in files:
        if path.suffix == ".parquet":
            kinds = {str(f.type) for f in pyarrow.parquet.read_schema(path)}
            assert not kinds & {"string", "large_string", "binary"}, f"{path}: {kinds}"


def test_no_row_of_planted_data_is_above_its_oracle() -> None:
    (table,) = json.loads((FOLDER / "synthetic" / "board.json").read_text())["tables"]
    (bound,) = (row["metrics"] for row in table["rows"] if row["kind"] == "bound")
    rows = [row for row in table["rows"] if row["kind"] != "bound"]
    assert {"tokenizer", "control", "baseline"} <= {row["kind"] for row in rows}
    assert {"item_recall_at_10", "item_ndcg_at_10", "auc"} <= bound.keys()
    for row in rows:
        for name in bound.keys() & row["metrics"].keys():
            assert row["metrics"][name]["value"] - row["metrics"][name]["half_width"] < bound[name]["value"], (row, name)


def test_table_2_of_the_paper_stands_beside_the_beauty_board(tmp_path: Path) -> None:
    assert (
        invoke(
            [
                "reproduce",
                "mmq-v2",
                "--table",
                "2",
                "--dataset",
                "beauty",
                "--records",
                str(FOLDER / "beauty"),
                "--format",
                "json",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    [path] = tmp_path.glob("*.json")
    told = json.loads(path.read_text())
    rows = {line["row"]: line for side in told["tables"] if side["our_dataset"] for line in side["rows"]}
    assert {"RQ-VAE", "OPQ", "RQ-KMeans", "LETTER", "DAS", "RQ-VAE++", "MM-RQ-VAE", "ADA-SID", "Item ID"} <= rows.keys()
    assert all(line["runs"] and not line["absent"] for line in rows.values())
