"""Item texts and pictures for the HTML report, from data sets on this machine, as far as their licences allow."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from sidbench.benchmark.commands.local_data import dataset_at_hand
from sidbench.datasets.base import Catalog, Dataset
from sidbench.datasets.features.pictures import has_pictures, iterate_pictures
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.leaderboards.board.values import Leaderboard
from sidbench.leaderboards.report.details import CatalogueTexts, PictureSheet, ReportDetails

TEXTS = ("auto", "yes", "no")
# Licences that let anyone pass item texts on. Words such as "research use" do not.
REDISTRIBUTABLE = frozenset(
    {
        "Apache-2.0",
        "MIT",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "CC-BY-4.0",
        "CC-BY-SA-4.0",
        "ODC-BY-1.0",
        "ODbL-1.0",
        "PDDL-1.0",
        "Unlicense",
    }
)
TILE, COLUMNS, MAX_PICTURES = 40, 32, 2_000


def report_details(board: Leaderboard, texts: str = "auto", data_dir: Path | None = None) -> ReportDetails:
    """What the report may show of items.

    texts: "auto" shows keys, and texts and pictures of data sets whose licence lets them be passed on; "yes" those of
    every data set on this machine, for the reader's own eyes; "no" shows items as numbers, fit for publication.
    data_dir: where raw files are looked for first. Data sets that are not at hand are named with the reason.

    Raises ``InputError`` for another word.
    """
    if texts not in TEXTS:
        raise unknown_name("--texts", texts, TEXTS, do="use one of these")
    if texts == "no":
        return ReportDetails()
    items: dict[str, CatalogueTexts] = {}
    withheld: dict[str, str] = {}
    for record in (run.record for table in board.tables for row in table.rows for run in row.runs):
        content = record.dataset.content_hash
        if content in items or content in withheld:
            continue
        dataset = dataset_at_hand(record, data_dir)
        if isinstance(dataset, str):
            withheld[content] = f"{record.dataset.name}: {dataset}".rstrip(".")
        elif texts == "auto" and dataset.card.licence not in REDISTRIBUTABLE:
            withheld[content] = (
                f"the licence of {record.dataset.name} does not let them be passed on "
                f"(“{dataset.card.licence}”); --texts yes shows them in a report for yourself"
            )
        else:
            items[content] = catalogue_texts(dataset)
    return ReportDetails(items, withheld, keys=True)


def catalogue_texts(dataset: Dataset) -> CatalogueTexts:
    """Titles, category paths and thumbnails of a data set."""
    catalog = dataset.catalog
    title = catalog.text.get("title", ())
    notes = () if title else (f"{dataset.card.name} has no titles.",)
    paths = catalog.categories or ()
    pictures, why = _pictures(catalog)
    return CatalogueTexts(
        {key: text for key, text in zip(catalog.keys, title, strict=False) if text},
        {key: " › ".join(path) for key, path in zip(catalog.keys, paths, strict=False) if path},
        pictures,
        (*notes, *why),
    )


def _pictures(catalog: Catalog) -> tuple[PictureSheet | None, tuple[str, ...]]:
    """All pictures as one sheet, or none with the reason."""
    if not has_pictures(catalog):
        return None, ()
    if len(catalog) > MAX_PICTURES:
        return None, (
            f"Pictures are left out: {len(catalog):,} items would make the page too large (at most {MAX_PICTURES:,}).",
        )
    rows = -(-len(catalog) // COLUMNS)
    sheet = np.full((rows * TILE, COLUMNS * TILE, 3), 255, np.uint8)
    present = [False] * len(catalog)
    counts: Counter[str] = Counter()
    try:
        for item, picture in iterate_pictures(catalog, TILE, counts):
            top, left = item // COLUMNS * TILE, item % COLUMNS * TILE
            sheet[top : top + TILE, left : left + TILE] = picture
            present[item] = True
    except InputError as error:
        return None, (f"Pictures are left out: {error}",)
    missing = {name.replace("_", " "): n for name, n in counts.items() if n}
    notes = (f"Pictures: {', '.join(f'{n:,} {name}' for name, n in missing.items())}.",) if missing else ()
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "JPEG", quality=85)
    return PictureSheet(out.getvalue(), TILE, COLUMNS, tuple(present)), notes
