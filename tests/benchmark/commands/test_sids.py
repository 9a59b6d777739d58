"""`bench sids`: what is shown, moved and compared is what the tables hold, and an imported run equals the original."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.sids.difference import difference
from sidbench.benchmark.sids.inspection import item_report, largest_groups, table_report
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.sid_tables.files import WRITE_FORMATS, read_table
from sidbench.tokenizers.sid_tables.table import from_matrix

CODES = np.array([[0, 0], [0, 1], [1, 1], [1, 1]], np.int32)
KEYS = ("a", "b", "c", "d")
RUN = ["run", "--dataset", "synthetic", "--budget", "smoke", "--threads", "1", "--recommender", "mtp", "--json"]


def table(codes: Any = CODES, keys: tuple[str, ...] = KEYS) -> Any:
    return from_matrix(np.asarray(codes), keys[: len(codes)], "test")


# -- inspection --------------------------------------------------------------------------------------------------------
def test_a_table_s_numbers_are_the_page_s_example() -> None:
    report = table_report(table(), ordered=True)
    assert report["items"] == 4 and report["distinct_sids"] == 3
    assert report["metrics"]["entropy"] == pytest.approx(0.6277, abs=1e-4)
    assert report["metrics"]["collision_rate"] == 0.25 and "entropy_traffic" not in report["metrics"]
    assert report["largest_groups"] == [{"codes": [1, 1], "items": 2, "first": ["c", "d"]}]
    assert "prefixes_by_position" not in table_report(table(), ordered=False)["vectors"]
    assert largest_groups(table([[0], [1]])) == []


def test_an_item_names_those_that_share_its_codes() -> None:
    ordered = item_report(table(), "b", ordered=True)
    assert [(p["part"], p["others"], p["first"]) for p in ordered["shared"]] == [("first 1", 1, ["a"]), ("first 2", 0, [])]
    free = item_report(table(), "b", ordered=False)
    assert [(p["part"], p["first"]) for p in free["shared"]] == [
        ("position 1", ["a"]),
        ("position 2", ["c", "d"]),
        ("all", []),
    ]
    with pytest.raises(InputError, match="did you mean 'item-10'"):
        item_report(table(CODES, ("item-10", "x", "y", "z")), "item10", ordered=True)


# -- differences -------------------------------------------------------------------------------------------------------
def test_a_hand_worked_difference() -> None:
    after = table([[1, 1], [0, 1], [0, 1], [0, 0], [0, 1]], ("d", "a", "b", "c", "new"))
    found = difference(table(), after, ordered=True)
    assert found["items"] == {"common": 4, "added": 1, "removed": 0}
    # a (0,0)->(0,1), b (0,1)->(0,1), c (1,1)->(0,0), d (1,1)->(1,1)
    assert found["moved"] == 0.5 and found["churn_by_position"] == [0.25, 0.5]
    assert found["prefix_equal"] == [0.75, 0.5] and found["mean_common_prefix"] == 1.25
    assert found["collisions"] == {
        "pairs_before": 1,
        "pairs_after": 1,
        "pairs_kept": 0,
        "jaccard": 0.0,
        "items_entered": 2,
        "items_left": 2,
        "items_stayed": 0,
    }
    assert found["agreement"]["ami"][0] == pytest.approx(adjusted_mutual_info_score([0, 0, 1, 1], [0, 0, 0, 1]))


def test_renaming_codes_moves_every_item_and_changes_no_cluster() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 6, (200, 3))
    keys = tuple(map(str, range(200)))
    renamed = np.stack([(c + 1 + p) % 6 for p, c in enumerate(codes.T)], axis=1)
    for ordered in (True, False):
        found = difference(table(codes, keys), table(renamed, keys), ordered)
        assert found["moved"] == 1 and found["agreement"]["ami"] == pytest.approx([1, 1, 1])
        assert found["collisions"]["jaccard"] == 1 and ("prefix_equal" in found) == ordered
    same = difference(table(codes, keys), table(codes, keys), ordered=True)
    assert same["moved"] == 0 and same["mean_common_prefix"] == 3 and same["collisions"]["items_entered"] == 0
    noise = difference(table(codes, keys), table(generator.permutation(codes), keys), ordered=True)
    assert abs(noise["agreement"]["ami"][0]) < 0.05


def test_tables_of_different_lengths_and_catalogues() -> None:
    found = difference(table(), table([[0], [0]]), ordered=True)
    assert found["items"] == {"common": 2, "added": 0, "removed": 2} and found["moved"] is None
    assert found["churn_by_position"] == [0.0] and found["code_length"] == [2, 1]
    with pytest.raises(InputError, match="without a common item"):
        difference(table(), table([[0]], ("zz",)), ordered=True)


# -- the commands on a real run ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder with one smoke run of opq."""
    folder = tmp_path_factory.mktemp("sids") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDBENCH_HOME", str(folder))
        assert invoke([*RUN, "--tokenizer", "opq", "tokenizer.codebook_size=16"]) == 0
        yield folder


def record_of(home: Path, name: str) -> RunRecord:
    paths = sorted((home / "runs").glob(f"*{name}*/record.json"))
    return RunRecord.model_validate_json(paths[-1].read_text())


def bench(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert invoke(list(words)) == code
    told = capsys.readouterr()
    return told.out, told.err


def test_inspect_a_run(run_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of(run_home, "opq")
    assert record.sids is not None
    report = json.loads(bench(capsys, "sids", "inspect", "synthetic-opq", "--json")[0])
    assert report["source"] == record.run_id and report["sizes"] == list(record.sids.sizes) and not report["ordered"]
    for name in ("entropy", "utilisation", "collision_rate", "expected_group"):
        assert report["metrics"][name] == pytest.approx(record.sids.metrics[name].value)
    assert report["alignment"]["knn_overlap_text"] == record.sids.metrics["knn_overlap_text"].value
    assert set(report["head_and_tail"]) >= {"entropy_head", "entropy_tail", "items_in_collision_tail"}
    assert "knn_overlap_text" in bench(capsys, "sids", "inspect", record.run_id)[0]


def test_inspect_an_item_with_its_title(run_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(bench(capsys, "sids", "inspect", "synthetic-opq", "--item", "item005", "--json")[0])
    sids = read_table(run_home / "runs" / record_of(run_home, "opq").run_id / "sids.parquet")
    assert sids.keys is not None and report["codes"] == sids.codes[sids.keys.index("item005")].tolist()
    assert report["title"] and report["categories"]
    assert "item005: " in bench(capsys, "sids", "inspect", "synthetic-opq", "--item", "item005")[0]


def test_an_exported_run_runs_again_with_equal_sids(
    run_home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    original = record_of(run_home, "opq")
    assert original.sids is not None
    out, _ = bench(capsys, "sids", "export", "synthetic-opq", "--format", "csv", "--out", str(tmp_path / "t.csv"))
    settings = [word for word in shlex.split(out.split("run it: ")[1]) if word.startswith("tokenizer.")]
    bench(capsys, *RUN, "--tokenizer", "imported", *settings)
    again = record_of(run_home, "imported")
    assert again.sids is not None and again.sids.content_hash == original.sids.content_hash
    assert again.sids.ordered is False and again.tokenizer is not None and again.tokenizer.n_parameters == 0
    names = [n for n in original.sids.metrics if not n.startswith(("nmse", "cos", "kendall", "seed_like", "probe"))]
    for name in names:
        assert again.sids.metrics[name] == original.sids.metrics[name], name
    assert again.tasks[0].metrics == original.tasks[0].metrics  # the recommender saw the same codes
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("\n", " \n"))  # other bytes, equal codes
    bench(capsys, *RUN, "--tokenizer", "imported", *settings)
    assert len(list((run_home / "runs").glob("*imported*"))) == 2  # the path is the same, the file is not


@pytest.mark.parametrize("form", WRITE_FORMATS)
def test_export_and_import_give_the_table_back(
    form: str, run_home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    exported, back = tmp_path / f"t.{'json' if form == 'letter' else form}", tmp_path / "back.parquet"
    _, told = bench(capsys, "sids", "export", "synthetic-opq", "--format", form, "--out", str(exported))
    assert ("codebook sizes are left out" in told) == (form not in ("parquet", "npz"))
    out, _ = bench(
        capsys,
        "sids",
        "import",
        str(exported),
        "--dataset",
        "synthetic",
        "--budget",
        "smoke",
        "--unordered",
        "--sizes",
        ",".join(["16"] * 6),
        "--out",
        str(back),
    )
    assert "200 of 200 items" in out and "--tokenizer imported --dataset synthetic" in out
    original = read_table(run_home / "runs" / record_of(run_home, "opq").run_id / "sids.parquet")
    found = read_table(back)
    assert found.keys == original.keys and np.array_equal(found.codes, original.codes)
    assert found.sizes.tolist() == [16] * 6 and found.ordered is False
    report = json.loads(bench(capsys, "sids", "diff", "synthetic-opq", str(back), "--json")[0])
    assert report["moved"] == 0 and report["agreement"]["ami"] == pytest.approx([1] * 6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "nothing-like-it"], "unknown run or SID file"),
        (["inspect", "synthetic-opq", "--item", "item5"], "did you mean"),
        (["export", "synthetic-opq", "--format", "cvs", "--out", "x"], "did you mean 'csv'"),
        (["diff", "synthetic-opq", "{ordered}"], "two tables of different kinds"),
        (["import", "{ordered}", "--dataset", "synthetic", "--out", "x"], "no item of the catalogue"),
        (["import", "{ordered}", "--dataset", "syntetic", "--out", "x"], "did you mean 'synthetic'"),
        (["import", "{ordered}", "--dataset", "synthetic", "--out", "x", "--sizes", "a"], "--sizes"),
    ],
)
def test_faults_are_one_paragraph(
    words: list[str], said: str, run_home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"a": [1], "b": [2]}')
    _, told = bench(capsys, "sids", *(w.replace("{ordered}", str(path)) for w in words), code=2)
    assert said in told and told.count("error: ") == 1 and "Traceback" not in told


def test_a_half_typed_run_id_must_be_one_run(run_home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    twin = run_home / "runs" / "synthetic-opq-s0-twin"
    twin.mkdir()
    raw = json.loads((run_home / "runs" / record_of(run_home, "opq").run_id / "record.json").read_text())
    (twin / "record.json").write_text(json.dumps(raw | {"run_id": twin.name}))
    try:
        assert "2 runs" in bench(capsys, "sids", "inspect", "synthetic-opq", code=2)[1]
        (twin / "record.json").write_text("{")
        assert "readable record" in bench(capsys, "sids", "inspect", "synthetic-opq-s0-twin", code=2)[1]
    finally:
        (twin / "record.json").unlink()
        twin.rmdir()


def test_looking_at_a_file_needs_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"a": [1, 2], "b": [3]}')
    code = (
        "import sys\nfrom sidbench.benchmark.cli.app import invoke\n"
        f"codes = [invoke(['sids', 'inspect', {str(path)!r}]), invoke(['sids', 'diff', {str(path)!r}, {str(path)!r}])]\n"
        "sys.exit(1 if 'torch' in sys.modules or codes != [0, 0] else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
