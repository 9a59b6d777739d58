"""Amazon Reviews 2023 through ``datasets.load_dataset`` streaming, on local copies of its schema made here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import sidbench.datasets.amazon2023 as module
from sidbench.datasets.amazon2023 import Amazon2023, Amazon2023Config
from sidbench.datasets.base import Dataset
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.locate import LocalFiles

_MS = 1_452_647_382_000
_REVIEWS = [  # (user, item, rating, milliseconds); two events of u1 within one second, the later one first in the file
    ("u2", "B2", 4.0, _MS + 5000),
    ("u1", "B1", 5.0, _MS + 900),
    ("u1", "B2", 3.0, _MS + 100),
    ("u2", "B1", 1.0, _MS),
    ("u1", "B1", 2.0, _MS + 9000),
    ("u3", "B9", 2.0, _MS),
]
_META = [
    {
        "parent_asin": "B2",
        "title": "Brush &amp; Comb",
        "store": "Acme",
        "main_category": "All Beauty",
        "categories": [],
        "price": "from 9.99",
        "description": ["Two", "parts"],
    },
    {
        "parent_asin": "B1",
        "title": "Soap",
        "store": None,
        "main_category": "All Beauty",
        "categories": ["Beauty", "Bath"],
        "price": "$1,012.50",
        "description": [],
    },
    {
        "parent_asin": "B7",
        "title": "unused",
        "store": "x",
        "main_category": "y",
        "categories": ["z"],
        "price": "None",
        "description": [],
    },
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")


def _records() -> list[dict[str, Any]]:
    names = ("user_id", "parent_asin", "rating", "timestamp")
    return [dict(zip(names, row, strict=True), asin=row[1], text="long", images=[]) for row in _REVIEWS]


def _jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, records)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def _parquet(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(records).write_parquet(path)


def _csv(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["user_id,parent_asin,rating,timestamp", *(",".join(map(str, row)) for row in _REVIEWS)]
    path.write_text("\n".join(lines) + "\n")


def _load(root: Path, **config: Any) -> Dataset:
    settings = {"path": str(root), "k_core": 2, "reviews": "raw"} | config
    return Amazon2023(Amazon2023Config(**settings)).load(LocalFiles())


def _jsonl_folder(root: Path) -> None:
    _jsonl(root / "raw" / "review_categories" / "All_Beauty.jsonl.gz", _records())
    _jsonl(root / "raw" / "meta_categories" / "meta_All_Beauty.jsonl", _META)


def _parquet_folder(root: Path) -> None:
    _parquet(root / "raw_review_All_Beauty" / "full-00000-of-00002.parquet", _records()[:3])
    _parquet(root / "raw_review_All_Beauty" / "full-00001-of-00002.parquet", _records()[3:])
    _parquet(root / "raw_meta_All_Beauty" / "full-00000-of-00001.parquet", _META)


def _five_core_folder(root: Path) -> None:
    _csv(root / "benchmark" / "5core" / "rating_only" / "All_Beauty.csv")
    _jsonl(root / "meta_All_Beauty.jsonl.gz", _META)


@pytest.mark.parametrize(
    ("make", "reviews"), [(_jsonl_folder, "raw"), (_parquet_folder, "raw"), (_five_core_folder, "5core")]
)
def test_every_layout_gives_the_same_dataset(
    tmp_path: Path, make: Any, reviews: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)  # several batches, so that their seams are crossed
    make(tmp_path)
    data = _load(tmp_path, reviews=reviews)
    x = data.interactions
    assert data.user_keys == ("u1", "u2") and data.catalog.keys == ("B1", "B2")
    assert x.user.tolist() == [0, 0, 1, 1]
    assert x.item.tolist() == [1, 0, 0, 1]  # of u1, B2 came 800 ms before B1, although both fall into one second
    assert x.timestamp.tolist() == [_MS // 1000, _MS // 1000, _MS // 1000, _MS // 1000 + 5]
    assert x.rating is not None and x.rating.tolist() == [3, 5, 1, 4]
    assert dict(data.catalog.text) == {
        "title": ("Soap", "Brush & Comb"),
        "brand": ("", "Acme"),
        "categories": ("Beauty > Bath", "All Beauty"),
        "description": ("", "Two parts"),
    }
    assert data.catalog.price is not None and data.catalog.price[0] == np.float32(1012.5) and np.isnan(data.catalog.price[1])
    counts = data.card.counts
    assert (counts["prices_not_numeric"], counts["metadata_lines_unused"], counts["duplicate_pairs_dropped"]) == (
        1,
        1,
        1,
    )
    assert counts["events_dropped_by_k_core"] == 1 and counts["html_entities_unescaped"] == 1
    assert set(data.card.absent) == {"vision"} and len(data.card.files) >= 2
    assert f"category All_Beauty, reviews {reviews}" in data.card.notes


def test_folders_of_the_locator_are_used(tmp_path: Path) -> None:
    _jsonl_folder(tmp_path / "amazon2023")
    assert Amazon2023(Amazon2023Config(reviews="raw", k_core=1)).load(LocalFiles(tmp_path)).n_users == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"user_id": "u", ', "line 7"),
        ('{"parent_asin": "B1", "rating": 1, "timestamp": 5}', "record 7: user missing"),
        ('{"user_id": "u", "parent_asin": "B1", "timestamp": 1452647382000}', "record 7: rating missing"),
        ('{"user_id": "u", "parent_asin": "B1", "rating": 1.0, "timestamp": 1452647382}', "unix milliseconds"),
    ],
)
def test_malformed_reviews_name_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    _jsonl(tmp_path / "All_Beauty.jsonl", _records())
    _jsonl(tmp_path / "meta_All_Beauty.jsonl", _META)
    with (tmp_path / "All_Beauty.jsonl").open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(InputError, match=rf"All_Beauty\.jsonl.*{reason}"):
        _load(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    _jsonl_folder(tmp_path)
    reviews = tmp_path / "raw" / "review_categories" / "All_Beauty.jsonl.gz"
    reviews.write_bytes(reviews.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"cannot read .*All_Beauty\.jsonl\.gz after row"):
        _load(tmp_path)
    other = tmp_path / "other"
    _parquet_folder(other)
    _parquet(other / "raw_meta_All_Beauty" / "full-00000-of-00001.parquet", [{"parent_asin": "B1"}])
    with pytest.raises(InputError, match="cannot read .*columns"):
        _load(other)
    _five_core_folder(tmp_path / "five")
    (tmp_path / "five" / "benchmark" / "5core" / "rating_only" / "All_Beauty.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="line 1: header"):
        _load(tmp_path / "five", reviews="5core")


def test_nothing_local_and_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"raw/review_categories/All_Beauty\.jsonl not found.*SIDBENCH_OFFLINE"):
        _load(tmp_path, path="")
    with pytest.raises(InputError, match="no file in .*check path="):
        _load(tmp_path)


@pytest.mark.parametrize("bad", [{"category": "../../etc"}, {"reviews": "0core"}, {"k_core": 0}, {"revision": "a/b"}])
def test_config_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Amazon2023Config(**bad)
