"""Records, manifests, presets, settings and run ids that try to reach code, files or secrets: each is refused.

A module of ours on ``sys.path`` leaves a file behind when it is imported; a named pipe blocks for ever when it is read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.commands.local_data import dataset_at_hand
from sidbench.benchmark.config.compose import compose_run
from sidbench.benchmark.config.presets import read_preset
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.plugins.registry import KINDS, installed
from sidbench.benchmark.runtime.reporter import Notes, Reporter
from sidbench.benchmark.store.records import RunRecord, UnreadableRecord, read_record
from sidbench.benchmark.store.serialization import load_json, save_json
from sidbench.benchmark.store.stage_cache import Stage, StageCache
from sidbench.datasets.custom import Custom, CustomConfig
from sidbench.datasets.foundation.errors import InputError, printable
from sidbench.datasets.foundation.hashing import hash_json
from sidbench.datasets.foundation.paths import inside, leaves_folder
from sidbench.datasets.foundation.strict_json import parse_json
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.leaderboards.board.store import read_runs, read_users

NAMES_OUT = ("../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "..\\evil", "", "a\0b", "\\\\host\\share\\x")


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there at the end."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists(), "a stranger's code ran"


FOREIGN = (
    "os.system",
    "os:system",
    "../../x",
    "sidbench_evil_module",
    "sidbench_evil_module:Evil",
    "sidbench.benchmark.cli.app",
    "__init__",
    "base",
    "/etc/passwd",
    "",
)


@pytest.fixture
def evil_module(tmp_path: Path, sentinel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module on ``sys.path`` that tells when it is imported."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sidbench_evil_module.py").write_text(
        f"from pathlib import Path\nPath({str(sentinel)!r}).write_text('ran')\nclass Evil: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "path"))


@pytest.mark.parametrize("name", FOREIGN)
def test_a_plugin_name_reaches_registered_plugins_only(name: str, evil_module: None) -> None:
    for kind in KINDS:
        with pytest.raises(InputError, match="unknown"):
            installed().load(kind, name)
    with pytest.raises(InputError, match="unknown"):
        compose_run(RunConfig(tokenizer=name, recommenders=()))


def a_record(**changes: Any) -> dict[str, Any]:
    plugin = {"name": "rqkmeans", "config": {}}
    task = {
        "task": "retrieval",
        "recommender": {"name": "mtp", "config": {}},
        "protocol": {},
        "users_hash": "",
        "comparability_key": "k",
        "metrics": {"item_recall_at_10": {"value": 0.5, "n": 2}},
        "users_file": "users_retrieval.parquet",
        "protocol_key": "p",
    }
    return {
        "schema_version": 1,
        "run_id": "r1",
        "created": "2025-01-01",
        "budget": "smoke",
        "seed": 0,
        "dataset": {"name": "synthetic", "config": {}, "content_hash": "d", "counts": {}},
        "features": None,
        "tokenizer": plugin,
        "sids": {
            "code_length": 1,
            "sizes": [2],
            "ordered": True,
            "mean_active": 1.0,
            "content_hash": "s",
            "file": "sids.parquet",
            "metrics": {},
        },
        "tasks": [task],
        "comparability_key": "k",
        "protocol_key": "p",
        "stages": [],
        "environment": {
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "allocator": "",
            "python": "",
            "versions": {},
            "git_commit": "",
            "git_dirty": False,
            "code": "",
            "command_line": [],
            "platform": "",
        },
    } | changes


@pytest.mark.parametrize("name", FOREIGN)
def test_a_record_names_no_module(name: str, evil_module: None, home: Path) -> None:
    dataset = {"name": name, "config": {"x": 1}, "content_hash": "d", "counts": {}}
    found = dataset_at_hand(RunRecord.model_validate(a_record(dataset=dataset)), None)
    assert isinstance(found, str) and "unknown dataset" in found


def test_a_record_starts_no_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIDBENCH_OFFLINE", raising=False)
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: home / "cache")
    config = {"hub": "stranger/data", "category": "C"}
    dataset = {"name": "amazon2023", "config": config, "content_hash": "d", "counts": {}}
    found = dataset_at_hand(RunRecord.model_validate(a_record(dataset=dataset)), None)
    assert isinstance(found, str) and "forbids the Hub" in found
    dataset["config"] = {"hub": "../../stranger", "category": "C"}
    assert "setting hub" in str(dataset_at_hand(RunRecord.model_validate(a_record(dataset=dataset)), None))


PRESET = 'source = "S"\n[tokenizer]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('_target_ = "os.system"', "unknown setting"),
        ('inputs = "${oc.env:HOME}"', "refers to another value"),
        ('inputs = "${oc.decode:${oc.env:HOME}}"', "refers to another value"),
        ('inputs = "???"', "refers to another value"),
        ('inputs = ["a", "${hydra:runtime.cwd}"]', "refers to another value"),
        ('inputs = {_target_ = "os.system"}', "Cannot|cannot"),
        ("code_length = 9999999999999999999999", "code_length"),
        ("learning_rate = nan", "learning_rate"),
    ],
)
def test_a_preset_sets_values_and_nothing_else(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/a-secret-place")
    path = tmp_path / "rqkmeans" / "default" / "x.toml"
    path.parent.mkdir(parents=True)
    path.write_text(PRESET + text + "\n")
    with pytest.raises(InputError, match=said) as caught:
        compose_run(RunConfig(tokenizer="rqkmeans", recommenders=()), preset=read_preset(path).groups)
    assert "a-secret-place" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "features.text_path=${oc.env:HOME}",
        "features.text_path='a${oc.env:HOME}'",
        "tokenizer._target_=os.system",
        "+tokenizer._target_=os.system",
        "hydra.run.dir=/tmp/x",
        "hydra/launcher=x",
        "hydra.searchpath=[/tmp]",
        "tokenizer@x=rqvae",
        "features.text_path=???",
    ],
)
def test_a_setting_is_its_value(text: str) -> None:
    with pytest.raises(InputError):
        compose_run(RunConfig(tokenizer="rqkmeans", recommenders=()), [text])


# -- files that must not be touched ------------------------------------------------------------------------------------
def test_names_that_leave_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to("/etc")
    (folder / "near").symlink_to(folder / "file")
    for name in (*NAMES_OUT, "link/passwd", "link"):
        with pytest.raises(InputError, match="outside its folder"):
            inside(folder, name, "the record")
    assert all(leaves_folder(name) for name in NAMES_OUT)
    assert inside(folder, "a/b.parquet", "x") == folder / "a/b.parquet" and inside(folder, "near", "x") == folder / "near"


@pytest.mark.parametrize("name", [*NAMES_OUT[:4], "../../etc/passwd", ".hidden", "a/b", "a b\n", "é"])
def test_a_record_names_files_of_its_own_folder(name: str, tmp_path: Path) -> None:
    task = {**a_record()["tasks"][0], "users_file": name}
    sids = {**a_record()["sids"], "file": name}
    for changes in ({"tasks": [task]}, {"sids": sids}, {"run_id": name}):
        with pytest.raises(UnreadableRecord, match="no plain file name"):
            read_record(json.dumps(a_record(**changes)))
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "record.json").write_text(json.dumps(a_record(tasks=[task])))
    store = read_runs(tmp_path)
    assert not store.runs and "no plain file name" in store.skipped[0].reason
    assert read_record(json.dumps(a_record())).run_id == "r1"


def test_a_per_user_file_that_is_a_link(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "runs" / "r1").mkdir(parents=True)
    pq.write_table(pa.table({"user": ["a"], "item_recall_at_10": [1.0]}), tmp_path / "other.parquet")
    (tmp_path / "runs" / "r1" / "users_retrieval.parquet").symlink_to(tmp_path / "other.parquet")
    (tmp_path / "runs" / "r1" / "record.json").write_text(json.dumps(a_record()))
    found = read_users(read_runs(tmp_path / "runs").runs[0], "retrieval", {"item_recall_at_10"})
    assert isinstance(found, str) and "outside its folder" in found


@pytest.mark.parametrize(
    "change",
    [
        '"value": NaN',
        '"value": Infinity',
        '"value": 1e999',
        '"value": 0.5, "value": 0.9',
        '"value": "\\ud800"',
        '"value": ' + "[" * 100_000,
    ],
)
def test_ambiguous_and_poisonous_records_are_refused(change: str) -> None:
    with pytest.raises(UnreadableRecord):
        read_record(json.dumps(a_record()).replace('"value": 0.5', change))


def test_a_manifest_names_files_of_its_own_entry(tmp_path: Path) -> None:
    """A named pipe outside would block the reader for ever."""
    os.mkfifo(tmp_path / "pipe")
    stage: Stage[int] = Stage(
        "s",
        {"x": 1},
        lambda _: 7,
        lambda value, folder: save_json(folder / "v.json", value),
        lambda folder: load_json(folder / "v.json"),
    )
    root = tmp_path / "cache"
    for name in ("../../../pipe", str(tmp_path / "pipe"), "v.json/../../../../pipe"):
        StageCache(root, Reporter(), refresh=True).run(stage)
        path = root / "s" / stage.key / "stage.json"
        manifest = json.loads(path.read_text())
        del manifest["checksum"]
        manifest["files"][name] = "0" * 64
        path.write_text(json.dumps({**manifest, "checksum": hash_json(manifest)}))
        reporter = Notes()
        assert StageCache(root, reporter).run(stage) == 7
        assert "outside" in reporter.warnings[0] and "set aside" in reporter.warnings[0]


@pytest.mark.parametrize("modality", ["../../../etc/x", "/etc/x", "a/b", "", "Text"])
def test_an_imported_data_set_names_modalities_and_no_paths(modality: str, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps({"format": 1, "embeddings": {modality: 4}, "warnings": []}))
    with pytest.raises(InputError, match="format of"):
        Custom(CustomConfig(path=str(tmp_path))).load(LocalFiles(None, {}))


@pytest.mark.parametrize("text", ["../../etc/passwd", "..", "/etc/passwd", "a/b", ".", "\x1b[2J"])
def test_run_ids_are_no_paths(text: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "runs" / "r1").mkdir(parents=True)
    (home / "runs" / "r1" / "record.json").write_text(json.dumps(a_record()))
    for command in (["sids", "inspect", text], ["runs", "show", text], ["runs", "rm", "--yes", text]):
        assert invoke(command) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and "root:" not in said.out + said.err and "\x1b" not in said.err
    assert (home / "runs" / "r1" / "record.json").is_file()


def test_errors_and_tables_move_no_cursor() -> None:
    assert str(InputError("a\x1b[2Jb", got="\x07\x9b1m\ud800")) == "a\\x1b[2Jb; got \\x07\\x9b1m\\ud800."
    assert printable("plain é 漢\n\tx") == "plain é 漢\n\tx"


def test_strict_json() -> None:
    assert parse_json('{"a": [1, 2.5, "\\ud83d\\ude00", null]}', "x") == {"a": [1, 2.5, "\U0001f600", None]}
    for text in (
        '{"a": 1, "a": 1}',
        "NaN",
        "[-Infinity]",
        "1e400",
        '"\\ud800"',
        '{"\\udc00": 1}',
        "[" * 10_000,
        "1" * 5000,
        "",
        "{'a': 1}",
    ):
        with pytest.raises(InputError, match="cannot read the file"):
            parse_json(text, "the file")


def test_looking_at_strangers_files_imports_no_plugin(tmp_path: Path) -> None:
    """Reading a table of a stranger runs none of the project's plugins either."""
    (tmp_path / "t.json").write_text("[[1], [2]]")
    code = (
        "import sys\nfrom sidbench.benchmark.cli.app import invoke\n"
        f"assert invoke(['sids', 'inspect', {str(tmp_path / 't.json')!r}]) == 0\n"
        "assert not [m for m in sys.modules if m.startswith('sidbench.tokenizers.rq')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
