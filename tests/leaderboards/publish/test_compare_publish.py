"""`bench compare` and published boards from made runs with real metric code: what is told, refused, kept and found out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.metrics.auc import ranking_metrics
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.metrics.ranking_at_k import retrieval_metrics
from sidbench.benchmark.metrics.strata import item_strata
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    FeaturesRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    TaskRecord,
)
from sidbench.datasets.foundation.hashing import hash_file, hash_json
from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.board.compact import compact
from sidbench.leaderboards.board.store import read_runs, read_users
from sidbench.leaderboards.publish.publishing import check, read_settings, rendered

N_USERS, N_ITEMS, CUTOFFS = 120, 40, (5, 10)
FORMATS = "md,latex,csv,json"


class Ranks(NamedTuple):
    better: np.ndarray
    tied: np.ndarray
    sid_better: np.ndarray
    sid_tied: np.ndarray
    masked_better: np.ndarray
    masked_tied: np.ndarray
    depth: np.ndarray
    sid_depth: np.ndarray


class Runs:
    """Writes runs as the pipeline does. ``skill``: how far the target moves up the list."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n = folder, 0
        generator = Rng(5).child("made").numpy()
        self.target = generator.integers(0, N_ITEMS, N_USERS)
        self.base = generator.random(N_USERS)
        self.owner = np.sort(generator.integers(0, N_USERS, 400))
        self.item = generator.integers(0, N_ITEMS, 400)
        self.label = generator.integers(0, 2, 400)
        self.strata = item_strata(np.arange(N_ITEMS))  # item 0 is cold

    def add(
        self,
        tokenizer: str,
        skill: float = 0.0,
        *,
        seed: int = 0,
        budget: str = "quick",
        config: Mapping[str, Any] | None = None,
        epochs: int = 3,
        ties: str = "shuffled",
        content: str = "d",
        device: str = "cpu",
        strata: bool = True,
        command: tuple[str, ...] = ("bench", "run"),
        created: str = "",
    ) -> str:
        self.n += 1
        run_id = f"beauty-{tokenizer}-s{seed}-{self.n:03}"
        folder = self.folder / run_id
        folder.mkdir(parents=True)
        noise = Rng(seed).child(tokenizer).numpy()
        protocols = {
            "retrieval": {"dataset": content, "ties": ties, "cutoffs": list(CUTOFFS)},
            "ranking": {"dataset": content},
        }
        tasks = []
        for task, name in (("retrieval", "mtp"), ("ranking", "ppnet")):
            make = self._retrieval if task == "retrieval" else self._ranking
            columns, metrics = make(skill, noise, strata)
            path = folder / f"users_{task}.parquet"
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
            recommender = PluginRecord(name=name, config={"epochs": epochs}, code="r", n_parameters=10)
            tasks.append(
                TaskRecord(
                    task=task,
                    recommender=recommender,
                    protocol=protocols[task],
                    metrics=metrics,
                    users_file=path.name,
                    users_hash=hash_file(path),
                    protocol_key=hash_json(protocols[task]),
                    comparability_key=hash_json(
                        {
                            "protocol": protocols[task],
                            "features": "f",
                            "recommender": name,
                            "config": {"epochs": epochs},
                            "budget": budget,
                        }
                    ),
                )
            )
        record = RunRecord(
            run_id=run_id,
            created=created or f"2025-01-01T00:{self.n:02}:00",
            budget=budget,
            seed=seed,
            dataset=DatasetRecord(
                name="beauty", config={}, content_hash=content, counts={"users": N_USERS, "items": N_ITEMS}
            ),
            features=FeaturesRecord(
                config={"text": "tfidf"},
                provenance="f",
                dims={"text": 4},
                coverage={"text": 1.0},
                absent={},
                richness_proxy="log_count",
            ),
            tokenizer=PluginRecord(name=tokenizer, config={"beta": 1, **(config or {})}, code="c"),
            sids=SidsRecord(
                code_length=3,
                sizes=(8, 8, 8),
                ordered=True,
                mean_active=3.0,
                content_hash="s",
                file="sids.parquet",
                metrics={"entropy": Metric(value=2.0 + skill, n=N_ITEMS)},
            ),
            tasks=tuple(tasks),
            comparability_key=hash_json({t.task: t.comparability_key for t in tasks}),
            protocol_key="p",
            stages=(),
            environment=EnvironmentRecord(
                device=device,
                precision="fp32",
                threads=1,
                allocator="",
                python="3.11",
                versions={},
                git_commit="0123456789ab",
                git_dirty=False,
                code="c",
                command_line=command,
                platform="linux",
            ),
        )
        (folder / "record.json").write_text(record.model_dump_json())
        return run_id

    def _retrieval(self, skill: float, noise: np.random.Generator, _: bool) -> tuple[dict[str, Any], dict[str, Metric]]:
        place = np.clip(self.base - skill + noise.normal(0, 0.02, N_USERS), 0, 0.99)
        better = (place * 30).astype(np.int64)
        tied = np.where(better % 3 == 0, 2, 1)
        alone, deep = np.ones(N_USERS, np.int64), np.full(N_USERS, N_ITEMS)
        ranks = Ranks(better, tied, better // 2, alone, better, tied, deep, deep)
        found = retrieval_metrics(ranks, self.strata[self.target], Rng(0).numpy(), CUTOFFS)
        columns = {
            "user": [f"U{i:04}" for i in range(N_USERS)],
            "target": [f"B{i:03}" for i in self.target],
            "rank_low": better + 1,
            "rank_high": better + tied,
            "sid_rank_low": better // 2 + 1,
            "sid_rank_high": better // 2 + 1,
            "masked_rank_low": better + 1,
            "masked_rank_high": better + tied,
            "score": np.where(better < 10, -1.0 * better, -np.inf),
        }  # as of a beam of 10: no score outside it
        return columns | found.per_user, found.metrics

    def _ranking(self, skill: float, noise: np.random.Generator, strata: bool) -> tuple[dict[str, Any], dict[str, Metric]]:
        score = (noise.normal(size=400) + (1 + 3 * skill) * self.label).astype(np.float32)
        labels = self.strata[self.item]
        found = ranking_metrics(self.owner, self.label, score, labels, Rng(0).numpy())
        columns = {
            "user": [f"U{i:04}" for i in self.owner],
            "item": [f"B{i:03}" for i in self.item],
            "label": self.label.astype(np.int8),
            "score": score,
            "row": np.arange(400),
        }
        return columns | ({"stratum": labels} if strata else {}), found.metrics


@pytest.fixture
def runs(home: Path) -> Runs:
    return Runs(home / "runs")


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.invoke(list(words)) == code
    found = capsys.readouterr()
    return found.err if code else found.out


# -- compare ----------------------------------------------------------------------------------------------------------
def test_compare_tells_everything_once(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    left = runs.add("one", 0.2, config={"beta": 5}, device="cuda:0")
    runs.add("two")
    tree = json.loads(told(capsys, "compare", left, "beauty-two", "--format", "json"))
    lines = {(x["metric"], x["stratum"]): x for x in tree["metrics"]}
    recall = lines["item_recall_at_10", "all"]
    stored = {r.record.tokenizer.name: r for r in read_runs(runs.folder).runs if r.record.tokenizer is not None}
    values = [stored[n].record.metric("item_recall_at_10", "retrieval") for n in ("one", "two")]
    assert values[0] is not None and values[1] is not None
    assert recall["difference"] == pytest.approx(values[0].value - values[1].value, abs=1e-6)
    assert recall["low"] < recall["difference"] < recall["high"] and recall["low"] > 0
    assert recall["p"] <= recall["p_holm"] <= 0.05 and recall["users_left"] > recall["users_right"]
    assert recall["users_left"] + recall["users_right"] + recall["users_equal"] == N_USERS
    assert {s for _, s in lines} == {"all", "head", "torso", "tail", "cold"}
    # Strata are those of the record: head recall is what the run measured itself.
    head = stored["one"].record.metric("item_recall_at_10_head", "retrieval")
    assert head is not None and lines["item_recall_at_10", "head"]["left"] == pytest.approx(head.value, abs=1e-6)
    auc = stored["two"].record.metric("auc_tail", "ranking")
    assert auc is not None and lines["auc", "tail"]["right"] == pytest.approx(auc.value, abs=1e-6)
    assert lines["entropy", "all"]["p"] is None and lines["entropy", "all"]["difference"] == pytest.approx(0.2)
    assert tree["settings"]["tokenizer.config.beta"] == {"left": 5, "right": 1}
    assert tree["settings"]["environment.device"] == {"left": "cuda:0", "right": "cpu"}
    text = told(capsys, "compare", left, "beauty-two")
    assert "R@10 cold" in text and "The devices differ" in text and "| tokenizer.config.beta | 5 | 1 |" in text
    assert "Warning" not in text
    rows = list(csv.DictReader(io.StringIO(told(capsys, "compare", left, "beauty-two", "--format", "csv"))))
    assert len(rows) == len(lines) and rows[0]["left_runs"] == left


def test_shares_of_users_and_items_sum_to_the_difference(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = runs.add("one", 0.3), runs.add("two")
    tree = json.loads(told(capsys, "compare", left, right, "--format", "json"))
    users = [e for e in tree["extremes"] if (e["task"], e["kind"]) == ("retrieval", "user")]
    assert users[0]["share"] == pytest.approx((users[0]["left"] - users[0]["right"]) / N_USERS)
    assert [e["share"] for e in users] == sorted((e["share"] for e in users), reverse=True)
    items = [e for e in tree["extremes"] if (e["task"], e["kind"]) == ("ranking", "item")]
    assert items and all(e["left"] is None and e["n"] == int((runs.item == int(e["name"][1:])).sum()) for e in items)


def test_seeds_are_one_row_and_the_smallest_p_is_printed(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [",".join(runs.add(name, skill, seed=seed) for seed in range(3)) for name, skill in (("one", 0.3), ("two", 0.0))]
    text = told(capsys, "compare", *sides)
    line = next(x for x in text.splitlines() if x.startswith("| R@10 |"))
    assert "0.1000 (smallest 0.1000)" in line and text.count("(seed ") == 6
    mixed = f"{sides[0].split(',')[0]},{sides[1].split(',')[1]}"
    assert "tokenizer.name" in told(capsys, "compare", mixed, sides[1], code=2)
    twice = f"{sides[0]},{runs.add('one', 0.3, seed=1)}"
    assert "every seed once" in told(capsys, "compare", twice, sides[1], code=2)


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"budget": "smoke"}, "budget: budget quick against smoke"),
        ({"epochs": 9}, "recommender of retrieval: epochs 3 against 9"),
        ({"ties": "file"}, "protocol of retrieval: ties shuffled against file"),
        ({"content": "e"}, "dataset: content d against e"),
    ],
)
def test_other_comparability_keys_are_refused_by_part(
    runs: Runs, capsys: pytest.CaptureFixture[str], other: dict[str, Any], part: str
) -> None:
    left, right = runs.add("one"), runs.add("two", **other)
    error = told(capsys, "compare", left, right, code=2)
    assert part in error and "--force" in error
    text = told(capsys, "compare", left, right, "--force")
    assert "**Warning: these runs are not comparable" in text and f"- Not comparable: {part}" in text


def test_targets_outside_a_beam_do_not_cost_the_pairing(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Their score is -inf, which no metric reads; files with it were set aside as broken."""
    left, right = runs.add("one", 0.2), runs.add("two")
    score = pyarrow.parquet.read_table(runs.folder / left / "users_retrieval.parquet")["score"].to_numpy()
    assert np.isneginf(score).any()
    tree = json.loads(told(capsys, "compare", left, right, "--format", "json"))
    recall = next(x for x in tree["metrics"] if x["metric"] == "item_recall_at_10")
    assert recall["p"] is not None and not tree["notes"]
    table = json.loads(told(capsys, "leaderboard", "--format", "json"))["tables"][0]
    assert not any("no per-user" in n for n in table["notes"])


def test_older_files_without_strata_are_said_not_guessed(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = runs.add("one", strata=False), runs.add("two", strata=False)
    text = told(capsys, "compare", left, right)
    assert "ranking: no strata in these files" in text and "AUC tail" not in text and "R@10 tail" in text


def test_lost_per_user_files_leave_the_numbers_without_a_test(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = runs.add("one", 0.2), runs.add("two")
    (runs.folder / right / "users_retrieval.parquet").unlink()
    tree = json.loads(told(capsys, "compare", left, right, "--format", "json"))
    recall = next(x for x in tree["metrics"] if x["metric"] == "item_recall_at_10")
    assert recall["p"] is None and recall["difference"] > 0
    assert any("so there is no paired test" in n for n in tree["notes"])


def test_compare_refuses_the_same_run_unknown_runs_and_formats(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    left = runs.add("one")
    assert "two different rows" in told(capsys, "compare", left, left, code=2)
    assert "unknown run" in told(capsys, "compare", left, "beauty-twoo", code=2)
    assert "did you mean 'json'" in told(capsys, "compare", left, left, "--format", "jsn", code=2)


# -- published boards -------------------------------------------------------------------------------------------------
@pytest.fixture
def board(runs: Runs, home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    for seed in range(2):
        runs.add("one", 0.2, seed=seed, command=("bench", "run", "--data-dir", "/somewhere/secret/raw", "tokenizer.beta=1"))
    runs.add("two")
    folder = home / "boards" / "beauty"
    told(capsys, "leaderboard", "--publish", "beauty", "--out", str(folder), "--format", FORMATS, "--title", "Beauty")
    return folder


def test_compact_files_give_back_every_metric_exactly(runs: Runs, tmp_path: Path) -> None:
    runs.add("one", 0.2)
    run = read_runs(runs.folder).runs
    for entry in run[0].record.tasks:
        target = tmp_path / "records" / "r" / entry.users_file
        compact(entry, run[0].folder / entry.users_file, target, tmp_path / "units")
        wanted = {*entry.metrics, "row", "stratum", *(("label", "score") if entry.task == "ranking" else ())}
        copied = type(run[0])(run[0].record, target.parent)
        full, small = read_users(run[0], entry.task, wanted), read_users(copied, entry.task, wanted)
        assert not isinstance(full, str) and not isinstance(small, str)
        assert full.keys() == small.keys() and len(full) > 3
        assert all(np.array_equal(full[n], small[n]) for n in full if n != "user")
        # Other names, the same users.
        assert np.array_equal(np.unique(full["user"], return_inverse=True)[1], small["user"].astype(int))


def test_a_published_board_checks_and_holds_no_keys(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(board) == []
    assert "living board; the tables are what its 3 records give" in told(capsys, "leaderboard", "--check", str(board))
    assert sorted(p.name for p in board.iterdir()) == [
        "board.csv",
        "board.json",
        "board.md",
        "board.tex",
        "board.toml",
        "figures",
        "records",
        "units",
    ]
    linked = re.findall(r"!\[.*?\]\((.*?)\)", (board / "board.md").read_text())
    assert linked and all((board / name).is_file() for name in linked)
    everything = b"".join(p.read_bytes() for p in board.rglob("*") if p.is_file())
    for path in board.rglob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        assert all(pyarrow.types.is_integer(f.type) or pyarrow.types.is_floating(f.type) for f in table.schema)
    assert not re.search(rb"U00\d\d|B0\d\d|secret", everything)
    assert b"--data-dir raw tokenizer.beta=1" in everything


def test_the_board_shows_the_numbers_of_the_runs_it_was_made_from(
    board: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    home = json.loads(told(capsys, "leaderboard", "--format", "json"))
    published = json.loads((board / "board.json").read_text())
    for ours, theirs in zip(home["tables"][0]["rows"], published["tables"][0]["rows"], strict=True):
        assert ours["metrics"] == theirs["metrics"] and ours["ranks"] == theirs["ranks"]
    assert published["title"] == "Beauty"
    # Published records compare as runs do, by their folders.
    folders = [str(board / "records" / name) for name in ("beauty-one-s0-001", "beauty-two-s0-003")]
    tree = json.loads(told(capsys, "compare", *folders, "--format", "json"))
    again = json.loads(told(capsys, "compare", "beauty-one-s0", "beauty-two", "--format", "json"))
    assert tree["metrics"] == again["metrics"]


@pytest.mark.parametrize("harm", ["table", "metric", "users", "units", "missing", "rename", "outside", "stranger", "plot"])
def test_check_says_where_a_board_was_changed(board: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    record = board / "records" / "beauty-two-s0-003" / "record.json"
    users = record.parent / "users_retrieval.parquet"
    if harm == "table":
        text = (board / "board.md").read_text()
        number = re.search(r"\*\*(0\.\d{4})\*\*", text)
        assert number is not None
        (board / "board.md").write_text(text.replace(number[1], "0.9999", 1))
        where = "board.md: line"
    elif harm == "metric":
        tree = json.loads(record.read_text())
        tree["tasks"][0]["metrics"]["item_recall_at_10"]["value"] = 0.99
        record.write_text(json.dumps(tree))
        where = "board.json: line"
    elif harm == "users":
        table = pyarrow.parquet.read_table(users)
        zeros = pyarrow.array(np.zeros(N_USERS, np.int32))
        changed = table.set_column(table.column_names.index("item_better"), "item_better", zeros)
        pyarrow.parquet.write_table(changed, users)
        where = "users_retrieval.parquet: changed since"
    elif harm == "units":
        path = next((board / "units").glob("ranking-*.parquet"))
        table = pyarrow.parquet.read_table(path)
        flipped = pyarrow.array(1 - table["label"].to_numpy())
        pyarrow.parquet.write_table(table.set_column(table.column_names.index("label"), "label", flipped), path)
        where = f"units/{path.name}: changed since"
    elif harm == "missing":
        (board / "board.csv").unlink()
        where = "board.csv: missing"
    elif harm == "rename":
        record.parent.rename(record.parent.with_name("other"))
        where = "records/other: its record is that of beauty-two-s0-003"
    elif harm == "stranger":
        (record.parent / "sids.parquet").write_bytes(b"item keys")
        where = "records/beauty-two-s0-003/sids.parquet: belongs to no record, table or plot"
    elif harm == "plot":
        path = next((board / "figures").glob("*.svg"))
        path.write_text(path.read_text().replace("two", "best"))
        where = f"figures/{path.name}: its words are not those"
    else:
        text = (board / "board.toml").read_text()
        (board / "board.toml").write_text(text.replace('dataset = ""', 'dataset = "ml_100k"'))
        where = "not of the dataset or budget"
    assert where in told(capsys, "leaderboard", "--check", str(board), code=1)


def test_check_sees_what_was_changed_before_the_tables_were_made_again(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of such a board are what its records give; the records are not what its runs gave."""
    path = board / "records" / "beauty-two-s0-003" / "record.json"
    before = path.read_text()

    def problems(change: Callable[[dict[str, Any]], None]) -> str:
        tree = json.loads(before)
        change(tree)
        path.write_text(json.dumps(tree))
        for name, text in rendered(read_settings(board), board, board / "figures").items():
            (board / name).write_text(text)
        return told(capsys, "leaderboard", "--check", str(board), code=1)

    def better(tree: dict[str, Any]) -> None:
        tree["tasks"][0]["metrics"]["item_recall_at_10"]["value"] = 0.99

    def luckier_tail(tree: dict[str, Any]) -> None:
        tree["tasks"][1]["metrics"]["auc_tail"]["value"] = 0.99

    def longer(tree: dict[str, Any]) -> None:
        tree["tasks"][0]["recommender"]["config"]["epochs"] = 300

    def other_ties(tree: dict[str, Any]) -> None:
        tree["tasks"][0]["protocol"]["ties"] = "file"

    def other_budget(tree: dict[str, Any]) -> None:
        tree["budget"] = "paper"

    def other_table(tree: dict[str, Any]) -> None:
        tree["comparability_key"] = "0" * 64

    assert "item_recall_at_10 of retrieval is 0.99 on the record and" in problems(better)
    assert "auc_tail of ranking is 0.99 on the record and" in problems(luckier_tail)
    assert "the comparability key of retrieval is not that of its recommender, budget" in problems(longer)
    assert "the protocol key of retrieval is not that of its protocol" in problems(other_ties)
    assert "the comparability key of ranking is not that of its recommender, budget" in problems(other_budget)
    assert "its comparability key is not that of its tasks" in problems(other_table)


def test_a_compact_file_cannot_lead_out_of_its_board(board: Path) -> None:
    users = board / "records" / "beauty-two-s0-003" / "users_ranking.parquet"
    table = pyarrow.parquet.read_table(users).replace_schema_metadata({b"sidbench.units": b"../../../../etc/passwd"})
    pyarrow.parquet.write_table(table, users)
    run = next(r for r in read_runs(board / "records").runs if r.folder == users.parent)
    assert "names the units" in str(read_users(run, "ranking", {"score"}))


def test_publishing_again_keeps_what_is_there_and_replaces_what_is_newer(
    board: Path, runs: Runs, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(runs.folder)
    runs.add("three", 0.1)
    runs.add("two", 0.4, created="2026-01-01T00:00:00")
    assert cli.invoke(["leaderboard", "--publish", "beauty", "--out", str(board)]) == 0
    done = capsys.readouterr()
    assert "2 runs added, 2 kept, 1 replaced" in done.out
    assert "replaced by a newer run of its row: beauty-two-s0-003" in done.err
    assert check(board) == []
    names = [r["tokenizer"] for r in json.loads((board / "board.json").read_text())["tables"][0]["rows"]]
    assert sorted(names) == ["one", "three", "two"]
    assert sorted(p.name for p in (board / "records").iterdir()) == [
        "beauty-one-s0-001",
        "beauty-one-s1-002",
        "beauty-three-s0-004",
        "beauty-two-s0-005",
    ]
    assert [p.name for p in board.parent.iterdir()] == ["beauty"]


def test_a_board_is_published_again_from_its_own_records_here_or_elsewhere(board: Path, home: Path) -> None:
    other = board.parent / "other"

    def kept(folder: Path) -> dict[Path, bytes]:
        return {
            p.relative_to(folder): p.read_bytes()
            for n in ("records", "units")
            for p in (folder / n).rglob("*.*")
            if p.is_file()
        }

    before = kept(board)
    for out in (board, other):
        assert cli.invoke(["leaderboard", "--publish", "beauty", "--from", str(board / "records"), "--out", str(out)]) == 0
        assert check(out) == []
        assert before == kept(out) and before


def test_publishing_refuses_foreign_folders_bad_settings_and_files_of_other_shape(
    board: Path, runs: Runs, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = home / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("x")
    assert "a folder with files and without board.toml" in told(
        capsys, "leaderboard", "--publish", "x", "--out", str(other), code=2
    )
    for text, words in (
        ("title = 3", "setting title"),
        ("tile = ''", "did you mean 'title'"),
        ("", "no title"),
        ("title = 'x'\nformats = ['pdf']", "unknown format"),
        ("title = ", "wanted TOML"),
    ):
        (board / "board.toml").write_text(text)
        assert words in told(capsys, "leaderboard", "--check", str(board), code=2)
    assert "no board.toml" in told(capsys, "leaderboard", "--check", str(other), code=2)
    broken = runs.folder / runs.add("broken") / "users_ranking.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"user": ["a"]}), broken)
    target = home / "new"
    assert "no item, row, label, score" in told(capsys, "leaderboard", "--publish", "x", "--out", str(target), code=2)
    assert not target.exists() and not list(home.glob(".new*"))
