"""Item text as ``field: value`` sentences in a fixed field order, the input of every text encoder.

Sentence-style metadata is what TIGER, GRID, RPG and ActionPiece feed their encoders (item title, brand, categories,
price, description). An item without any text gets an empty string and is not available; nothing stands in for it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sidbench.datasets.base import Catalog
from sidbench.datasets.foundation.errors import InputError

FIELD_ORDER = ("title", "brand", "genres", "categories", "price", "overview", "description", "keywords")
LABEL_FIELDS = ("title", "brand", "genres", "categories")  # what an item is, in a few words
_WORD = re.compile(r"\w+")
_END = (".", "!", "?")


@dataclass(frozen=True)
class ItemText:
    """sentences: ``N`` strings, empty where an item has no text. available: bool ``[N]``. counts: what was left out."""

    sentences: tuple[str, ...]
    available: np.ndarray
    counts: Mapping[str, int]


def item_text(catalog: Catalog) -> ItemText:
    """Write one string per item: ``title: Rose Soap. brand: Lush. categories: Beauty > Bath. price: 4.99.``

    Known fields come in ``FIELD_ORDER``, others after them by name. Categories and price are taken from the catalogue
    unless a text field of that name exists. A field that repeats the words of an earlier one (genres that are the
    categories too) is written once and counted in ``text_fields_repeated``.

    Raises ``InputError`` for a column whose length is not the number of items.
    """
    columns = _columns(catalog)
    counts = Counter(text_fields_repeated=0)
    sentences = tuple(_sentence(columns, i, counts) for i in range(len(catalog)))
    available = np.array([bool(s) for s in sentences], bool)
    counts["items_without_text"] = int((~available).sum())
    return ItemText(sentences, available, dict(counts))


def item_labels(catalog: Catalog) -> tuple[str, ...] | None:
    """Title, brand, genres and categories of each item in one string without names of fields, empty where it has none of
    them; ``None`` for a catalogue without these fields.

    Raises ``InputError`` for a column whose length is not the number of items.
    """
    columns = [column for name, column in _columns(catalog).items() if name in LABEL_FIELDS]
    if not columns:
        return None
    return tuple(" ".join(" ".join(values).split()) for values in zip(*columns, strict=True))


def _columns(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    columns = dict(catalog.text)
    if catalog.categories is not None:
        columns.setdefault("categories", tuple(" > ".join(path) for path in catalog.categories))
    if catalog.price is not None:
        columns.setdefault("price", tuple(f"{p:.2f}" if math.isfinite(p) else "" for p in catalog.price.tolist()))
    for name, column in columns.items():
        if len(column) != len(catalog):
            raise InputError(
                f"item field {name}",
                got=f"{len(column)} entries",
                wanted=f"{len(catalog)}, one per item",
                do="repair the dataset plugin",
            )
    known = [name for name in FIELD_ORDER if name in columns]
    return {name: columns[name] for name in known + sorted(set(columns) - set(known))}


def _sentence(columns: Mapping[str, tuple[str, ...]], item: int, counts: Counter[str]) -> str:
    parts, seen = [], set()
    for name, column in columns.items():
        value = " ".join(column[item].split())
        words = tuple(_WORD.findall(value.casefold()))
        if not words:
            continue
        if words in seen:
            counts["text_fields_repeated"] += 1
            continue
        seen.add(words)
        parts.append(f"{name}: {value}" + ("" if value.endswith(_END) else "."))
    # A price alone says nothing about what the item is.
    return " ".join(parts) if any(not part.startswith("price: ") for part in parts) else ""
