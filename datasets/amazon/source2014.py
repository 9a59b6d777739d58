"""Shared base of the three Amazon 2014 plugins; a plugin file names its category and nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sidbench.datasets.amazon.metadata import ReadCatalog, read_metadata
from sidbench.datasets.amazon.reviews import read_ratings, read_reviews
from sidbench.datasets.base import Dataset, DatasetPlugin, FileLocator, check_dataset_values
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.reading.events import index_events, make_card


@dataclass(frozen=True)
class Amazon2014Config:
    """Filters; the defaults give the published 5-core."""

    k_core: int = setting(
        5, "keep users and items with at least this many events, to a fixed point", unit="events", low=1, high=100, paper=5
    )
    max_users: int = setting(0, "only the first users by key; 0 keeps all", unit="users", low=0)

    def __post_init__(self) -> None:
        check_settings(self)


class Amazon2014(DatasetPlugin):
    """Reads ``reviews_<category>_5.json.gz`` (else ``ratings_<category>.csv``) and ``meta_<category>.json.gz``.

    Item and user index = rank of the raw key in sorted order. The catalogue holds exactly the items with events.
    """

    folder: ClassVar[str]
    category: ClassVar[str]
    config: Amazon2014Config
    config_class = Amazon2014Config
    budgets = {"smoke": {"max_users": 500}}

    def load(self, locate: FileLocator) -> Dataset:
        """Raises ``InputError`` when files are missing (with where to get them) or malformed (with the line)."""
        events_path = self._find(locate, f"reviews_{self.category}_5.json.gz", f"ratings_{self.category}.csv")
        metadata_path = self._find(locate, f"meta_{self.category}.json.gz")
        read = read_ratings if events_path.name.startswith("ratings_") else read_reviews
        events = index_events(read(events_path), min_events=self.config.k_core, max_users=self.config.max_users)
        found = self.extend(read_metadata(metadata_path, events.item_keys), locate)

        absent = dict(found.absent)
        if events.interactions.rating is None:
            absent["rating"] = f"no line of {events_path.name} has a rating"
        addresses = found.counts["items_with_picture_url"]
        absent["vision"] = (
            f"{addresses} items name a picture address, but no pictures are in the files"
            if addresses
            else "no imUrl and no pictures in the files"
        )
        defaults = type(self.config)()
        subset = self.config.max_users > 0 or self.config.k_core != defaults.k_core
        files = {path.name: hash_file(path) for path in (events_path, metadata_path, *self.extra_files(locate))}
        card = make_card(self.folder, self.info, events, subset=subset, absent=absent, files=files, counts=found.counts)
        return check_dataset_values(Dataset(events.interactions, found.catalog, events.user_keys, card))

    def extend(self, found: ReadCatalog, locate: FileLocator) -> ReadCatalog:
        """Hook for files only one category has; returns what the catalogue shall hold."""
        return found

    def extra_files(self, locate: FileLocator) -> tuple[Path, ...]:
        """Files that ``extend`` reads, for the card."""
        return ()

    def _find(self, locate: FileLocator, *names: str) -> Path:
        path = locate.find(self.folder, *names)
        if path is None:
            raise FileNotFoundError(f"{self.folder}: {names}")
        return path


def add_text(found: ReadCatalog, name: str, column: tuple[str, ...]) -> ReadCatalog:
    """The same catalogue with one more text field at the end."""
    catalog = dataclasses.replace(found.catalog, text={**found.catalog.text, name: column})
    return dataclasses.replace(found, catalog=catalog)
