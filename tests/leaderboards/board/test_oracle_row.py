"""The oracle row: what the records of planted data state, against sums over all items and pairs, and how tables show it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.store.records import RunRecord, read_record
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.datasets.synthetic import Synthetic, SyntheticConfig
from sidbench.leaderboards.board.store import Store, StoredRun, read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.board.values import BOUND, Leaderboard, Row, Table
from sidbench.leaderboards.render.formats import render
from sidbench.leaderboards.report.page import html_page

SIZE = {"n_items": 120, "n_users": 150}
CONFIG = SyntheticConfig(branching=(4, 3, 2), **SIZE)
COMMAND = [
    "run",
    "--dataset",
    "synthetic",
    "--budget",
    "smoke",
    "--threads",
    "1",
    "dataset.branching=[4,3,2]",
    *(f"dataset.{name}={value}" for name, value in SIZE.items()),
    "retriever.epochs=1",
    "ranker.epochs=1",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home = tmp_path_factory.mktemp("bounds")
    patch = pytest.MonkeyPatch()
    patch.setenv("SIDBENCH_HOME", str(home))
    assert invoke([*COMMAND, "--tokenizer", "random,hash", "tokenizer.codebook_size=8", "tokenizer.code_length=3"]) == 0
    yield read_runs(home / "runs")
    patch.undo()


@pytest.fixture(scope="module")
def board(store: Store) -> Leaderboard:
    return build_tables(store)


def test_retrieval_bounds_are_the_mass_of_the_most_probable_items(store: Store) -> None:
    plugin = Synthetic(CONFIG)
    dataset, truth = plugin.load(LocalFiles(None)), plugin.truth()
    split = leave_last_out(dataset.interactions, dataset.n_users, "shuffled", Rng(0).child("split", "ties"))
    last = {int(u): int(i) for u, i in zip(split.validation.user, split.validation.item, strict=True)}
    users = split.test.user
    law = truth.next_item(users, np.array([last[int(u)] for u in users], np.int32)).astype(np.float64)
    best = -np.sort(-law, axis=1)
    for run in store.runs:
        bounds = run.record.dataset.bounds["retrieval"]
        for k in (5, 10, 50, 100):
            assert bounds[f"item_recall_at_{k}"] == pytest.approx(best[:, :k].sum(axis=1).mean(), abs=1e-6)
            gain = best[:, :k] / np.log2(np.arange(2, k + 2))
            assert bounds[f"item_ndcg_at_{k}"] == pytest.approx(gain.sum(axis=1).mean(), abs=1e-6)
        assert set(bounds) == {f"item_{m}_at_{k}" for m in ("recall", "ndcg") for k in (5, 10, 50, 100)}


def test_the_ranking_bound_is_that_of_all_pairs_of_rows(store: Store) -> None:
    run = store.runs[0]
    rows = pl.read_parquet(run.folder / "users_ranking.parquet")
    plugin = Synthetic(CONFIG)
    dataset, truth = plugin.load(LocalFiles(None)), plugin.truth()
    users = {key: i for i, key in enumerate(dataset.user_keys)}
    items = {key: i for i, key in enumerate(dataset.catalog.keys)}
    like = truth.like(
        np.array([users[u] for u in rows["user"]], np.int32), np.array([items[i] for i in rows["item"]], np.int32)
    ).astype(np.float64)
    weight = like[:, None] * (1 - like[None, :])  # row i is liked and row j is not
    np.fill_diagonal(weight, 0.0)
    order = (like[:, None] > like[None, :]) + 0.5 * (like[:, None] == like[None, :])
    assert run.record.dataset.bounds["ranking"] == {"auc": pytest.approx((weight * order).sum() / weight.sum(), abs=1e-9)}


def test_the_row_leads_without_a_rank_and_changes_no_other(store: Store, board: Leaderboard) -> None:
    [table] = board.tables
    assert [(r.name, r.kind) for r in table.rows if r.kind == BOUND] == [("oracle", BOUND)]
    oracle = table.rows[0]
    assert oracle.kind == BOUND and not oracle.ranks and not oracle.improvements and not oracle.runs
    assert {m for m, c in oracle.cells.items() if c.mark} == set()
    without = build_tables(Store(tuple(_without_bounds(store))))
    assert [r for r in table.rows if r.kind != BOUND] == [_with_runs(row, table) for row in without.tables[0].rows]
    assert table.measured.rows == table.rows[1:]


def _without_bounds(store: Store) -> Iterator[StoredRun]:
    for run in store.runs:
        data = run.record.dataset.model_copy(update={"bounds": {}})
        yield replace(run, record=run.record.model_copy(update={"dataset": data}))


def _with_runs(row: Row, table: Table) -> Row:
    return replace(row, runs=next(r.runs for r in table.rows if (r.name, r.settings) == (row.name, row.settings)))


def test_every_format_shows_the_row(board: Leaderboard) -> None:
    oracle = board.tables[0].rows[0]
    recall = f"{oracle.cells['item_recall_at_10'].value:.4f}"
    markdown = render(board, "md")
    line = next(x for x in markdown.splitlines() if x.startswith("| oracle"))
    assert line.startswith(f"| oracle · *bound* | – | – | {recall} | – | – |") and line.endswith("| – |")
    assert sum(x.startswith("| oracle") for x in markdown.splitlines()) == 1  # it cost nothing and has no SIDs
    [row] = [r for r in csv.DictReader(io.StringIO(render(board, "csv"))) if r["kind"] == BOUND]
    assert row["item_recall_at_10_interval"] == "expected" and row["seconds"] == row["runs"] == row["auc_rank"] == ""
    [plain] = [r for r in json.loads(render(board, "json"))["tables"][0]["rows"] if r["kind"] == BOUND]
    assert plain["seconds"] is None and set(plain["metrics"]) == set(oracle.cells)
    assert "oracle \\textit{(bound)}" in render(board, "latex")
    page = html_page(board)
    assert '<tbody data-kind="bound"' in page and "expectation of a model that knows the planted law" in page


def test_records_without_bounds_have_no_row(store: Store) -> None:
    old = json.loads((store.runs[0].folder / "record.json").read_text())
    del old["dataset"]["bounds"]
    assert isinstance(read_record(json.dumps(old)), RunRecord)
    assert all(r.kind != BOUND for t in build_tables(Store(tuple(_without_bounds(store)))).tables for r in t.rows)


def test_the_published_board_has_the_row_and_passes(store: Store, tmp_path: Path) -> None:
    home, board = store.runs[0].folder.parent.parent, tmp_path / "board"
    assert invoke(["leaderboard", "--publish", "planted", "--from", str(home), "--out", str(board)]) == 0
    assert "| oracle · *bound* |" in (board / "board.md").read_text()
    assert invoke(["leaderboard", "--check", str(board)]) == 0
