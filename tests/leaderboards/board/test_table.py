"""Tables from synthetic records: who meets whom, how seeds aggregate, what is marked, and that nothing gets lost."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    StageRecord,
    TaskRecord,
)
from sidbench.leaderboards.board.caption import titles
from sidbench.leaderboards.board.store import read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.board.values import Leaderboard, Row, Table
from sidbench.leaderboards.render.formats import render

USERS = [f"u{i:03}" for i in range(200)]
HITS = np.arange(200) % 4 == 0  # recall .25


CONTROLS = ("random", "shuffled", "hash", "category_prefix", "popularity", "item_id")


class Runs:
    """Writes records as the pipeline does: ``<runs>/<id>/record.json`` beside per-user files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n = folder, 0
        folder.mkdir(parents=True)

    def add(
        self,
        tokenizer: str | None,
        *,
        recall: np.ndarray | None = None,
        value: float | None = None,
        seed: int = 0,
        key: str = "k1",
        protocol: str = "p1",
        config: Mapping[str, Any] | None = None,
        version: str = "1",
        control: bool = False,
        dataset: str = "beauty",
        budget: str = "quick",
        task: str = "retrieval",
        recommender: str = "mtp",
        recommender_version: str = "1",
        sids: Mapping[str, float] | None = None,
        half_width: float = 0.02,
        command: tuple[str, ...] = ("bench", "run"),
        warnings: tuple[str, ...] = (),
        device: str = "cpu",
        effort: Mapping[str, float] | None = None,
        undefined: Mapping[str, str] | None = None,
        targets: list[str] | None = None,
        tell: float | None = None,
        content: str = "d",
    ) -> str:
        self.n += 1
        run_id = f"run{self.n:02}"
        folder = self.folder / run_id
        folder.mkdir()
        name = "item_recall_at_10" if task == "retrieval" else "auc"
        users_file = ""
        if recall is not None:
            value = float(np.mean(recall))
            users_file = f"users_{task}.parquet"
            table = pyarrow.table({"user": USERS, "target": targets or USERS, name: recall.astype(np.float32)})
            pyarrow.parquet.write_table(table, folder / users_file)
        value = value if tell is None else tell
        assert value is not None
        number = Metric(value=value, n=len(USERS), low=value - half_width, high=value + half_width)
        metrics = {} if undefined else {name: number}
        plugin = (
            None
            if tokenizer is None
            else PluginRecord(
                name=tokenizer,
                config={"code_length": 3, "codebook_size": 8, **(config or {})},
                version=version,
                n_parameters=2_000_000,
                effort=dict(effort or {}),
                settings_source="tuned" if effort else "defaults",
            )
        )
        record = RunRecord(
            run_id=run_id,
            created=f"2025-01-01T00:00:{self.n:02}",
            budget=budget,
            seed=seed,
            dataset=DatasetRecord(name=dataset, config={}, content_hash=content, counts={"users": 200, "items": 9}),
            features=None,
            tokenizer=plugin,
            control=control,
            sids=None
            if tokenizer is None
            else SidsRecord(
                code_length=3,
                sizes=(8, 8, 8),
                ordered=True,
                mean_active=3.0,
                content_hash="s",
                file="sids.parquet",
                metrics={k: Metric(value=v, n=9) for k, v in (sids or {"collision_rate": 0.1}).items()},
            ),
            tasks=(
                TaskRecord(
                    task=task,
                    recommender=PluginRecord(name=recommender, config={}, version=recommender_version),
                    protocol={"split": "leave_last_out", "ties": "shuffled"},
                    metrics=metrics,
                    counts={"users": 200},
                    users_file=users_file,
                    users_hash="",
                    undefined=dict(undefined or {}),
                    comparability_key=key,
                    protocol_key=protocol,
                ),
            ),
            comparability_key=key,
            protocol_key=protocol,
            stages=(
                StageRecord(
                    name="tokenizer", key="a", cached=False, wall_seconds=2.0 + seed, cpu_seconds=1.0, peak_memory_bytes=1
                ),
            ),
            environment=EnvironmentRecord(
                device=device,
                precision="fp32",
                threads=1,
                allocator="default",
                python="3.11",
                versions={},
                git_commit="0123456789abcdef",
                git_dirty=False,
                code="c",
                command_line=command,
                platform="linux",
            ),
            warnings=warnings,
        )
        (folder / "record.json").write_text(record.model_dump_json())
        return run_id

    def board(self) -> Leaderboard:
        return build_tables(read_runs(self.folder), controls=CONTROLS)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def only(board: Leaderboard) -> Table:
    assert len(board.tables) == 1
    return board.tables[0]


def row(table: Table, name: str, settings: str = "") -> Row:
    return next(r for r in table.rows if r.name == name and r.settings == settings)


def line(text: str, start: str) -> str:
    return next(x for x in text.splitlines() if x.startswith(f"| {start}"))


def test_marks_in_markdown_follow_the_paired_bootstrap(runs: Runs) -> None:
    """close differs from best in 1 user of 200 (z = 1); far in 40 of 50 hits (z = -7); worst misses every user."""
    close, far = HITS.copy(), HITS.copy()
    close[0] = False
    far[np.flatnonzero(HITS)[:40]] = False
    for name, recall in (("close", close), ("worst", np.zeros(200)), ("best", HITS), ("far", far)):
        runs.add(name, recall=recall)
    text = render(runs.board(), "md")
    best = re.search(r"\*\*0\.2500\*\* ±(0\.\d+) \| 1 \|", line(text, "best"))
    assert best and float(best[1]) == pytest.approx(1.96 * np.sqrt(0.25 * 0.75 / 200), rel=0.1)  # binomial
    assert re.search(r"\*\*0\.2450\*\* ±0\.\d+ \| 1 \| -2\.0%", line(text, "close"))
    assert re.search(r"<u>0\.0500</u> ±0\.\d+ \| 3 \| -80\.0%", line(text, "far"))
    assert "| 0.0000 ±0.0000 | 4 | -100.0%" in line(text, "worst")
    order = [text.index(f"\n| {name}") for name in ("best", "close", "far", "worst")]
    assert order == sorted(order)


def test_pairing_separates_rows_whose_intervals_overlap(runs: Runs) -> None:
    fewer = HITS.copy()
    fewer[np.flatnonzero(HITS)[:10]] = False  # 10 users lost, none won: z = 3.2; half-widths say z = 1.96
    runs.add("best", recall=HITS, half_width=0.05)
    runs.add("fewer", recall=fewer, half_width=0.05)
    assert "<u>0.2000</u>" in line(render(runs.board(), "md"), "fewer")


def test_without_per_user_files_the_intervals_decide_and_a_note_says_so(runs: Runs) -> None:
    runs.add("best", value=0.25, half_width=0.05)
    runs.add("fewer", value=0.20, half_width=0.05)
    table = only(runs.board())
    assert row(table, "fewer").cells["item_recall_at_10"].mark == "best"
    assert any("run01" in n and "intervals" in n for n in table.notes)


def test_a_damaged_per_user_file_is_noted_not_fatal(runs: Runs) -> None:
    runs.add("one", recall=HITS)
    run_id = runs.add("two", recall=HITS)
    (runs.folder / run_id / "users_retrieval.parquet").write_bytes(b"PAR1 no more")
    assert any(run_id in n for n in only(runs.board()).notes)


def test_keys_never_share_a_table(runs: Runs) -> None:
    runs.add("a", value=0.1, key="k1")
    runs.add("a", value=0.2, key="k2")
    runs.add("b", value=0.3, key="k2")
    found = {t.key: sorted(r.name for r in t.rows) for t in runs.board().tables}
    assert found == {"k1": ["a"], "k2": ["a", "b"]}
    assert all(not c.mark for t in runs.board().tables if t.key == "k1" for r in t.rows for c in r.cells.values())


def test_a_baseline_joins_every_table_of_its_protocol_and_no_other(runs: Runs) -> None:
    runs.add("a", value=0.1, key="k1", protocol="p1")
    runs.add("b", value=0.1, key="k2", protocol="p1")
    runs.add("c", value=0.1, key="k3", protocol="p2")
    runs.add(None, value=0.2, key="k9", protocol="p1", recommender="sasrec", budget="standard")
    tables = {t.key: t for t in runs.board().tables}
    assert set(tables) == {"k1", "k2", "k3"}
    for key in ("k1", "k2"):
        baseline = row(tables[key], "sasrec")
        assert baseline.kind == "baseline" and baseline.code_length == ""
        assert any("budget standard" in n for n in tables[key].notes)
        assert tables[key].caption["budget"] == "quick" and tables[key].caption["retrieval"].startswith("mtp")
    assert [r.name for r in tables["k3"].rows] == ["c"]
    assert "sasrec · *baseline* | – | – |" in render(runs.board(), "md")


def test_a_baseline_without_a_table_has_its_own(runs: Runs) -> None:
    runs.add("c", value=0.1, key="k3", protocol="p2")
    runs.add(None, value=0.2, key="k9", protocol="p1", recommender="sasrec")
    assert {t.key: [r.kind for r in t.rows] for t in runs.board().tables} == {"k3": ["tokenizer"], "k9": ["baseline"]}


def test_controls_are_marked_and_ranked_with_the_rest(runs: Runs) -> None:
    runs.add("good", recall=HITS)
    runs.add("random", recall=np.zeros(200), control=True)
    text = render(runs.board(), "md")
    assert "| random · *control* |" in text and "<u>0.0000</u>" in line(text, "random")


def test_controls_without_a_row_are_named_with_the_command_that_adds_them(runs: Runs) -> None:
    runs.add("good", recall=HITS, command=("bench", "run", "--seed", "3", "retriever.epochs=2", "tokenizer.steps=9"))
    runs.add("random", recall=np.zeros(200), control=True)
    note = next(n for n in only(runs.board()).notes if n.startswith("Controls without a row"))
    assert "random" not in note and "shuffled, hash, category_prefix, popularity, item_id." in note
    assert "--dataset beauty --recommender mtp --budget quick retriever.epochs=2`" in note
    for name in ("shuffled", "hash", "category_prefix", "popularity", "item_id"):
        runs.add(name, recall=np.zeros(200), control=True)
    assert not any(n.startswith("Controls without a row") for n in only(runs.board()).notes)


def test_seeds_become_mean_and_standard_deviation(runs: Runs) -> None:
    for seed, value, width in ((1, 0.14, 0.02), (0, 0.10, 0.04)):
        runs.add("a", value=value, seed=seed, half_width=width, sids={"entropy": 4.0 + seed})
    found = row(only(runs.board()), "a")
    cell = found.cells["item_recall_at_10"]
    assert cell.value == pytest.approx(0.12) and cell.half_width == pytest.approx(0.03)
    assert cell.seed_sd == pytest.approx(0.04 / np.sqrt(2)) and cell.n == 200
    assert found.seeds == (0, 1) and found.seconds == pytest.approx(2.5)
    text = render(runs.board(), "md")
    assert "0.1200 ±0.0300 (sd 0.0283)" in line(text, "a ") and line(text, "a ").endswith("| 2 |")
    # No users behind the SID table: Student's interval over two seeds, t = 12.706 times .7071 / sqrt(2).
    assert "4.500 ±ˢ6.353 (sd 0.707)" in text and "| 2.5 | cpu | defaults |" in text
    assert (cell.interval, found.cells["entropy"].interval) == ("users", "seeds")


def test_per_user_means_over_seeds_are_what_is_compared(runs: Runs) -> None:
    swapped = np.roll(HITS, 1)
    for seed, recall in ((0, HITS), (1, swapped)):
        runs.add("a", recall=recall, seed=seed)
        runs.add("b", recall=HITS if seed else swapped, seed=seed)  # the same two results, seeds exchanged
    assert {r.cells["item_recall_at_10"].mark for r in only(runs.board()).rows} == {"best"}


def test_settings_that_differ_or_were_typed_tell_rows_apart(runs: Runs) -> None:
    runs.add("a", value=0.1, config={"beta": 1, "gamma": 2, "rule": "x"})
    runs.add("a", value=0.2, config={"beta": 3, "gamma": 2, "rule": "x"})
    runs.add("b", value=0.2, config={"beta": 3, "gamma": 2}, command=("bench", "run", "tokenizer.gamma=2"))
    assert sorted((r.name, r.settings) for r in only(runs.board()).rows) == [
        ("a", "beta=1"),
        ("a", "beta=3"),
        ("b", "gamma=2"),
    ]


def test_a_newer_record_replaces_an_older_one_and_old_code_is_not_averaged_in(runs: Runs) -> None:
    runs.add("a", value=0.1, seed=0)
    runs.add("a", value=0.3, seed=0)
    runs.add("b", value=0.1, seed=0, version="1")
    runs.add("b", value=0.1, seed=1, version="1")
    runs.add("b", value=0.4, seed=0, version="2")
    board = runs.board()
    assert row(only(board), "a").cells["item_recall_at_10"].value == 0.3
    assert row(only(board), "b").cells["item_recall_at_10"].value == 0.4
    assert row(only(board), "b").seeds == (0,)
    assert board.superseded == ("run01", "run03", "run04")
    assert "3 records were replaced" in render(board, "md")


def test_several_versions_of_a_recommender_are_noted(runs: Runs) -> None:
    runs.add("a", value=0.1, recommender_version="1")
    runs.add("b", value=0.1, recommender_version="2")
    assert any("mtp had several versions" in n and "1: run01 | 2: run02" in n for n in only(runs.board()).notes)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"schema_version": 1}', '{"schema_version": 99}', "\udcff"])
def test_unreadable_records_are_counted_and_named(runs: Runs, content: str) -> None:
    runs.add("a", value=0.1)
    (runs.folder / "torn").mkdir()
    (runs.folder / "torn" / "record.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (runs.folder / ".being-written.tmp").mkdir()
    (runs.folder / ".being-written.tmp" / "record.json").write_text("{")
    (runs.folder / "unfinished").mkdir()
    board = runs.board()
    assert [s.path.parent.name for s in board.skipped] == ["torn"] and board.skipped[0].reason
    assert "1 records could not be read" in render(board, "md")
    assert [r.name for r in only(board).rows] == ["a"]


def test_csv_and_json_hold_the_same_numbers_as_values(runs: Runs) -> None:
    runs.add("a", recall=HITS, sids={"collision_rate": 0.125, "probe_text": 0.5})
    runs.add("b, with | bars", recall=np.zeros(200))
    read = list(csv.DictReader(io.StringIO(render(runs.board(), "csv"))))
    first = next(r for r in read if r["tokenizer"] == "a")
    assert (first["item_recall_at_10"], first["item_recall_at_10_mark"]) == ("0.25", "best")
    assert first["collision_rate"] == "0.125"
    assert (first["seeds"], first["runs"], first["code_length"], first["codebook_size"]) == ("0", "run01", "3", "8")
    tree = json.loads(render(runs.board(), "json"))
    assert tree["tables"][0]["caption"]["dataset"] == "beauty"
    cell = next(r for r in tree["tables"][0]["rows"] if r["tokenizer"] == "a")["metrics"]["item_recall_at_10"]
    assert (cell["value"], cell["n"], cell["seed_sd"], cell["mark"], cell["interval"]) == (0.25, 200, None, "best", "users")
    assert cell["low"] < 0.25 < cell["high"] and cell["half_width"] == pytest.approx((cell["high"] - cell["low"]) / 2)
    assert (float(first["item_recall_at_10_low"]), first["item_recall_at_10_rank"]) == (cell["low"], "1")
    exact = next(r for r in tree["tables"][0]["rows"] if r["tokenizer"] == "a")["metrics"]["probe_text"]
    assert (exact["interval"], exact["low"], exact["half_width"]) == ("exact", None, None)
    text = render(runs.board(), "md")
    assert "b, with \\| bars" in text and "0.500 =" in text
    blocks = [b.replace("\\|", "").splitlines() for b in text.split("\n\n") if b.startswith("|")]
    assert len(blocks) == 2 and all(len({x.count("|") for x in block}) == 1 for block in blocks)


def test_caption_and_provenance_say_where_numbers_come_from(runs: Runs) -> None:
    runs.add("a", value=0.1, command=("bench", "run", "--tokenizer", "a b"), warnings=("12 items have no text",))
    text = render(runs.board(), "md")
    assert "## beauty, budget quick" in text and "200 users, 9 items" in text
    assert "retrieval: mtp; split leave_last_out, ties shuffled; 200 users" in text
    assert "`run01` seed 0, commit 0123456789ab: `bench run --tokenizer 'a b'`" in text
    assert "run01: 12 items have no text" in text


def test_every_table_has_a_title_of_its_own(runs: Runs) -> None:
    runs.add("a", value=0.1, key="k1")
    runs.add("a", value=0.1, key="k2", recommender="tiger")
    runs.add("a", value=0.1, key="k3", recommender="tiger", dataset="ml_100k")
    found = [t.title for t in runs.board().tables]
    assert found == [
        "beauty, budget quick, retrieval by mtp",
        "beauty, budget quick, retrieval by tiger",
        "ml_100k, budget quick, retrieval by tiger",
    ]
    text = render(runs.board(), "md")
    assert all(f"## {title}\n" in text for title in found)
    assert all(title in render(runs.board(), form).replace("\\_", "_") for title in found for form in ("latex", "json"))


def test_titles_name_what_is_a_tables_own_or_its_key() -> None:
    words = {"dataset": "beauty", "budget": "quick", "retrieval": "mtp; split x, ties shuffled, test 0123abcd; 9 users"}
    twins = [
        {**words, "key": "aaaaaaaaaa"},
        {**words, "retrieval": words["retrieval"].replace("shuffled", "file"), "key": "bbbbbbbbbb"},
        {"dataset": "beauty", "budget": "quick", "key": "c"},
    ]
    assert titles(twins) == [
        "beauty, budget quick, retrieval by mtp (ties shuffled)",
        "beauty, budget quick, retrieval by mtp (ties file)",
        "beauty, budget quick, semantic IDs alone",
    ]
    assert titles([twins[0], {**twins[0], "key": "dddddddddd"}]) == [
        "beauty, budget quick, retrieval by mtp (key aaaaaaaa)",
        "beauty, budget quick, retrieval by mtp (key dddddddd)",
    ]


def test_every_column_is_explained_once(runs: Runs) -> None:
    runs.add("a", value=0.1, sids={"probe_text": 0.5, "probe_vision": 0.5})
    runs.add("b", value=0.1, key="k2")
    text = render(runs.board(), "md")
    assert text.count("<summary>Columns</summary>") == 1
    assert "- probe text, probe vision: held-out nmse" in text and "lower is better" in text and "- fit s: wall" in text


def test_rows_whose_seeds_spread_more_than_they_differ_share_a_rank(runs: Runs) -> None:
    """All seeds of b lie 5 users below a's mean, but a's own seeds differ by 20: users alone would tell them apart."""
    hits = np.flatnonzero(HITS)
    for seed, lost in ((0, 0), (1, 10), (2, 20)):
        recall = HITS.copy()
        recall[hits[:lost]] = False
        runs.add("a", recall=recall, seed=seed)
        recall = HITS.copy()
        recall[hits[: 20 + seed]] = False
        runs.add("b", recall=recall, seed=seed)
    assert {r.ranks["item_recall_at_10"] for r in only(runs.board()).rows} == {1}


def test_rendering_does_not_depend_on_the_order_of_folders(runs: Runs, tmp_path: Path) -> None:
    other = Runs(tmp_path / "other")
    names = [("a", HITS), ("b", np.roll(HITS, 1)), ("c", np.zeros(200))]
    for name, recall in names:
        runs.add(name, recall=recall)
    for name, recall in reversed(names):
        other.add(name, recall=recall)
    marks = [{r.name: r.cells["item_recall_at_10"].mark for r in only(x.board()).rows} for x in (runs, other)]
    assert marks[0] == marks[1]


def test_the_command_filters_by_dataset_and_writes_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(home / "runs")
    runs.add("a", value=0.1, dataset="ml-100k")
    runs.add("b", value=0.1, dataset="beauty", key="k2")
    (home / "runs" / "torn").mkdir()
    (home / "runs" / "torn" / "record.json").write_text("{")
    out = home / "tables" / "board.json"
    assert cli.invoke(["leaderboard", "--dataset", "ml_100k", "--format", "json", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == "" and "torn" in told.err
    assert [t["caption"]["dataset"] for t in json.loads(out.read_text())["tables"]] == ["ml-100k"]
    assert list(out.parent.iterdir()) == [out]
    assert cli.invoke(["leaderboard", "--dataset", "beuaty"]) == 2
    assert "did you mean 'beauty'" in capsys.readouterr().err
    assert cli.invoke(["leaderboard"]) == 0
    assert "## beauty" in capsys.readouterr().out


def test_leaderboards_import_no_torch() -> None:
    code = (
        "import sys, sidbench.benchmark.commands.leaderboard\n"
        "print({'torch', 'polars', 'pandas', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def cells(table: Table, metric: str = "item_recall_at_10") -> dict[str, Any]:
    return {r.name: r.cells.get(metric) for r in table.rows}


def test_improvement_is_over_the_best_other_tokenizer_and_never_over_controls_or_baselines(runs: Runs) -> None:
    for name, value, control in (("one", 0.2, False), ("two", 0.1, False), ("random", 0.4, True)):
        runs.add(name, value=value, control=control)
    runs.add(None, value=0.5, key="k9", recommender="sasrec")
    found = {r.name: r.improvements for r in only(runs.board()).rows}
    assert found["one"] == {"item_recall_at_10": pytest.approx(1.0)}
    assert found["two"] == {"item_recall_at_10": pytest.approx(-0.5)}
    assert found["random"] == found["sasrec"] == {}


def test_improvement_needs_a_competitor_above_zero(runs: Runs) -> None:
    runs.add("one", value=0.2)
    assert only(runs.board()).rows[0].improvements == {}
    runs.add("two", value=0.0)
    found = {r.name: r.improvements for r in only(runs.board()).rows}
    assert found["one"] == {} and found["two"] == {"item_recall_at_10": pytest.approx(-1.0)}


def test_costs_effort_and_devices_stand_beside_quality_and_are_not_marked(runs: Runs) -> None:
    runs.add("a", value=0.1, device="cuda:0 H100", effort={"trials": 20.0, "seconds": 9.0})
    for seed in (0, 1, 9):
        runs.add("b", value=0.2, device="cpu", seed=seed)
    table = only(runs.board())
    assert row(table, "a").costs.fit_seconds == 2.0 and row(table, "a").costs.tokenizer_parameters == 2e6
    assert row(table, "b").costs.fit_seconds == row(table, "b").seconds == 3.0  # the median of 2, 3 and 11
    assert row(table, "a").costs.encode_items_per_second is None  # no stage `sids` on these records
    assert row(table, "a").effort == "tuned, 20 trials"
    text = render(runs.board(), "md")
    second = text[text.index("Quantisation and cost") :]
    assert "| fit s |" in second and "2.00" in second and "encode items/s" not in second
    assert "| cuda:0 H100 | tuned, 20 trials |" in line(second, "a ") and "**2.0**" not in second


def test_rows_of_other_versions_or_older_data_are_flagged_and_the_numbers_stay(runs: Runs) -> None:
    runs.add("a", value=0.1, version="1", command=("bench", "run", "--tokenizer", "a"))
    runs.add("b", value=0.1, version="2")
    current = {("tokenizer", "a", ""): "2", ("tokenizer", "b", ""): "2", ("recommender", "mtp", ""): "1"}
    board = build_tables(read_runs(runs.folder), current)
    assert row(only(board), "a").stale == ("tokenizer a had version 1 and has 2 now",)
    assert row(only(board), "b").stale == () and row(only(board), "a").cells["item_recall_at_10"].value == 0.1
    text = render(board, "md")
    assert "| a · *stale* |" in text and "a is stale: tokenizer a had version 1 and has 2 now" in text
    assert "stale" not in render(runs.board(), "md")  # tables of records alone do not depend on what is installed
    gone = build_tables(read_runs(runs.folder), {("tokenizer", "a", ""): "1", ("tokenizer", "b", ""): "2"})
    assert row(only(gone), "b").stale == ("recommender mtp is not installed",)


def test_data_that_changed_make_the_older_row_stale_without_asking_the_code(runs: Runs) -> None:
    runs.add("a", value=0.1, key="k1", content="old")
    runs.add("a", value=0.1, key="k2", content="new")
    found = {t.key: t.rows[0].stale for t in runs.board().tables}
    assert found == {"k1": ("the data of beauty changed since",), "k2": ()}


def test_results_about_other_targets_are_not_paired_and_a_note_says_so(runs: Runs) -> None:
    for name in ("a", "b"):
        runs.add(name, recall=HITS)
    odd = runs.add("odd", recall=np.roll(HITS, 1), targets=USERS[::-1])
    table = only(runs.board())
    assert any(odd in n and "not about the users and items" in n for n in table.notes)
    assert row(table, "odd").cells["item_recall_at_10"].half_width == pytest.approx(0.02)  # as on the record


def test_a_record_that_contradicts_its_users_is_told(runs: Runs) -> None:
    lied = runs.add("a", recall=HITS, tell=0.3)
    runs.add("b", recall=HITS)
    assert any(n.startswith(f"{lied}: item_recall_at_10 is 0.3 on the record and 0.25") for n in only(runs.board()).notes)


def test_undefined_cells_are_dashes_with_the_reason_below(runs: Runs) -> None:
    runs.add("a", value=0.1)
    runs.add("short", value=0.0, undefined={"item_recall_at_10": "beam covers 7 items"})
    table = only(runs.board())
    assert cells(table)["short"] is None and row(table, "short").ranks == {}
    assert any(n == "R@10 of short has no number: beam covers 7 items." for n in table.notes)
    assert "| – | – | – |" in line(render(runs.board(), "md"), "short")


def test_nan_in_a_per_user_file_sets_it_aside(runs: Runs) -> None:
    broken = HITS.astype(float)
    broken[3] = np.nan
    run_id = runs.add("a", recall=broken, tell=0.25)
    runs.add("b", recall=HITS)
    assert any(run_id in n and "NaN" in n for n in only(runs.board()).notes)


def test_latex_escapes_names_and_keeps_marks(runs: Runs) -> None:
    runs.add("rq_vae & co {50%} #1", recall=HITS)
    runs.add("random", recall=np.zeros(200), control=True)
    text = render(runs.board(), "latex")
    assert r"rq\_vae \& co \{50\%\} \#1" in text and r"random \textit{(control)}" in text
    assert r"\textbf{0.2500}{\scriptsize\,$\pm$0.0" in text and r"\underline{0.0000}" in text
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert len({re.sub(r"\\.", "", x).count("&") for x in body.splitlines() if x.endswith(r"\\")}) == 1


def test_rendering_twice_gives_the_same_bytes(runs: Runs) -> None:
    runs.add("a", recall=HITS)
    runs.add("b", recall=np.roll(HITS, 3))
    for form in ("md", "csv", "json", "latex"):
        assert render(runs.board(), form) == render(runs.board(), form)


def test_the_command_writes_several_formats_into_a_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Runs(home / "runs").add("a", value=0.1)
    out = home / "tables"
    assert cli.invoke(["leaderboard", "--format", "md,latex,csv,json", "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [f"leaderboard.{s}" for s in ("csv", "json", "md", "tex")]
    assert cli.invoke(["leaderboard", "--format", "md,csv"]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    assert cli.invoke(["leaderboard", "--format", "latx"]) == 2
    assert "did you mean 'latex'" in capsys.readouterr().err
    assert cli.invoke(["leaderboard", "--title", "x"]) == 2
    assert "option --title; got without --publish" in capsys.readouterr().err
