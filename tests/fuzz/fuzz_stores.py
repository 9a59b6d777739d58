"""The doors of what runs leave behind and of settings: records, per-user files, checkpoints, cache entries, presets,
overrides and plugin sources."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from fuzz_parser import Parser

from sidbench.benchmark.config.compose import compose_run
from sidbench.benchmark.config.presets import read_preset
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.plugins.registry import read_plugin
from sidbench.benchmark.runs.replay import replay
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.runtime.training import Training
from sidbench.benchmark.sids.inspection import record_report
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    FeaturesRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    StageRecord,
    TaskRecord,
    UnreadableRecord,
    read_record,
)
from sidbench.benchmark.store.serialization import (
    load_dataset,
    load_json,
    load_ranks,
    load_resolved,
    load_sids,
    load_state,
    save_dataset,
    save_json,
    save_ranks,
    save_resolved,
    save_state,
)
from sidbench.benchmark.store.stage_cache import Stage, StageCache
from sidbench.datasets.foundation.hashing import canonical_json, hash_json
from sidbench.datasets.foundation.runtime import TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.synthetic import Synthetic
from sidbench.leaderboards.board.compact import compact
from sidbench.leaderboards.board.store import identity, newest, read_runs, read_users
from sidbench.leaderboards.publish.publishing import read_settings
from sidbench.recommenders.base import TargetRanks
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.collisions.base import CollisionReport, Resolved

# What ``StageCache`` takes as a sign of damage: it sets the entry aside and computes it again.
SET_ASIDE = (OSError, ValueError, LookupError, TypeError, AttributeError)


# -- records -----------------------------------------------------------------------------------------------------------
def record(run_id: str = "synthetic-rqkmeans-s0-0123456789ab") -> RunRecord:
    """A record as runs write it, small."""
    plugin = PluginRecord(
        name="rqkmeans",
        config={"code_length": 3, "codebook_size": 8},
        code="c",
        diagnostics={"d": 0.5},
        curves={"fit_loss": (1.0, 0.5)},
    )
    return RunRecord(
        run_id=run_id,
        created="2025-01-01T00:00:00+00:00",
        budget="smoke",
        seed=0,
        dataset=DatasetRecord(name="synthetic", config={"n_items": 50}, content_hash="d", counts={"users": 3, "items": 9}),
        features=FeaturesRecord(
            config={},
            provenance="p",
            dims={"text": 4},
            coverage={"text": 1.0},
            absent={"vision": "none"},
            richness_proxy="count",
        ),
        tokenizer=plugin,
        control=False,
        sids=SidsRecord(
            code_length=3,
            sizes=(8, 8, 8),
            ordered=True,
            mean_active=3.0,
            content_hash="s",
            file="sids.parquet",
            metrics={"collision_rate": Metric(value=0.1, n=9)},
            vectors={"utilisation": (0.5, 0.5, 1.0)},
        ),
        tasks=(
            TaskRecord(
                task="retrieval",
                recommender=PluginRecord(name="mtp", config={}),
                protocol={"split": "x", "ties": "y"},
                metrics={"item_recall_at_10": Metric(value=0.5, n=3, low=0.4, high=0.6)},
                counts={"users": 3},
                users_file="users_retrieval.parquet",
                users_hash="h",
                comparability_key="k",
                protocol_key="p",
            ),
        ),
        comparability_key="k",
        protocol_key="p",
        stages=(
            StageRecord(name="tokenizer", key="a", cached=False, wall_seconds=2.0, cpu_seconds=1.0, peak_memory_bytes=1),
        ),
        environment=EnvironmentRecord(
            device="cpu",
            precision="fp32",
            threads=1,
            allocator="",
            python="3.11",
            versions={},
            git_commit="g",
            git_dirty=False,
            code="c",
            command_line=("bench", "run"),
            platform="x",
        ),
        warnings=("w",),
    )


def _users() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"user": ["a", "b", "c"], "target": ["x", "y", "z"], "item_recall_at_10": [1.0, 0.0, 0.5]}).write_parquet(
        buffer
    )
    return buffer.getvalue()


def _records(path: Path) -> None:
    store = read_runs(path.parent.parent)
    if len(store.runs) + len(store.skipped) != 1:
        raise AssertionError("a record was lost")
    newest(store.runs)
    for run in store.runs:
        identity(run.record)
        record_report(run.record)
        for task in run.record.tasks:
            read_users(run, task.task, {"item_recall_at_10"})
        run.record.model_dump_json().encode()


def _per_user(path: Path) -> None:
    run = read_runs(path.parent.parent).runs[0]
    columns = read_users(run, "retrieval", {"item_recall_at_10"})
    if not isinstance(columns, str):
        for name, column in columns.items():
            if name != "user":
                column.astype(np.float64)
        if len({len(column) for column in columns.values()}) != 1:
            raise AssertionError("columns of different lengths")


def _replayed(path: Path) -> None:
    """What `bench reproduce` makes of a record before it runs anything."""
    again = replay(read_record(path.read_text(encoding="utf-8")))
    compose_run(again.config, preset=again.groups)


def _replayable() -> list[bytes]:
    found = record()
    plain = found.model_copy(
        update={
            "features": None,
            "dataset": found.dataset.model_copy(update={"config": {"n_items": 50}}),
            "tasks": (),
            "run": json.loads(canonical_json(RunConfig(tokenizer="rqkmeans", recommenders=()))),
        }
    )
    return [plain.model_dump_json(indent=1).encode()]


FULL = {
    "user": ["a", "b"],
    "target": ["x", "y"],
    **{f"{view}_{end}": [1, 4] for view in ("rank", "sid_rank", "masked_rank") for end in ("low", "high")},
    **{f"in_{name}": [name == "head", name == "tail"] for name in ("head", "torso", "tail", "cold")},
}


@cache
def _published() -> dict[str, bytes]:
    """A board: a record, its compact per-user results, and the units these belong to."""
    entry = record().tasks[0]
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "full.parquet", Path(place) / "users.parquet"
        pl.DataFrame(FULL).write_parquet(source)
        compact(entry, source, target, Path(place) / "units")
        units = next((Path(place) / "units").iterdir())
        return {
            f"{BOARD_RUN}/record.json": record().model_dump_json().encode(),
            f"{BOARD_RUN}/users_retrieval.parquet": target.read_bytes(),
            f"units/{units.name}": units.read_bytes(),
        }


def _units(path: Path) -> None:
    """The units file of the board, whose name only the board knows, with other bytes."""
    next((path.parent / "units").glob("*.parquet")).write_bytes(path.read_bytes())
    _board(path.parent / BOARD_RUN / "users_retrieval.parquet")


def _board(path: Path) -> None:
    run = read_runs(path.parents[1]).runs[0]
    columns = read_users(run, "retrieval", {"item_recall_at_10", "stratum"})
    if not isinstance(columns, str) and len({len(column) for column in columns.values()}) != 1:
        raise AssertionError("columns of different lengths")


# -- checkpoints and cache entries -------------------------------------------------------------------------------------
def _plan() -> TrainingPlan:
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.zero_()
    return TrainingPlan(
        "fuzz",
        model,
        2,
        2,
        batch=lambda epoch, index: torch.ones(4, 2),
        loss=lambda batch, step: model(batch).square().mean(),
        rng=Rng(0),
        validate=lambda: 1.0,
    )


@cache
def _accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def _restore(path: Path) -> None:
    training = Training(_plan(), _accelerator(), Reporter(), path)
    training.restore()
    training.path = None
    with suppress(RuntimeError):  # optimiser states of other shapes: torch's error, which the pipeline names
        training.run()


def _checkpoints() -> list[bytes]:
    made = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "c.safetensors"
        for stop in (True, False):
            training = Training(_plan(), _accelerator(), Reporter(), path)
            if stop:
                training.run()
            else:
                training.step, training.epoch, training.index = 1, 0, 1
                training.save()
            made.append(path.read_bytes())
            path.unlink()
    return made


def _rest_of_checkpoint(data: bytes) -> bytes:
    """A checkpoint whose plain values are ``data``: the header is JSON in which they stand as a text."""
    whole = _checkpoints_once()[0]
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["plain"] = data.decode("utf-8", "replace")
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + whole[8 + length :]


@cache
def _checkpoints_once() -> list[bytes]:
    return _checkpoints()


def _plain_of_checkpoints() -> list[bytes]:
    found = []
    for whole in _checkpoints_once():
        header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        found.append(header["__metadata__"]["plain"].encode())
    return found


STAGE: Stage[dict[str, int]] = Stage(
    "fuzz",
    {"x": 1},
    lambda _: {"x": 1},
    lambda value, folder: save_json(folder / "v.json", value),
    lambda folder: load_json(folder / "v.json"),
)
STAGE_FOLDER = f"cache/fuzz/{STAGE.key}"


def _stage(path: Path) -> None:
    """An entry with a strange manifest is used or computed again; the value is right on either way."""
    root = path.parent.parent.parent
    for other in path.parent.parent.iterdir():
        if other != path.parent:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    if StageCache(root, Reporter()).run(STAGE) != {"x": 1}:
        raise AssertionError("another value came out of the cache")
    path.parent.mkdir(exist_ok=True)
    save_json(path.parent / "v.json", {"x": 1})


VALUE = b'{"x": 1}'


@cache
def _manifest() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        StageCache(Path(place) / "cache", Reporter()).run(STAGE)
        return (Path(place) / STAGE_FOLDER / "stage.json").read_bytes()


def _unsealed() -> bytes:
    """Without the checksum over itself, which every mutation would break."""
    manifest = json.loads(_manifest())
    del manifest["checksum"]
    return json.dumps(manifest).encode()


def _sealed(data: bytes) -> bytes:
    """A mutated manifest with the checksum that a stranger would write over it; bytes that are no such thing as they are."""
    try:
        manifest = json.loads(data)
        if isinstance(manifest, dict) and "checksum" not in manifest:
            return json.dumps({**manifest, "checksum": hash_json(manifest)}).encode()
    except (ValueError, RecursionError):
        pass
    return data


@cache
def _entries() -> dict[str, bytes]:
    """The files of cached values, by their path below the entry."""
    sids = SemanticIds(
        np.array([[0, 1], [1, 0]], np.int32), np.array([2, 2], np.int32), True, None, {"text": np.ones((2, 3), np.float32)}
    )
    whole = np.arange(2, dtype=np.int64)
    ranks = TargetRanks(whole, whole + 1, whole, whole + 1, whole, whole + 1, whole.astype(np.float32), whole + 9, whole + 9)
    small = Synthetic.config_class(n_items=30, n_users=10, branching=(2, 2), picture_size=4)
    with tempfile.TemporaryDirectory() as place:
        save_resolved(Resolved(sids, CollisionReport(0.5, 0.5, notes=("n",))), Path(place))
        save_ranks(ranks, Path(place))
        save_state({"w": np.ones((2, 3), np.float32), "n": np.array(3, np.int64)}, {"steps": 3, "notes": ["a"]}, Path(place))
        save_dataset(Synthetic(small).load(LocalFiles(None, {})), Path(place))
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}


def _entry(name: str, load: Callable[[Path], object], share: float = 0.5) -> Parser:
    """One file of a cache entry whose checksums a stranger made right."""
    depth = name.count("/")

    def read(path: Path) -> None:
        load(path.parents[depth])

    return Parser(
        f"cached {name}",
        name,
        read,
        lambda: [_entries()[name]],
        lambda: _entries(),
        binary=not name.endswith(".json"),
        also=SET_ASIDE,
        share=share,
    )


# -- settings and plugins ----------------------------------------------------------------------------------------------
RUN = RunConfig(tokenizer="rqkmeans", recommenders=())
PRESETS = (
    b'source = "Paper, section 3"\nnote = "n"\n[tokenizer]\ncode_length = 4\ncodebook_size = 32\n',
    b'source = "S"\n\n[tokenizer]\ninputs = "content"\nlearning_rate = 1e-3\ntemperature = 0.07\n',
)
OVERRIDES = (
    b"tokenizer.codebook_size=32",
    b"features.text_path='a b'",
    b"run.cutoffs=[5,10]",
    b"dataset.branching=[2,2]",
    b"behaviour.epochs=10",
)
SOURCE = b'''"""Mine: a tokenizer."""

from sidbench.tokenizers.base import TokenizerInfo

INFO = TokenizerInfo(title="Mine", paper="none", year=2024, modalities=("text",), required=(), ordered=True)
'''


def _preset(path: Path) -> None:
    preset = read_preset(path)
    compose_run(RUN, preset=preset.groups)
    preset.label.encode()


def _override(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")  # as the command line hands over strange bytes
    composed = compose_run(RUN, [text])
    if "${" in text or os.environ["HOME"] in str(composed):
        raise AssertionError("a setting was resolved")


def _source(path: Path) -> None:
    plugin = read_plugin("tokenizer", path)
    if not plugin.broken and set(plugin.info) < {"title", "ordered"}:
        raise AssertionError("described without its metadata")


BOARD_RUN = f"records/{record().run_id}"
RUN_FOLDER = f"runs/{record().run_id}"
CHECKPOINT = "p/fuzz.safetensors"
STORES: tuple[Parser, ...] = (
    Parser(
        "record",
        f"{RUN_FOLDER}/record.json",
        _records,
        lambda: [record().model_dump_json(indent=1).encode()],
        lambda: {f"{RUN_FOLDER}/users_retrieval.parquet": _users()},
        share=6,
    ),
    Parser(
        "per-user results",
        f"{RUN_FOLDER}/users_retrieval.parquet",
        _per_user,
        lambda: [_users()],
        lambda: {f"{RUN_FOLDER}/record.json": record().model_dump_json().encode()},
        binary=True,
    ),
    Parser("replayed record", "r.json", _replayed, _replayable, also=(UnreadableRecord, UnicodeDecodeError), share=0.5),
    Parser(
        "published results",
        f"{BOARD_RUN}/users_retrieval.parquet",
        _board,
        lambda: [_published()[f"{BOARD_RUN}/users_retrieval.parquet"]],
        _published,
        binary=True,
    ),
    Parser(
        "published units",
        "units.parquet",
        _units,
        lambda: [next(data for name, data in _published().items() if name.startswith("units/"))],
        _published,
        binary=True,
    ),
    Parser(
        "board settings",
        "board.toml",
        lambda path: read_settings(path.parent),
        lambda: [b'title = "T"\ndataset = "synthetic"\nbudgets = ["smoke"]\nformats = ["md", "csv"]\n'],
    ),
    Parser("checkpoint", CHECKPOINT, _restore, _checkpoints_once, binary=True, share=0.5),
    Parser("checkpoint values", CHECKPOINT, _restore, _plain_of_checkpoints, wrap=_rest_of_checkpoint),
    Parser(
        "stage manifest",
        f"{STAGE_FOLDER}/stage.json",
        _stage,
        lambda: [_manifest(), _unsealed()],
        lambda: {f"{STAGE_FOLDER}/v.json": VALUE},
        wrap=_sealed,
        share=0.5,
    ),
    _entry("sids/codes.npy", load_sids),
    _entry("sids.json", load_sids),
    _entry("report.json", load_resolved),
    _entry("ranks.npz", load_ranks),
    _entry("state.safetensors", load_state),
    _entry("facts.json", load_state),
    _entry("card.json", load_dataset),
    _entry("items.parquet", load_dataset),
    _entry("interactions.npz", load_dataset),
    Parser("preset", "rqkmeans/default/x.toml", _preset, lambda: PRESETS, share=0.3),
    Parser("override", "override", _override, lambda: OVERRIDES, share=0.3),
    Parser("plugin source", "mine.py", _source, lambda: [SOURCE], share=6),
)
"""The doors of stores and settings."""
