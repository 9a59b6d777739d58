"""The values that flow out of the datasets room, and the contract of a dataset plugin.

All values are frozen dataclasses over numpy arrays; axis order is always ``(item|user|event, ...)``.
Item and user indices are 0-based ranks of the sorted raw keys, so that they can be rebuilt from the keys alone.

Life cycle of a dataset plugin: the pipeline constructs the class with its config once per run, in the main process,
and calls ``load(locate)`` at most once; the result is cached by content, so a second run with the same files and
config does not construct it again. ``load`` must be a pure function of the files it reads and the config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_arrays, hash_json, hash_strings
from sidbench.datasets.foundation.plugin import PluginBase

INVALID_TIME = -1


@dataclass(frozen=True)
class Interactions:
    """Events sorted by (user, time, tie rule).

    user: int32 ``[E]``; item: int32 ``[E]``; timestamp: int64 unix seconds ``[E]``;
    rating: float32 ``[E]`` or ``None`` when the source has none;
    row: int64 ``[E]`` identity of the event in the dataset (survives splitting, so views can be intersected).
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    rating: np.ndarray | None
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: np.ndarray) -> Interactions:
        """The events at ``index`` (int ``[M]`` or bool ``[E]``), in that order."""
        rating = None if self.rating is None else self.rating[index]
        return Interactions(self.user[index], self.item[index], self.timestamp[index], rating, self.row[index])

    @staticmethod
    def concatenate(*parts: Interactions) -> Interactions:
        """All events of ``parts`` in the given order; ratings are kept only if every part has them."""
        rated = all(p.rating is not None for p in parts)
        rating = np.concatenate([p.rating for p in parts if p.rating is not None]) if rated else None
        return Interactions(
            np.concatenate([p.user for p in parts]),
            np.concatenate([p.item for p in parts]),
            np.concatenate([p.timestamp for p in parts]),
            rating,
            np.concatenate([p.row for p in parts]),
        )


@dataclass(frozen=True)
class Catalog:
    """Items. Every optional field is ``None`` when the source lacks it for all items; the card then declares it absent.

    keys: raw item keys, unique, sorted as the dataset's index demands (``N`` strings).
    text: field name ("title", "brand", "overview", ...) -> ``N`` strings, empty where an item lacks the field.
    categories: per item the path from root to leaf (possibly empty tuple), or ``None``.
    price: float32 ``[N]``, NaN where unknown, or ``None``.
    images: per item a reference that ``image_root`` resolves ("posters/1.jpg"), empty string where absent, or ``None``.
    image_root: folder or zip archive that holds the images; ``image_arrays`` instead for rendered pictures,
        uint8 ``[N, H, W, 3]``.
    """

    keys: tuple[str, ...]
    text: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    categories: tuple[tuple[str, ...], ...] | None = None
    price: np.ndarray | None = None
    images: tuple[str, ...] | None = None
    image_root: Path | None = None
    image_arrays: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class DatasetCard:
    """What a reader must know about a dataset before trusting a number on it.

    ``absent`` maps a missing field or modality ("vision", "rating") to the reason. ``counts`` holds users, items,
    interactions and everything that was dropped or repaired while reading ("duplicates_dropped", ...).
    ``files`` maps each file read to its SHA-256.
    """

    name: str
    source: str
    licence: str
    citation: str
    counts: Mapping[str, int]
    filters: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlantedTruth:
    """What only a synthetic catalogue knows.

    path: int32 ``[N, depth]`` child index at each tree level (the right hierarchy).
    next_item: function ``(user int32 [B], last_item int32 [B]) -> float32 [B, N]``: true next-item probabilities.
    like: function ``(user int32 [M], item int32 [M]) -> float32 [M]``: true probability of a positive rating.
    noisy: bool ``[E]``: which events (in dataset row order) were drawn as noise, not from preferences.
    """

    path: np.ndarray
    next_item: Callable[[np.ndarray, np.ndarray], np.ndarray]
    like: Callable[[np.ndarray, np.ndarray], np.ndarray]
    noisy: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Interactions, catalogue and card of one data set; ``user_keys`` are the raw user keys in index order."""

    interactions: Interactions
    catalog: Catalog
    user_keys: tuple[str, ...]
    card: DatasetCard

    @property
    def n_users(self) -> int:
        return len(self.user_keys)

    @property
    def n_items(self) -> int:
        return len(self.catalog)

    def content_hash(self) -> str:
        """SHA-256 over everything a later stage can read; equal content gives equal hashes on every machine."""
        x, c = self.interactions, self.catalog
        arrays = {"user": x.user, "item": x.item, "timestamp": x.timestamp, "row": x.row}
        if x.rating is not None:
            arrays["rating"] = x.rating
        if c.price is not None:
            arrays["price"] = c.price
        if c.image_arrays is not None:
            arrays["images"] = c.image_arrays
        return hash_json(
            {
                "arrays": hash_arrays(arrays),
                "items": hash_strings(c.keys),
                "users": hash_strings(self.user_keys),
                "text": {name: hash_strings(column) for name, column in c.text.items()},
                "categories": None if c.categories is None else hash_json(c.categories),
                "images": None if c.images is None else hash_strings(c.images),
                "files": dict(self.card.files),
            }
        )


@dataclass(frozen=True)
class DatasetInfo:
    """Static metadata of a dataset plugin, read from source without importing it: keep every argument a literal.

    url: page of the paper (arXiv or DOI); bibtex: its key or whole entry; both empty without one.
    version: raised by its author when the numbers it computes change; part of stage keys, run ids and comparability.
    """

    title: str
    source: str
    licence: str
    citation: str
    modalities: tuple[str, ...]
    tasks: tuple[str, ...]
    published: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    version: int = 1
    url: str = ""
    bibtex: str = ""


class FileLocator(ABC):
    """Finds raw files: ``--data-dir``, ``$SIDBENCH_DATA``, the user cache, then a download. Given to ``load``."""

    @property
    def may_download(self) -> bool:
        """Whether a plugin that fetches files itself may do so now."""
        return True

    @abstractmethod
    def find(self, dataset: str, *names: str, required: bool = True) -> Path | None:
        """Path of the first of ``names`` (relative, alternatives in order of preference; ``.gz`` twins are tried).

        Raises ``InputError`` that lists the exact files and every place looked in when ``required``.
        """


class DatasetPlugin(PluginBase):
    """Base of dataset plugins; one file in ``datasets/`` each, with ``INFO``, a frozen config dataclass and the class.

    Constructor and ``name`` are those of ``PluginBase``.
    """

    entry_points: ClassVar[str] = "sidbench.datasets"
    info: ClassVar[DatasetInfo]

    @abstractmethod
    def load(self, locate: FileLocator) -> Dataset:
        """Read the raw files. Raises ``InputError`` naming file and line for anything malformed."""

    def truth(self) -> PlantedTruth | None:
        """Planted truth for synthetic data; ``None`` for real data."""
        return None


def check_dataset_values(dataset: Dataset) -> Dataset:
    """Check the invariants every later stage relies on and return the dataset unchanged.

    Raises ``InputError`` when indices are out of range, events unsorted, keys duplicated, times or ratings not finite.
    """
    x, name = dataset.interactions, dataset.card.name
    n_users, n_items = dataset.n_users, dataset.n_items

    def fail(what: str, got: object, wanted: str) -> None:
        raise InputError(f"dataset {name}: {what}", got=got, wanted=wanted, do=f"run `bench data check {name}`")

    if len(x) == 0 or n_items == 0:
        fail("nothing left", f"{len(x)} interactions and {n_items} items", "at least one interaction")
    if len({len(x.user), len(x.item), len(x.timestamp), len(x.row)}) != 1:
        fail("columns differ in length", [len(x.user), len(x.item), len(x.timestamp), len(x.row)], "equal lengths")
    if len(set(dataset.catalog.keys)) != n_items:
        fail("item keys repeat", f"{n_items - len(set(dataset.catalog.keys))} repeats", "unique keys")
    for label, values, size in (("user", x.user, n_users), ("item", x.item, n_items)):
        if values.dtype != np.int32:
            fail(f"{label} dtype", values.dtype, "int32")
        if values.min() < 0 or values.max() >= size:
            fail(f"{label} index", f"{values.min()}..{values.max()}", f"0..{size - 1}")
    if np.any(np.diff(x.user) < 0) or np.any((np.diff(x.user) == 0) & (np.diff(x.timestamp) < 0)):
        fail("event order", "unsorted events", "events sorted by user, then time")
    if x.rating is not None and not np.all(np.isfinite(x.rating)):
        fail("ratings", "NaN or infinite values", "finite ratings")
    for text, column in dataset.catalog.text.items():
        if len(column) != n_items:
            fail(f"text field {text}", len(column), f"{n_items} entries")
    return dataset
