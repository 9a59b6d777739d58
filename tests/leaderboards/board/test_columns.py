"""Columns follow what records hold: chosen cut-offs and new metrics stand in every format, without another change."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.metrics import catalogue
from sidbench.benchmark.metrics.catalogue import all_metrics, is_better
from sidbench.benchmark.metrics.declaration import HIGHER, LOWER, MetricDeclaration
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.sweeps.objective import MAXIMISE, OBJECTIVES
from sidbench.leaderboards.board.columns import columns_of
from sidbench.leaderboards.board.store import Store, StoredRun, read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.board.values import Table
from sidbench.leaderboards.compare.comparison import compare_rows
from sidbench.leaderboards.render.formats import render
from sidbench.leaderboards.report.profiles import strata_figures

SHOWN = ("R@1", "N@1", "R@5", "N@5", "R@20", "N@20", "SID R@5")
COMMAND = [
    *("run", "--dataset", "synthetic", "--budget", "smoke", "--threads", "1", "--recommender", "mtp"),
    *("dataset.branching=[4,3,2]", "dataset.n_items=120", "dataset.n_users=150", "retriever.epochs=1"),
    *("tokenizer.codebook_size=8", "tokenizer.code_length=3", "run.cutoffs=[1,5,20]"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("cutoffs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDBENCH_HOME", str(home))
        assert invoke([*COMMAND, "--tokenizer", "random,hash"]) == 0
        yield home


@pytest.fixture(scope="module")
def store(home: Path) -> Store:
    return read_runs(home / "runs")


def table(store: Store) -> Table:
    (found,) = build_tables(store).tables
    return found


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert invoke(list(words)) == 0
    return capsys.readouterr().out


def test_chosen_cutoffs_stand_in_markdown_html_and_latex(store: Store) -> None:
    board = build_tables(store)
    head = next(line for line in render(board, "md").splitlines() if line.startswith("| tokenizer | L | K |"))
    for heading in SHOWN:
        assert f"| {heading} |" in head
        assert heading in render(board, "html") and heading in render(board, "latex")
    assert "| R@5 | rank R@5 | Improv. R@5 |" in head and "rank R@1 " not in head and "@10" not in head


def test_chosen_cutoffs_stand_in_csv_and_json(store: Store) -> None:
    board = build_tables(store)
    (first, *_) = (r for r in csv.DictReader(io.StringIO(render(board, "csv"))) if r["kind"] != "bound")
    names = [f"item_{kind}_at_{k}" for kind in ("recall", "ndcg") for k in (1, 5, 20)]
    assert all(float(first[name]) >= 0 for name in names) and first["item_recall_at_5_rank"] == "1"
    (tree,) = json.loads(render(board, "json"))["tables"]
    assert set(names) < set(tree["columns"]) and tree["headlines"] == ["item_recall_at_5"]


def test_rows_stand_by_their_headline_and_not_by_the_first_column(store: Store) -> None:
    first, second = (run.record for run in store.runs)
    values = {"item_recall_at_1": (0.9, 0.1), "item_recall_at_5": (0.2, 0.4)}
    changed = []
    for i, record in enumerate((first, second)):
        task = record.tasks[0]
        metrics = {**task.metrics, **{n: Metric(value=v[i], n=9) for n, v in values.items()}}
        record = record.model_copy(update={"tasks": (task.model_copy(update={"metrics": metrics, "users_file": ""}),)})
        changed.append(StoredRun(record, Path()))
    found = build_tables(replace(store, runs=tuple(changed))).tables[0]
    assert [row.cells["item_recall_at_5"].value for row in found.measured.rows] == [0.4, 0.2]


def test_chosen_cutoffs_stand_in_the_list_of_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "item_recall_at_5 " in told(capsys, "runs", "ls")
    assert {r["headline"]["metric"] for r in json.loads(told(capsys, "runs", "ls", "--json"))["runs"]} == {
        "item_recall_at_5"
    }


def test_chosen_cutoffs_and_their_strata_are_compared(store: Store) -> None:
    left, right = ([run] for run in store.runs)
    found = compare_rows(left, right, ("left", "right"))
    lines = {(line.column.heading, line.stratum) for line in found.lines}
    assert {(heading, "all") for heading in SHOWN} <= lines
    assert {("R@5", "head"), ("N@5", "tail")} <= lines and ("R@1", "head") not in lines
    assert {e.metric for e in found.extremes} == {"item_ndcg_at_5"}


def test_runs_of_other_cutoffs_are_compared_at_those_they_share(store: Store) -> None:
    one = store.runs[0].record
    task = one.tasks[0]
    moved = {n.replace("_at_20", "_at_50").replace("_at_1", "_at_10"): m for n, m in task.metrics.items()}
    other = one.model_copy(update={"tasks": (task.model_copy(update={"metrics": moved}),)})
    shown = [c.heading for c in columns_of([one], [other]) if c.task == "retrieval"]
    assert shown == ["R@5", "N@5", "SID R@5", "inflation"]


def test_strata_are_drawn_at_the_headline(store: Store) -> None:
    (figure,) = strata_figures(table(store))
    assert figure.title == "R@5 by popularity of the item (retrieval)" and figure.svg is not None


# -- the catalogue is all there is to know -----------------------------------------------------------------------------
@pytest.mark.parametrize("objective", [e.objective for e in all_metrics() if e.objective])
def test_sweeps_go_the_way_that_tables_call_better(objective: str) -> None:
    (entry,) = (e for e in all_metrics() if e.objective == objective)
    direction, task = OBJECTIVES[objective]
    assert task == (entry.task or "") and (direction == MAXIMISE) == is_better(entry.pattern, 2.0, 1.0)


def test_a_declared_metric_has_a_column_everywhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    family = next(e.family for e in all_metrics() if e.pattern == "auc")
    of_sids = next(e.family for e in all_metrics() if e.pattern == "entropy")
    made_up = (
        MetricDeclaration("charm", of_sids, LOWER, 1.0, 0.0, "", "how dull codes are", "dullness", digits=1, column=True),
        MetricDeclaration(
            "taste_at_{k}",
            replace(family, task="retrieval"),
            HIGHER,
            0.0,
            1.0,
            "",
            "how good lists look",
            "T@{k}",
            digits=2,
            column=True,
            cutoffs=(10,),
        ),
    )
    known = (*all_metrics(), *made_up)
    monkeypatch.setattr(catalogue, "all_metrics", lambda: known)
    runs = []
    for place, run in enumerate(store.runs):
        record = run.record
        task = record.tasks[0]
        assert record.sids is not None
        sids = record.sids.model_copy(update={"metrics": {**record.sids.metrics, "charm": Metric(value=0.25 + place, n=9)}})
        tasks = task.model_copy(update={"metrics": {**task.metrics, "taste_at_20": Metric(value=0.5 + place, n=9)}})
        runs.append(StoredRun(record.model_copy(update={"sids": sids, "tasks": (tasks,)}), run.folder))
    board = build_tables(replace(store, runs=tuple(runs)))
    text = render(board, "md")
    assert "| T@20 |" in text and "| dullness |" in text and "- dullness: how dull codes are; lower is better" in text
    (first, second) = (r for r in csv.DictReader(io.StringIO(render(board, "csv"))) if r["kind"] != "bound")
    assert {first["charm"], second["charm"]} == {"0.25", "1.25"} and "taste_at_20" in first
    assert all("dullness" in render(board, form) for form in ("html", "latex"))
    found = compare_rows([runs[0]], [runs[1]], ("left", "right"))
    assert {line.column.heading for line in found.lines} >= {"T@20", "dullness"}
    assert [c.metric for c in columns_of([r.record for r in runs]) if c.headline] == ["item_recall_at_5"]
