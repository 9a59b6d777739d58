"""Frames of one's own become a data set: the importer's checks, nothing guessed in silence, the same data either way."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import sidbench as sb
from sidbench.benchmark.cli.app import invoke

DRAW = np.random.default_rng(0)
EVENTS = pd.DataFrame(
    [
        {"user": f"u{u}", "item": f"i{i:02d}", "timestamp": 1_600_000_000 + 100 * u + t, "rating": float(r)}
        for u in range(40)
        for t, (i, r) in enumerate(zip(DRAW.choice(20, 6, replace=False), DRAW.integers(1, 6, 6), strict=True))
    ]
)
ITEMS = pd.DataFrame({"item": [f"i{i:02d}" for i in range(20)], "title": [f"thing {i % 4}" for i in range(20)]})
TEXT = DRAW.standard_normal((20, 5))


def quiet(*frames: Any, **more: Any) -> sb.ImportedDataset:
    """An import in which no warning is accepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return sb.dataset_from_frames(*frames, **more)


def test_pandas_and_polars_give_the_same_data(home: Path) -> None:
    first = quiet(EVENTS, ITEMS)
    second = quiet(pl.from_pandas(EVENTS), pl.from_pandas(ITEMS))
    assert first == second and first.folder.parent == home / "datasets"
    data = first.load()
    assert (data.n_users, data.n_items, len(data.interactions)) == (40, 20, len(EVENTS))
    assert data.catalog.text["title"][3] == "thing 3"
    assert "user from 'user'" in repr(first)
    assert [p.name for p in (home / "datasets").iterdir()] == [first.folder.name]  # nothing of the work is left


def test_a_run_on_frames_reads_what_the_command_line_reads(home: Path, tmp_path: Path) -> None:
    data = sb.dataset_from_frames(EVENTS, ITEMS, embeddings={"text": TEXT})
    assert data.settings["features.text"] == "precomputed"
    small = {"tokenizer.codebook_size": 4, "tokenizer.code_length": 2, "features.behaviour": "none"}
    done = sb.run("rqkmeans", dataset=data, recommenders="none", budget="smoke", settings=small, threads=1, progress=False)
    record = done[0].record
    assert record is not None and record.features is not None and record.features.dims == {"text": 5}
    EVENTS.to_parquet(tmp_path / "interactions.parquet")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    np.save(tmp_path / "text.npy", TEXT)
    command = ["data", "import", "--name", "mine", "--interactions", f"{tmp_path}/interactions.parquet"]
    assert invoke([*command, "--items", f"{tmp_path}/items.parquet", "--embeddings", f"text={tmp_path}/text.npy"]) == 0
    words = [f"{n}={v}" for n, v in small.items()] + ["features.text=precomputed", f"dataset.path={home}/datasets/mine"]
    options = [
        "--tokenizer",
        "rqkmeans",
        "--dataset",
        "custom",
        "--recommender",
        "none",
        "--budget",
        "smoke",
        "--threads",
        "1",
    ]
    assert invoke(["run", *options, *words]) == 0
    assert [r.record for r in sb.results()] == [record]  # the command found the run: equal data, equal embeddings


@pytest.mark.filterwarnings("ignore:dataset_from_frames took timestamp")
def test_a_synonym_is_said_and_a_named_column_is_not(home: Path) -> None:
    renamed = EVENTS.rename(columns={"user": "uid", "timestamp": "date"})
    with pytest.warns(UserWarning, match="took user from the column 'uid'"):
        guessed = sb.dataset_from_frames(renamed, ITEMS)
    told = quiet(renamed, ITEMS, columns={"user": "uid", "timestamp": "date"})
    assert guessed.columns == told.columns == {"user": "uid", "item": "item", "timestamp": "date", "rating": "rating",
                                               "items.item": "item", "items.title": "title"}  # fmt: skip


def test_what_is_repaired_is_said(home: Path) -> None:
    with pytest.warns(UserWarning, match="duplicate rows"):
        found = sb.dataset_from_frames(pd.concat([EVENTS, EVENTS[:3]]), ITEMS)
    assert any("duplicate rows (the first counts): 3" in line for line in found.remarks)


def test_times_of_pandas(home: Path) -> None:
    times = EVENTS.assign(timestamp=pd.to_datetime(EVENTS["timestamp"], unit="s"))
    assert np.array_equal(
        quiet(times, ITEMS).load().interactions.timestamp, quiet(EVENTS, ITEMS).load().interactions.timestamp
    )
    milliseconds = EVENTS.assign(timestamp=EVENTS["timestamp"] * 1000)
    with pytest.raises(sb.InputError, match="look like milliseconds"):
        quiet(milliseconds, ITEMS)
    assert quiet(milliseconds, ITEMS, time_unit="ms").load().interactions.timestamp.max() == EVENTS["timestamp"].max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EVENTS.drop(columns="user"), ITEMS), r"columns missing \(user\)"),
        ((EVENTS.assign(rating="good"), ITEMS), "rating missing, no number"),
        ((EVENTS, pd.concat([ITEMS, ITEMS[:1]])), "item keys that repeat"),
        ((EVENTS.assign(user=[["a"]] * len(EVENTS)), ITEMS), "user missing"),
        ((EVENTS.assign(rating=[[1.0]] * len(EVENTS)), ITEMS), "rating missing, no number"),
        ((EVENTS.assign(user=[1, *"a" * (len(EVENTS) - 1)]), ITEMS), "columns of one type each"),
        (([1, 2], ITEMS), "got list; wanted a pandas or polars DataFrame"),
        ((EVENTS.set_axis([0, 1, 2, 3], axis=1), ITEMS), "as strings"),
    ],
)
def test_frames_that_cannot_be_used(home: Path, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(sb.InputError, match=message):
        quiet(*arguments)
    assert not list((home / "datasets").glob("*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"embeddings": {"text": TEXT[:3]}}, r"wanted numbers of shape \(20, dimensions\)"),
        ({"embeddings": {"text": np.full((20, 2), np.nan)}}, "NaN or infinite"),
        ({"embeddings": {"Text!": TEXT}}, "modality name"),
        ({"columns": {"usr": "uid"}}, "unknown column roles"),
        ({"time_unit": "h"}, "time_unit"),
    ],
)
def test_arguments_that_cannot_be_used(home: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(sb.InputError, match=message):
        quiet(EVENTS, ITEMS, **more)


def test_embeddings_need_items(home: Path) -> None:
    with pytest.raises(sb.InputError, match="give items="):
        quiet(EVENTS, embeddings={"text": TEXT})
