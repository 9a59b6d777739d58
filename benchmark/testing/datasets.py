"""Conformance checks of data sets, for every one of the suite and for strangers' (``bench plugin check``).

What needs no files is checked always; the rest reads the files that ``locate`` finds and is skipped, with the plugin's
own words about what is missing, where there are none. Nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.testing.checks import (
    CheckResult,
    NotApplicable,
    PluginCheck,
    checks_of,
    conforming,
    must_refuse,
    require,
)
from sidbench.benchmark.testing.contract import COMMON, Case, metadata
from sidbench.datasets.base import (
    Dataset,
    DatasetInfo,
    DatasetPlugin,
    FileLocator,
    PlantedTruth,
    check_dataset_values,
)
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.locate import LocalFiles

INPUTS = ("text", "vision", "behaviour")
TASKS = ("retrieval", "ranking")


def dataset_checks(
    cls: type[DatasetPlugin], config: Mapping[str, Any] | None = None, locate: FileLocator | None = None
) -> list[PluginCheck]:
    """Every conformance check of a data set class.

    config: overrides of the class's settings, on top of its "smoke" budget. locate: where the raw files are, by default
    the places that a run looks in, without download. With either of them a data set that cannot be loaded is a failure.
    """
    return checks_of(cls, DatasetPlugin, CHECKS, DatasetCase(cls, config, locate))


def check_dataset(
    cls: type[DatasetPlugin], config: Mapping[str, Any] | None = None, locate: FileLocator | None = None
) -> list[CheckResult]:
    """Run ``dataset_checks``; the results. Raises one ``ConformanceError`` that names every failed check."""
    return conforming(cls, dataset_checks(cls, config, locate))


class NoFiles(FileLocator):
    """Finds nothing. ``asked`` holds the names that were looked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @property
    def may_download(self) -> bool:
        return False

    def find(self, dataset: str, *names: str, required: bool = True) -> Path | None:
        self.asked += names
        if required:
            raise InputError(
                f"dataset {dataset}: {' or '.join(names)} not found",
                got="nothing",
                wanted=" or ".join(names),
                do=f"put {names[0]} into the folder of the data set",
            )
        return None


class _NoDownload(LocalFiles):
    """The places that a run looks in, and no network."""

    def __init__(self) -> None:
        super().__init__(sources={})


class DatasetCase(Case):
    """A data set class, loaded once from ``locate``."""

    kind = "dataset"
    info_class = DatasetInfo

    def __init__(
        self, cls: type[DatasetPlugin], overrides: Mapping[str, Any] | None = None, locate: FileLocator | None = None
    ) -> None:
        super().__init__(cls, overrides)
        self.promised = locate is not None or bool(overrides)  # the caller says where the files are
        self.locate = _NoDownload() if locate is None else locate

    def load(self) -> Dataset:
        """The data set, if its files are there; else the check does not apply."""
        plugin: DatasetPlugin = self.make()
        try:
            return plugin.load(self.locate)
        except InputError as error:
            if not self.promised and self.absent:
                raise NotApplicable(f"the files are not here: {error}") from error
            raise

    @cached_property
    def absent(self) -> bool:
        """Whether the data set fails without any file in the same words, that is, for want of files."""
        said = []
        for locate in (self.locate, NoFiles()):
            try:
                self.make().load(locate)
            except InputError as error:
                said.append((type(error), error.what))
            else:
                return False
        return said[0] == said[1]

    @cached_property
    def dataset(self) -> Dataset:
        return self.load()


def _metadata(case: DatasetCase) -> None:
    metadata(case)
    info: DatasetInfo = case.cls.info
    for field, known in (("modalities", INPUTS), ("tasks", TASKS)):
        unknown = sorted(set(getattr(info, field)) - set(known))
        require(not unknown, f"info.{field} must be of {', '.join(known)}, got {', '.join(unknown)}")
    for field in ("source", "licence", "citation"):
        require(bool(getattr(info, field).strip()), f"info.{field} is empty; say that there is none")
    unknown = sorted(set(info.published) - {"users", "items", "interactions"})
    require(not unknown, f"info.published counts users, items and interactions, got {', '.join(unknown)}")


def _no_files(case: DatasetCase) -> None:
    nothing = NoFiles()
    try:
        dataset = case.make().load(nothing)
    except InputError as error:
        require(bool(error.wanted or error.do), f"the error for missing files does not say what to do: {error}")
        return
    require(not nothing.asked, f"loads though {', '.join(nothing.asked)} were not found; wanted an InputError naming them")
    check_dataset_values(dataset)


def _values(case: DatasetCase) -> None:
    dataset = case.dataset
    check_dataset_values(dataset)
    x, catalog = dataset.interactions, dataset.catalog
    require(x.timestamp.dtype == np.int64, f"timestamp is {x.timestamp.dtype}, wanted int64 seconds")
    require(x.rating is None or x.rating.dtype == np.float32, "rating must be float32 or None")
    require(x.row.dtype == np.int64 and len(np.unique(x.row)) == len(x), "row must be int64 and name every event once")
    require(len(set(dataset.user_keys)) == dataset.n_users, "user keys repeat")
    for what in ("categories", "price", "images", "image_arrays"):
        column = getattr(catalog, what)
        require(column is None or len(column) == dataset.n_items, f"catalog.{what} must have one entry an item")


def _card(case: DatasetCase) -> None:
    dataset, info = case.dataset, case.cls.info
    card, x, catalog = dataset.card, dataset.interactions, dataset.catalog
    for field in ("name", "source", "licence"):
        require(bool(getattr(card, field).strip()), f"card.{field} is empty")
    counts = {"users": dataset.n_users, "items": dataset.n_items, "interactions": len(x)}
    for what, number in counts.items():
        require(card.counts.get(what) == number, f"card.counts[{what!r}] is {card.counts.get(what)}, counted {number}")
    lacks = {
        "text": "text" in info.modalities and not catalog.text,
        "vision": "vision" in info.modalities and catalog.images is None and catalog.image_arrays is None,
        "rating": x.rating is None,
    }
    embedded = {what for what in lacks if any(Path(file).stem == what for file in card.files)}  # precomputed instead
    said = set(card.absent) | embedded
    missing = [what for what, lacking in lacks.items() if lacking and what not in said]
    require(not missing, f"card.absent does not say why there is no {', '.join(missing)}")
    require(all(card.absent.values()), "card.absent must give a reason for each entry")


def _pure(case: DatasetCase) -> None:
    first, second = case.dataset.content_hash(), case.load().content_hash()
    require(first == second, "two loads of the same files give different content")


def _truth(case: DatasetCase) -> None:
    truth: PlantedTruth | None = case.make().truth()
    if truth is None:
        raise NotApplicable("real data: nothing is planted")
    dataset = case.dataset
    users, items = (np.arange(min(8, n), dtype=np.int32) for n in (dataset.n_users, dataset.n_items))
    users, items = users[: len(items)], items[: len(users)]
    require(truth.path.shape[0] == dataset.n_items and truth.path.dtype == np.int32, "path must be int32 with a row an item")
    n_events = len(dataset.interactions)
    require(truth.noisy.shape == (n_events,) and truth.noisy.dtype == bool, "noisy must be bool, one an event")
    chances = truth.next_item(users, items)
    require(chances.shape == (len(users), dataset.n_items), f"next_item gives {chances.shape}")
    require(bool((chances >= 0).all() and np.allclose(chances.sum(1), 1, atol=1e-4)), "next_item must give probabilities")
    likes = truth.like(users, items)
    within = likes.shape == users.shape and bool(((likes >= 0) & (likes <= 1)).all())
    require(within, "like must give one probability a pair")


def _impossible(case: DatasetCase) -> None:
    if "path" not in {f.name for f in fields(case.cls.config_class)}:
        raise NotApplicable("has no setting path")
    nowhere = "/nowhere/at/all"
    must_refuse(lambda: case.make(path=nowhere).load(NoFiles()), f"path={nowhere}, where nothing is")


CHECKS: Mapping[str, Callable[[Any], None]] = {
    **COMMON,
    "metadata": _metadata,
    "no files": _no_files,
    "no such folder": _impossible,
    "values": _values,
    "card": _card,
    "two loads agree": _pure,
    "planted truth": _truth,
}
