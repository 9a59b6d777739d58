"""Data and features that the runs of a grid have in common, prepared once in a process and handed from run to run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from sidbench.benchmark.stages.prepared import Prepared
from sidbench.benchmark.store.stage_cache import Traced
from sidbench.datasets.base import Dataset
from sidbench.datasets.features.base import ItemFeatures

KEPT = 2  # splits and features that stay in memory; of data sets one does
T = TypeVar("T")


class _Latest(Generic[T]):
    """The latest values by their keys."""

    def __init__(self, size: int) -> None:
        self._size, self._values = size, OrderedDict[str, T]()

    def find(self, key: str) -> T | None:
        """The value if it is still here, which makes it the latest."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def keep(self, key: str, value: T) -> T:
        """Remember a value, and forget the one that was not asked for the longest."""
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        self._values.clear()


class SharedData:
    """Made once per grid. What is found here is said to be cached in the record of every run after the first."""

    def __init__(self) -> None:
        self._datasets = _Latest[Traced[Dataset]](1)
        self._prepared = _Latest[Prepared](KEPT)
        self._features = _Latest[Traced[ItemFeatures]](KEPT)

    def dataset(self, key: str, read: Callable[[], Traced[Dataset]]) -> Traced[Dataset]:
        """The data set under ``key``, read where it is not the latest one; then all that belongs to the latest goes."""
        if (found := self._datasets.find(key)) is not None:
            return found.again()
        for kept in (self._datasets, self._prepared, self._features):
            kept.clear()
        return self._datasets.keep(key, read())

    def prepared(self, key: str, make: Callable[[], Prepared]) -> Prepared:
        """The splits under ``key`` of the latest data set."""
        found = self._prepared.find(key)
        return self._prepared.keep(key, make()) if found is None else found

    def features(self, key: str, build: Callable[[], Traced[ItemFeatures]]) -> Traced[ItemFeatures]:
        """The features under ``key`` of the latest data set."""
        found = self._features.find(key)
        return self._features.keep(key, build()) if found is None else found.again()
