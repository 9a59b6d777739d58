"""Amazon 2014 item metadata: Python-literal (or JSON) lines, read only for the items of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.datasets.base import Catalog
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.lines import parse_record, read_lines
from sidbench.datasets.reading.text import TextCleaner, count_without_text, text_columns

_ASIN = re.compile(r"""['"]asin['"]\s*:\s*['"]([^'"]*)['"]""")
_MOST_DOLLARS = 1e12  # beyond it, and for NaN, there is no price; a comparison bears whole numbers that no float holds
TEXT_FIELDS = ("title", "brand", "categories", "description")


@dataclass(frozen=True)
class ReadCatalog:
    """A catalogue, the counts of what was repaired or missing, and the reason for every field no item has."""

    catalog: Catalog
    counts: dict[str, int]
    absent: dict[str, str]


def read_metadata(path: Path, keys: Sequence[str]) -> ReadCatalog:
    """Catalogue of exactly the items ``keys``, in that order; other lines of the file are skipped and counted.

    Text fields in fixed order: title, brand, categories (the first path, joined by " > "), description. An item whose
    line or field is missing has empty text. Price is numeric only, NaN where unknown.

    Raises ``InputError`` naming file and line for a malformed line, a line without asin or a field of a wrong type.
    """
    index = {key: i for i, key in enumerate(keys)}
    rows: list[dict[str, Any] | None] = [None] * len(keys)
    lines = [0] * len(keys)
    unused = repeated = 0
    for number, text in read_lines(path):
        # A full category file has 20 times more lines than its 5-core: parse only lines that name a wanted item.
        named = _ASIN.findall(text)
        if named and not any(asin in index for asin in named):
            unused += 1
            continue
        record = parse_record(text, path, number)
        asin = record.get("asin")
        if not isinstance(asin, str):
            raise InputError(
                f"{path}, line {number}: no asin", got=repr(asin), wanted="an item key", do=f"repair or remove line {number}"
            )
        position = index.get(asin)
        if position is None:
            unused += 1
        elif rows[position] is not None:
            repeated += 1
        else:
            rows[position], lines[position] = record, number
    return _assemble(path, keys, rows, lines, {"metadata_lines_unused": unused, "metadata_repeats_dropped": repeated})


def _assemble(
    path: Path, keys: Sequence[str], rows: Sequence[dict[str, Any] | None], lines: Sequence[int], counts: dict[str, int]
) -> ReadCatalog:
    clean = TextCleaner()
    columns: dict[str, list[str]] = {name: [""] * len(keys) for name in TEXT_FIELDS}
    categories: list[tuple[str, ...]] = [()] * len(keys)
    price = np.full(len(keys), np.nan, np.float32)
    several = pictures = 0
    for i, record in enumerate(rows):
        if record is None:
            continue
        where = f"{path}, line {lines[i]}"
        for name in ("title", "brand", "description"):
            columns[name][i] = clean.value(record.get(name), f"{where}: {name}")
        paths = _category_paths(record.get("categories"), where)
        categories[i] = tuple(clean(name) for name in paths[0]) if paths else ()
        columns["categories"][i] = " > ".join(categories[i])
        several += len(paths) > 1
        pictures += bool(record.get("imUrl"))
        price[i] = _price(record.get("price"), where)
    counts |= {
        "items_without_metadata": sum(row is None for row in rows),
        "items_with_several_category_paths": several,
        "items_with_picture_url": pictures,
        **clean.repairs,
    }
    text = text_columns(dict(columns))
    counts["items_without_text"] = count_without_text(text, len(keys))
    priced, sorted_in = bool(np.isfinite(price).any()), any(categories)
    absent = {name: f"no item of {path.name} has the key {name!r}" for name in TEXT_FIELDS if name not in text}
    if not priced:
        absent["price"] = f"no item of {path.name} has the key 'price'"
    catalog = Catalog(
        keys=tuple(keys), text=text, categories=tuple(categories) if sorted_in else None, price=price if priced else None
    )
    return ReadCatalog(catalog, counts, absent)


def _category_paths(value: Any, where: str) -> list[list[str]]:
    if value is None:
        return []
    is_paths = isinstance(value, (list, tuple)) and all(
        isinstance(path, (list, tuple)) and all(isinstance(name, str) for name in path) for path in value
    )
    if not is_paths:
        raise InputError(
            f"{where}: categories",
            got=repr(value)[:80],
            wanted="a list of paths, [['Beauty', 'Makeup']]",
            do="repair or remove the line",
        )
    return [list(path) for path in value]


def _price(value: Any, where: str) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_DOLLARS:
        raise InputError(
            f"{where}: price",
            got=repr(value)[:40],
            wanted="a number of dollars, or no price",
            do="repair or remove the line",
        )
    return float(value)
