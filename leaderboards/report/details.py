"""What a report shows beside the records: item texts and pictures, and why they are missing where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PUBLISHED = "the report was made without data set content, so that it may be published"


@dataclass(frozen=True)
class PictureSheet:
    """Thumbnails of a catalogue in one JPEG: that of item ``i`` at row ``i // columns``, column ``i % columns``.

    data: the encoded picture. tile: width and height of a thumbnail, pixels. present: bool per item.
    """

    data: bytes
    tile: int
    columns: int
    present: tuple[bool, ...]


@dataclass(frozen=True)
class CatalogueTexts:
    """What items look like. Both mappings are by item key; items without a text are absent from them.

    categories: the path from root to leaf as one text. pictures: in the order of the catalogue, ``None`` where there are
    none. notes: what a reader must know, such as why there are no pictures.
    """

    titles: Mapping[str, str]
    categories: Mapping[str, str] = field(default_factory=dict)
    pictures: PictureSheet | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportDetails:
    """What the explorer may show.

    items: content hash of a data set -> its texts. withheld: content hash -> why there are none. keys: whether item keys
    may be shown; else items are numbers, as in a report for publication.
    """

    items: Mapping[str, CatalogueTexts] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    keys: bool = False

    def why_without_texts(self, content_hash: str) -> str:
        """The sentence that stands where the texts of a data set would."""
        return self.withheld.get(content_hash, PUBLISHED)
