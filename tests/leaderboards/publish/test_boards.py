"""The boards of this repository: what is published is what their records give, and nothing of a data set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.leaderboards.board.store import read_runs

FOLDER = Path(__file__).resolve().parents[3] / "leaderboards" / "boards"
BOARDS = sorted(p.parent.name for p in FOLDER.glob("*/board.toml"))
EACH = pytest.mark.parametrize("name", BOARDS)
LARGEST = 20_000_000  # bytes of a board


def test_the_index_names_every_board_and_no_other() -> None:
    assert re.findall(r"^## (\S+)$", (FOLDER / "README.md").read_text(), re.MULTILINE) == BOARDS
    assert sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) == BOARDS


@EACH
def test_a_board_is_what_its_records_give(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["leaderboard", "--check", str(FOLDER / name)]) == 0, capsys.readouterr()


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
