"""Every in-tree data set passes the public conformance checks on tiny files, and the checks can fail."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.testing.checks import CheckResult, ConformanceError
from sidbench.benchmark.testing.datasets import CHECKS, NoFiles, check_dataset
from sidbench.datasets.base import Dataset, DatasetPlugin, FileLocator, PlantedTruth
from sidbench.datasets.reading.importing import import_custom
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.synthetic import Synthetic

USERS, ITEMS = ("u1", "u2", "u3"), ("B1", "B2", "B3", "B4")
EVENTS = [
    (u, i, 1 + (n + m) % 5, 1_400_000_000 + 86_400 * (n * 7 + m)) for n, u in enumerate(USERS) for m, i in enumerate(ITEMS)
]


def amazon_2014(folder: str, category: str) -> Callable[[Path], Mapping[str, Any]]:
    def write(root: Path) -> Mapping[str, Any]:
        (root / folder).mkdir()
        reviews = [{"reviewerID": u, "asin": i, "overall": r, "unixReviewTime": t} for u, i, r, t in EVENTS]
        meta = [{"asin": i, "title": f"Item {i}", "categories": [[category]]} for i in ITEMS]
        for name, lines in (
            (f"reviews_{category}_5.json.gz", [json.dumps(r) for r in reviews]),
            (f"meta_{category}.json.gz", [repr(m) for m in meta]),
        ):
            (root / folder / name).write_bytes(gzip.compress("\n".join(lines).encode()))
        return {"k_core": 1}

    return write


def amazon_2023(root: Path) -> Mapping[str, Any]:
    folder = root / "benchmark" / "5core" / "rating_only"
    folder.mkdir(parents=True)
    with (folder / "All_Beauty.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "parent_asin", "rating", "timestamp"])
        writer.writerows([(u, i, float(r), 1000 * t) for u, i, r, t in EVENTS])
    meta = [
        {
            "parent_asin": i,
            "title": f"Item {i}",
            "store": None,
            "main_category": "All Beauty",
            "categories": ["Beauty"],
            "price": None,
            "description": [],
        }
        for i in ITEMS
    ]
    (root / "meta_All_Beauty.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, meta)).encode()))
    return {"path": str(root), "k_core": 1}


def movielens(root: Path) -> Mapping[str, Any]:
    folder = root / "ml-100k"
    folder.mkdir()
    (folder / "u.data").write_text("".join(f"{u[1:]}\t{i[1:]}\t{r}\t{t}\n" for u, i, r, t in EVENTS))
    (folder / "u.genre").write_text("unknown|0\nAction|1\n")
    (folder / "u.item").write_text("".join(f"{i[1:]}|Film {i}|||x|0|1\n" for i in ITEMS), encoding="latin-1")
    return {}


def custom(root: Path) -> Mapping[str, Any]:
    (root / "events.csv").write_text("user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, _, t in EVENTS))
    (root / "items.csv").write_text("item,title\n" + "".join(f"{i},Item {i}\n" for i in ITEMS))
    np.savez(root / "vision.npz", keys=np.array(ITEMS), embeddings=np.ones((len(ITEMS), 2), np.float32))
    report = import_custom(root / "mine", root / "events.csv", root / "items.csv", {"vision": root / "vision.npz"})
    assert report.written, report.lines()
    return {"path": str(root / "mine")}


MAKERS: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
    "amazon2023": amazon_2023,
    "beauty": amazon_2014("beauty", "Beauty"),
    "custom": custom,
    "ml-100k": movielens,
    "sports": amazon_2014("sports", "Sports_and_Outdoors"),
    "synthetic": lambda root: {},
    "toys": amazon_2014("toys", "Toys_and_Games"),
}


@pytest.fixture(autouse=True)
def _no_other_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "no-cache")


def skipped(results: list[CheckResult]) -> set[str]:
    return {r.name for r in results if r.status == "skipped"}


@pytest.mark.parametrize("name", [n for n, p in installed().plugins("dataset").items() if p.source == "sidbench"])
def test_in_tree_data_set_conforms_with_and_without_files(name: str, tmp_path: Path) -> None:
    cls: type[DatasetPlugin] = installed().load("dataset", name)
    bare = check_dataset(cls)
    assert {r.name for r in bare} == set(CHECKS)
    (tmp_path / "files").mkdir()
    results = check_dataset(cls, MAKERS[name](tmp_path / "files"), LocalFiles(tmp_path / "files"))
    assert skipped(results) <= {"planted truth", "no such folder"}, results
    needs_files = {"values", "card", "two loads agree"}
    assert skipped(bare) >= needs_files or name == "synthetic"


class Silent(Synthetic):
    """Reads a file, and goes on without it."""

    def load(self, locate: FileLocator) -> Dataset:
        locate.find("silent", "events.csv", required=False)
        return super().load(locate)


class Unsorted(Synthetic):
    def load(self, locate: FileLocator) -> Dataset:
        data = super().load(locate)
        return replace(data, interactions=data.interactions.take(np.arange(len(data.interactions))[::-1]))


class Miscounts(Synthetic):
    def load(self, locate: FileLocator) -> Dataset:
        data = super().load(locate)
        return replace(data, card=replace(data.card, counts={**data.card.counts, "users": 1}))


class Unexplained(Synthetic):
    def load(self, locate: FileLocator) -> Dataset:
        data = super().load(locate)
        return replace(data, catalog=replace(data.catalog, image_arrays=None))


class Restless(Synthetic):
    def load(self, locate: FileLocator) -> Dataset:
        data = super().load(locate)
        price = np.random.default_rng().random(data.n_items).astype(np.float32)
        return replace(data, catalog=replace(data.catalog, price=price))


class WrongTruth(Synthetic):
    def truth(self) -> PlantedTruth:
        truth = super().truth()
        return replace(truth, noisy=truth.noisy[1:])


def test_files_that_are_promised_and_missing_are_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ConformanceError, match="values: raised InputError: .*not found"):
        check_dataset(installed().load("dataset", "beauty"), locate=LocalFiles(tmp_path))


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Silent, "no files: loads though events.csv"),
        (Unsorted, "values: .*event order"),
        (Miscounts, "card: .*counts.'users'. is 1"),
        (Unexplained, "card: card.absent does not say why there is no vision"),
        (Restless, "two loads agree: .*different content"),
        (WrongTruth, "planted truth: noisy"),
        (int, "DatasetPlugin"),
    ],
)
def test_a_faulty_data_set_is_named(cls: type[DatasetPlugin], check: str) -> None:
    with pytest.raises(ConformanceError, match=check):
        check_dataset(cls, locate=NoFiles())
