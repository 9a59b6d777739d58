"""Frozen boards: a board of made runs, frozen once and kept beside this file, passes under every release; no forgery does.

Every forgery is tried with the manifest as it was and with a manifest and index made again by the forger.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_arrays, hash_file, hash_json
from sidbench.leaderboards.board.store import read_runs
from sidbench.leaderboards.frozen.index import entry_of, is_frozen, read_index, write_index
from sidbench.leaderboards.frozen.judging import check_frozen, origin
from sidbench.leaderboards.frozen.manifest import MANIFEST, file_problems, files_of, read_manifest
from sidbench.leaderboards.frozen.records import read_records
from sidbench.leaderboards.publish.publishing import BoardSettings, publish

KEPT = Path(__file__).with_name("boards")
PUBLISHED = Path(__file__).resolve().parents[3] / "leaderboards" / "boards"
LETTER, CONTROL, BASELINE = "beauty-letter-s0-001", "beauty-random-s0-005", "beauty-none-s0-006"
Tree = dict[str, Any]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    shutil.copytree(KEPT, tmp_path / "boards")
    return tmp_path / "boards" / "small"


def problems(board: Path) -> str:
    return "\n".join(check_frozen(board)[0].problems)


def made_again(board: Path) -> None:
    """Manifest and index as a forger would write them for the files that are there now."""
    changed = {"files": files_of(board)[0], "records": origin(read_records(board)[0])}
    new = read_manifest(board).model_copy(update=changed)
    (board / MANIFEST).write_text(new.text())
    entries = read_index(board.parent)
    entry = entries["small"].model_copy(update={"manifest": hash_file(board / MANIFEST)})
    write_index(board.parent, {**entries, "small": entry})


def of_json(name: str, change: Callable[[Tree], object]) -> Callable[[Path], None]:
    def forge(board: Path) -> None:
        tree = json.loads((board / name).read_text())
        change(tree)
        (board / name).write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")

    return forge


def of_record(run: str, change: Callable[[Tree], object]) -> Callable[[Path], None]:
    return of_json(f"records/{run}/record.json", change)


def of_row(change: Callable[[Tree], object], label: str = "letter") -> Callable[[Path], None]:
    def row(tree: Tree) -> object:
        return change(next(r for r in tree["tables"][0]["rows"] if r["tokenizer"] == label))

    return of_json("board.json", row)


def of_text(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    def forge(board: Path) -> None:
        text, n = re.subn(pattern, new, (board / name).read_text(), count=1)
        assert n == 1, f"{name} holds no {pattern}"
        (board / name).write_text(text)

    return forge


def of_users(task: str, column: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Other results in a per-user file; the record gets their hash, as a forger would see to it."""

    def forge(board: Path) -> None:
        path = board / "records" / LETTER / f"users_{task}.parquet"
        table = pyarrow.parquet.read_table(path)
        place = table.column_names.index(column)
        pyarrow.parquet.write_table(table.set_column(place, column, pyarrow.array(change(table[column].to_numpy()))), path)
        of_record(LETTER, lambda t: t["tasks"][TASKS[task]].update(users_hash=hash_file(path)))(board)

    return forge


def other_units(board: Path) -> None:
    """Labels turned round in the units of all runs, under the name of their new hash."""
    [path] = (board / "units").glob("ranking-*.parquet")
    table = pyarrow.parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    columns["label"] = 1 - columns["label"]
    name = f"ranking-{hash_arrays(columns)[:16]}"
    pyarrow.parquet.write_table(pyarrow.table(columns), path.with_name(f"{name}.parquet"))
    path.unlink()
    for users in (board / "records").glob("*/users_ranking.parquet"):
        found = pyarrow.parquet.read_table(users).replace_schema_metadata({b"sidbench.units": name.encode()})
        pyarrow.parquet.write_table(found, users)
        digest = hash_file(users)
        of_record(users.parent.name, lambda t, d=digest: t["tasks"][1].update(users_hash=d))(board)


def both(*forgeries: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda board: [forge(board) for forge in forgeries] and None


def metric(tree: Tree, task: int = 0, name: str = "item_recall_at_10") -> Tree:
    return tree["tasks"][task]["metrics"][name]


def renamed(board: Path) -> None:
    (board / "records" / LETTER).rename(board / "records" / "beauty-letter-s7-001")


def longer_training(tree: Tree) -> None:
    """More epochs, with the keys that go with them."""
    for task in tree["tasks"]:
        task["recommender"]["config"]["epochs"] = 300
        stated = {"protocol": task["protocol"], "features": "f", "recommender": task["recommender"]["name"]}
        task["comparability_key"] = hash_json({**stated, "config": {"epochs": 300}, "budget": "quick"})
    tree["comparability_key"] = hash_json({t["task"]: t["comparability_key"] for t in tree["tasks"]})


def without_seed(board: Path) -> None:
    shutil.rmtree(board / "records" / "beauty-letter-s1-002")


TASKS = {"retrieval": 0, "ranking": 1}
VALUE = 0.99
FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "metric": (of_record(LETTER, lambda t: metric(t).update(value=VALUE, high=1.0)), "by its per-user results"),
    "metric and cell": (
        both(
            of_record(LETTER, lambda t: metric(t).update(value=VALUE, high=1.0)),
            of_row(lambda r: r["metrics"]["item_recall_at_10"].update(value=(VALUE + 0.5833333) / 2)),
        ),
        "item_recall_at_10 of retrieval is 0.99 on the record",
    ),
    "metric of a stratum": (of_record(LETTER, lambda t: metric(t, 1, "auc_tail").update(value=VALUE, high=1.0)), "auc_tail"),
    "units of a metric": (of_record(LETTER, lambda t: metric(t).update(n=61)), "the number of units of item_recall_at_10"),
    "interval of a metric": (of_record(LETTER, lambda t: metric(t).update(low=0.9)), "lies outside its interval"),
    "metric that nobody knows": (
        of_record(LETTER, lambda t: t["tasks"][0]["metrics"].update(item_mrr=metric(t))),
        "item_mrr of retrieval is no metric that format 1 knows",
    ),
    "SID metric": (
        of_record(LETTER, lambda t: t["sids"]["metrics"]["entropy"].update(value=9.0)),
        "row letter: entropy: value",
    ),
    "cell": (of_row(lambda r: r["metrics"]["auc"].update(value=VALUE)), "row letter: auc: value 0.99"),
    "small change of a cell": (
        of_row(lambda r: r["metrics"]["gauc"].update(value=r["metrics"]["gauc"]["value"] + 2e-7)),
        "row letter: gauc: value",
    ),
    "spread": (of_row(lambda r: r["metrics"]["auc"].update(seed_sd=0.0)), "auc: seed_sd 0"),
    "interval over users": (of_row(lambda r: r["metrics"]["auc"].update(low=0.86)), "auc: interval 0.86"),
    "bootstrap interval": (
        of_row(lambda r: r["metrics"]["item_recall_at_10"].update(low=0.57, high=0.58, half_width=0.005)),
        "item_recall_at_10: interval 0.57 to 0.58",
    ),
    "interval over seeds": (of_row(lambda r: r["metrics"]["entropy"].update(high=2.3)), "entropy: interval"),
    "missing cell": (of_row(lambda r: r["metrics"].pop("sid_recall_at_10")), "sid_recall_at_10 is missing"),
    "missing column": (of_json("board.json", lambda t: t["tables"][0]["columns"].remove("gauc")), "its columns are"),
    "rank": (of_row(lambda r: r["ranks"].update(item_recall_at_10=9), "random"), "rank 9 in item_recall_at_10"),
    "mark": (of_row(lambda r: r["metrics"]["auc"].update(mark=""), "random"), "rank 1 in auc"),
    "improvement": (of_row(lambda r: r["improvements"].update(auc=0.5)), "improvement in auc is 0.5"),
    "cost": (of_row(lambda r: r["costs"].update(fit_seconds=0.1)), "fit_seconds is 0.1, the records give 3.5"),
    "effort": (of_row(lambda r: r.update(effort="tuned, 20 trials")), "effort says 'tuned, 20 trials'"),
    "kind": (of_row(lambda r: r.update(kind="tokenizer"), "random"), "kind says 'tokenizer', the records 'control'"),
    "settings of a row": (of_row(lambda r: r.update(settings=""), "rqkmeans"), "settings says ''"),
    "seed of a row": (of_row(lambda r: r.update(seeds=[0, 1, 2])), "seeds says '[0, 1, 2]'"),
    "seed of a record": (of_record(LETTER, lambda t: t.update(seed=7)), "seed 7, which is not what its name says"),
    "seed of a record and its row": (
        both(
            of_record(LETTER, lambda t: t.update(seed=7)),
            of_row(lambda r: (r.update(seeds=[7, 1]), r["runs"][0].update(seed=7))),
        ),
        "seed 7, which is not what its name says",
    ),
    "budget of a record": (of_record(LETTER, lambda t: t.update(budget="paper")), "the comparability key of retrieval"),
    "budget of the caption": (
        of_json("board.json", lambda t: t["tables"][0]["caption"].update(budget="paper")),
        "budget says 'paper', the records 'quick'",
    ),
    "setting of a recommender": (
        of_record(LETTER, lambda t: t["tasks"][0]["recommender"]["config"].update(epochs=300)),
        "the comparability key of retrieval is not that of its recommender",
    ),
    "setting with its keys": (of_record(LETTER, longer_training), f"{LETTER} has another comparability key than the table"),
    "protocol": (
        of_record(LETTER, lambda t: t["tasks"][0]["protocol"].update(ties="file")),
        "the protocol key of retrieval is not the hash of its protocol",
    ),
    "setting of a tokenizer": (
        of_record(LETTER, lambda t: t["tokenizer"]["config"].update(beta=2)),
        "has other settings than",
    ),
    "name in a row": (of_row(lambda r: r.update(tokenizer="adasid")), "tokenizer says 'adasid', the records 'letter'"),
    "name in a record": (
        of_record(LETTER, lambda t: t["tokenizer"].update(name="adasid")),
        "which is not what its name says",
    ),
    "name of a baseline": (
        of_row(lambda r: r.update(tokenizer="hstu + din"), "sasrec + din"),
        "tokenizer says 'hstu + din'",
    ),
    "commit of a run": (of_row(lambda r: r["runs"][0].update(git_commit="1" * 40)), "seed, commit or command of"),
    "warning left out": (of_json("board.json", lambda t: t["tables"][0].update(notes=[])), f"a warning of {CONTROL} is not"),
    "results": (
        of_users("retrieval", "item_better", lambda x: np.zeros_like(x)),
        "item_recall_at_10 of retrieval is",
    ),
    "results without their hash": (
        lambda board: (board / "records" / LETTER / "users_ranking.parquet").write_bytes(b"PAR1"),
        "not the hash on its record",
    ),
    "impossible results": (of_users("retrieval", "item_tied", lambda x: np.zeros_like(x)), "impossible ranks"),
    "scores": (of_users("ranking", "score", lambda x: -x), "auc of ranking is"),
    "NaN": (of_users("ranking", "score", lambda x: x * np.float32(np.nan)), "no finite number"),
    "units": (other_units, "auc of ranking is"),
    "record removed": (without_seed, "no record of beauty-letter-s1-002 is here"),
    "record removed with its row": (
        both(
            lambda board: shutil.rmtree(board / "records" / BASELINE),
            of_json(
                "board.json",
                lambda t: t["tables"][0].update(rows=[r for r in t["tables"][0]["rows"] if r["kind"] != "baseline"]),
            ),
        ),
        "board.md: a table has 5 rows, wanted 4",
    ),
    "row removed": (of_json("board.json", lambda t: t["tables"][0]["rows"].pop()), f"{CONTROL} stands in no row"),
    "record renamed": (renamed, f"its record is that of {LETTER}"),
    "record that is none": (
        lambda board: (board / "records" / LETTER / "record.json").write_text("{}"),
        "no record of format 1",
    ),
    "file added": (lambda board: (board / "keys.csv").write_text("B0001"), "keys.csv: belongs to no record, table or plot"),
    "file added to a run": (
        lambda board: (board / "records" / LETTER / "sids.parquet").write_bytes(b"keys"),
        "sids.parquet: belongs to no record",
    ),
    "record added": (
        lambda board: shutil.copytree(board / "records" / LETTER, board / "records" / "beauty-letter-s0-002"),
        "beauty-letter-s0-002: its record is that of",
    ),
    "page removed": (lambda board: (board / "board.tex").unlink(), "board.tex: missing"),
    "plot removed": (
        lambda board: next((board / "figures").iterdir()).unlink(),
        "missing, and a record, table or page names it",
    ),
    "tables removed": (lambda board: (board / "board.json").unlink(), "board.json"),
    "title": (of_json("board.json", lambda t: t.update(title="Large")), "its title is not that of the tables"),
    "markdown": (of_text("board.md", r"\*\*0\.5750\*\*", "**0.9750**"), "board.md: R@10 of letter is `**0.9750**"),
    "markdown bold": (of_text("board.md", r"\| 0\.3833 ", "| **0.3833** "), "board.md: R@10 of random"),
    "markdown name": (of_text("board.md", r"\| letter \|", "| adasid |"), "board.md: tokenizer of adasid"),
    "markdown caption": (of_text("board.md", "ties shuffled", "ties file"), "board.md: it does not say `- retrieval: mtp"),
    "CSV": (of_text("board.csv", r"0\.575,", "0.975,"), "board.csv: item_recall_at_10 of letter is '0.975'"),
    "LaTeX": (of_text("board.tex", r"textbf\{0\.5750\}", "textbf{0.9750}"), "board.tex: R@10 of letter"),
    "HTML": (
        of_text("board.html", '<span class="value best">0.5750', '<span class="value best">0.9750'),
        "board.html: R@10",
    ),
    "HTML to sort by": (of_text("board.html", 'data-sort="0.575"', 'data-sort="0.975"'), "board.html: R@10 of letter"),
    "HTML list": (of_text("board.html", r"<li>R@10 0\.5750", "<li>R@10 0.9750"), "the numbers listed under a row"),
    "HTML name": (of_text("board.html", "row-name.>letter<", 'row-name">adasid<'), "board.html: row of adasid"),
}


def test_the_kept_board_passes_and_says_its_version_and_date(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(board) == ""
    assert invoke(["leaderboard", "--check", str(board)]) == 0
    said = capsys.readouterr()
    assert "version 1.0, frozen 2026-11-28: as it was frozen. 6 records, 30 files; 228 metrics" in said.out
    assert "stale" not in said.out + said.err


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found_with_and_without_a_manifest_made_again(name: str, board: Path) -> None:
    forge, words = FORGERIES[name]
    forge(board)
    assert file_problems(read_manifest(board), files_of(board)[0])
    made_again(board)
    found = problems(board)
    assert words in found
    assert "the board was frozen" not in found


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (lambda b: (b.parent / "index.toml").unlink(), "no index beside the folder names this board"),
        (of_json(MANIFEST, lambda t: t.update(date="2026-11-27")), "not the manifest that the index names"),
        (of_text("../index.toml", 'date = "2026-11-28"', 'date = "2026-11-27"'), "is not that of the index"),
        (of_text("../index.toml", 'version = "1.0"', 'version = "1.1"'), "is not that of the index"),
        (of_json(MANIFEST, lambda t: t["files"].pop("board.md")), "board.md: not there when the board was frozen"),
        (of_json(MANIFEST, lambda t: t["records"].update(count=5)), "number, release or commits"),
        (of_json(MANIFEST, lambda t: t.update(protocol="beauty")), "the protocol is not that of the records"),
        (lambda b: (b / "board.tex").rename(b / "t") and (b / "board.tex").symlink_to("t"), "neither a file nor a folder"),
    ],
)
def test_manifest_and_index_must_agree(board: Path, forge: Callable[[Path], None], words: str) -> None:
    forge(board)
    assert words in problems(board)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "frozen.json"),
        ("[]", "wanted the manifest"),
        ('{"format": 2}', "format"),
        (None, "leads out of the board"),
    ],
)
def test_a_hostile_manifest_is_refused(board: Path, text: str | None, words: str) -> None:
    tree = json.loads((board / MANIFEST).read_text())
    tree["files"]["../../etc/passwd"] = tree["files"]["board.md"]
    (board / MANIFEST).write_text(json.dumps(tree) if text is None else text)
    with pytest.raises(InputError, match=words):
        check_frozen(board)


@pytest.mark.parametrize("text", ["[", '["../x"]\nversion = "1.0"\n', '[small]\nversion = "one"\n', "small = 3\n"])
def test_a_damaged_index_is_refused(board: Path, text: str) -> None:
    (board.parent / "index.toml").write_text(text)
    with pytest.raises(InputError, match="index"):
        check_frozen(board)


def test_a_board_whose_manifest_was_taken_away_is_still_frozen(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (board / MANIFEST).unlink()
    assert invoke(["leaderboard", "--check", str(board)]) == 1
    assert "frozen.json: missing; the index says it is version 1.0 of 2026-11-28" in capsys.readouterr().err


def test_what_no_check_can_find(board: Path) -> None:
    """Stated in docs/boards.md: what no table shows and no per-user result determines stands on the manifest alone."""
    of_record(LETTER, lambda t: t["tokenizer"].update(deviations=["none"]))(board)
    assert "record.json: changed since the board was frozen" in problems(board)
    made_again(board)
    assert problems(board) == ""


def test_publishing_into_a_frozen_board_is_refused(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(board)
    words = ["leaderboard", "--publish", "small", "--from", str(board / "records"), "--out", str(board)]
    assert invoke(words) == 2
    said = capsys.readouterr().err
    assert "frozen as version 1.0 of 2026-11-28" in said and "publish the next version beside it" in said
    (board / MANIFEST).unlink()  # the index still says so
    with pytest.raises(InputError, match="frozen as version 1.0"):
        publish(BoardSettings("x"), read_runs(board / "records"), board)
    assert files_of(board) == before


def test_freezing_again_changes_nothing_and_other_content_is_refused(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (board / MANIFEST, board.parent / "index.toml")}
    assert invoke(["leaderboard", "--freeze", str(board), "--version", "1.0"]) == 0
    assert "was frozen before" in capsys.readouterr().out
    for missing in before:  # what a crash between the two files leaves is completed
        missing.unlink()
        assert invoke(["leaderboard", "--freeze", str(board), "--version", "1.0"]) == 0
        assert {path: path.read_bytes() for path in before} == before
    assert invoke(["leaderboard", "--freeze", str(board), "--version", "1.1"]) == 2
    assert "under another version" in capsys.readouterr().err
    of_record(LETTER, lambda t: t["tokenizer"].update(deviations=["none"]))(board)
    assert invoke(["leaderboard", "--freeze", str(board), "--version", "1.0"]) == 2
    assert "frozen with other content" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_board_published_today_can_be_frozen(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When pages or keys of today no longer fit the rules of format 1, write those of a next format beside them."""
    living = board.parent / "living"
    store = read_runs(PUBLISHED / "synthetic" / "records")  # with the default cut-offs, whose columns format 1 has
    few = tuple(r for r in store.runs if r.record.seed == 0 and r.record.run_id.split("-")[1] in ("opq", "random", "letter"))
    publish(BoardSettings("Living"), replace(store, runs=few), living)
    assert not is_frozen(living)
    page = (living / "board.md").read_text()
    number = re.findall(r"0\.[1-9]\d{3}", page)[0]
    (living / "board.md").write_text(page.replace(number, "0.9750"))
    for version, words in (("1.0", "problems"), ("one", "wanted a version such as 1.0"), (None, "no version")):
        options = [] if version is None else ["--version", version]
        assert invoke(["leaderboard", "--freeze", str(living), *options]) == 2
        assert words in capsys.readouterr().err
    assert not (living / MANIFEST).exists() and entry_of(living) is None
    (living / "board.md").write_text(page)
    before = files_of(living)
    assert invoke(["leaderboard", "--freeze", str(living), "--version", "2.0"]) == 0
    assert files_of(living) == before and read_index(board.parent).keys() == {"living", "small"}
    assert invoke(["leaderboard", "--check", str(board.parent)]) == 0
    assert capsys.readouterr().out.count("as it was frozen") == 2


def test_check_looks_at_no_plugin_and_renders_nothing(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("code of today was asked")

    for place in (
        "sidbench.benchmark.commands.leaderboard.installed_versions",
        "sidbench.benchmark.commands.leaderboard.stale_reasons",
        "sidbench.leaderboards.publish.publishing.rendered",
        "sidbench.leaderboards.publish.publishing.build_tables",
        "sidbench.leaderboards.publish.publishing.number_problems",
        "sidbench.leaderboards.publish.publishing.key_problems",
    ):
        monkeypatch.setattr(place, refuse)
    assert invoke(["leaderboard", "--check", str(board)]) == 0
