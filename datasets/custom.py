"""Your own data: a folder written by ``bench data import``, with interactions, items and precomputed embeddings.

The import checks and normalises; this plugin reads the normalised folder. Precomputed embeddings stay in
``<path>/embeddings/<modality>.npz`` for the ``precomputed`` encoder; their hashes are on the card, so that
numbers from other embeddings are never compared with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sidbench.datasets.base import Catalog, Dataset, DatasetInfo, DatasetPlugin, FileLocator, check_dataset_values
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.foundation.strict_json import read_json
from sidbench.datasets.reading.events import EVENT_SCHEMA, check_events, index_events, make_card
from sidbench.datasets.reading.importing import FORMAT_VERSION, MODALITY
from sidbench.datasets.reading.parquet import read_parquet
from sidbench.datasets.reading.text import count_without_text, text_columns

INFO = DatasetInfo(
    title="Your own interactions, items and embeddings",
    version=1,
    source="a folder written by `bench data import`",
    licence="that of your data",
    citation="none",
    modalities=("text", "vision", "behaviour"),
    tasks=("retrieval", "ranking"),
)


@dataclass(frozen=True)
class CustomConfig:
    """Which folder, and filters."""

    path: str = setting("", "folder written by `bench data import`")
    k_core: int = setting(
        1, "keep users and items with at least this many events, to a fixed point", unit="events", low=1, high=100
    )
    max_users: int = setting(0, "only the first users by key; 0 keeps all", unit="users", low=0)

    def __post_init__(self) -> None:
        check_settings(self)


class Custom(DatasetPlugin):
    """Reads ``interactions.parquet`` and ``items.parquet``; index = rank of the key in sorted order (as text)."""

    info = INFO
    config_class = CustomConfig
    config: CustomConfig
    budgets = {"smoke": {"max_users": 500}}

    def load(self, locate: FileLocator) -> Dataset:
        """Raises ``InputError`` when ``path`` is unset, no import, or damaged."""
        folder = self._folder(locate)
        schema = _read_schema(folder)
        table = read_parquet(folder / "interactions.parquet")
        events = index_events(_checked(table, folder), min_events=self.config.k_core, max_users=self.config.max_users)
        catalog, counts = _read_catalog(folder / "items.parquet", events.item_keys)
        absent = {}
        if events.interactions.rating is None:
            absent["rating"] = "the imported interactions have none"
        if not catalog.text:
            absent["text"] = "the imported items have no text"
        if catalog.price is None:
            absent["price"] = "the imported items have none"
        if "vision" not in schema["embeddings"]:
            absent["vision"] = "no vision embeddings were imported"
        names = ["interactions.parquet", "items.parquet", *(f"embeddings/{m}.npz" for m in schema["embeddings"])]
        files = {name: hash_file(folder / name) for name in names if (folder / name).is_file()}
        lost = [m for m in schema["embeddings"] if f"embeddings/{m}.npz" not in files]
        if lost:
            raise InputError(
                f"{folder}: embeddings missing",
                got=f"no file for {', '.join(lost)}",
                wanted="the files of the import",
                do="run `bench data import` again",
            )
        notes = tuple(f"precomputed {m} embeddings, {width} dimensions" for m, width in schema["embeddings"].items())
        card = make_card(
            "custom",
            INFO,
            events,
            subset=True,
            absent=absent,
            files=files,
            counts=counts,
            notes=notes + tuple(schema["warnings"]),
        )
        return check_dataset_values(Dataset(events.interactions, catalog, events.user_keys, card))

    def _folder(self, locate: FileLocator) -> Path:
        if not self.config.path:
            raise InputError(
                "dataset custom needs a folder",
                got="an empty path",
                wanted="dataset.path=<folder>",
                do="run `bench data import` on your files, then pass its folder as dataset.path",
            )
        local = Path(self.config.path).expanduser()
        found = (
            local / "schema.json"
            if (local / "schema.json").is_file()
            else locate.find(self.config.path, "schema.json", required=False)
        )
        if found is None or found.parent.name != local.name:
            raise InputError(
                f"{local} is no imported dataset",
                got="no schema.json in it",
                wanted="an imported folder",
                do="run `bench data import` on your files, then pass its folder as dataset.path",
            )
        return found.parent


def _read_schema(folder: Path) -> dict[str, Any]:
    """``embeddings``: modality -> width, ``warnings``: sentences. Modalities name files, so their form is checked."""
    path = folder / "schema.json"
    schema = read_json(path, wanted="the file of the import", do="run `bench data import` again")
    embeddings, warnings = (schema.get(k) for k in ("embeddings", "warnings")) if isinstance(schema, dict) else (0, 0)
    if (
        not isinstance(embeddings, dict)
        or not isinstance(warnings, list)
        or schema.get("format") != FORMAT_VERSION
        or not all(MODALITY.fullmatch(m) and type(width) is int for m, width in embeddings.items())
        or not all(isinstance(warning, str) for warning in warnings)
    ):
        raise InputError(
            f"format of {path}",
            got=repr(schema)[:80],
            wanted=f"format {FORMAT_VERSION}",
            do="run `bench data import` again with this version",
        )
    return {"embeddings": embeddings, "warnings": warnings}


def _checked(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    if "rating" not in table.columns:
        table = table.with_columns(pl.lit(None, dtype=pl.Float64).alias("rating"))
    if dict(table.schema) != {name: EVENT_SCHEMA.get(name) for name in table.columns} or len(table.columns) != 4:
        raise InputError(
            f"columns of {folder / 'interactions.parquet'}",
            got=str(dict(table.schema)),
            wanted=str(EVENT_SCHEMA),
            do="run `bench data import` again",
        )
    return check_events(table, f"{folder / 'interactions.parquet'}")


def _read_catalog(path: Path, keys: tuple[str, ...]) -> tuple[Catalog, dict[str, int]]:
    """Catalogue of exactly ``keys``; items without a row have empty text."""
    if not path.is_file():
        return Catalog(keys=keys), {"items_without_metadata": len(keys), "items_without_text": len(keys)}
    items = read_parquet(path)
    kinds = {"item": pl.String, "price": pl.Float64, "categories": pl.List(pl.String)}
    wrong = [name for name, kind in items.schema.items() if kind != kinds.get(name, pl.String)]
    if "item" not in items.columns or wrong or items["item"].n_unique() != items.height:
        raise InputError(
            f"columns of {path}",
            got=str(dict(items.schema))[:200],
            wanted="a column item with unique keys, texts, and the types that an import writes",
            do="run `bench data import` again",
        )
    ordered = pl.DataFrame({"item": list(keys)}).join(items, on="item", how="left", maintain_order="left")
    known = set(items["item"].to_list())
    columns: dict[str, list[str]] = {}
    categories = None
    for name in items.columns:
        if name == "categories":
            categories = tuple(tuple(part or "" for part in path or ()) for path in ordered[name].to_list())
            columns[name] = [" > ".join(path) for path in categories]
        elif name not in ("item", "price"):
            columns[name] = ordered[name].fill_null("").to_list()
    first = [name for name in ("title", "brand", "categories", "description") if name in columns]
    text = text_columns({name: columns[name] for name in [*first, *(n for n in columns if n not in first)]})
    price = None
    if "price" in items.columns:
        price = ordered["price"].cast(pl.Float32).fill_null(np.nan).to_numpy().astype(np.float32)
    counts = {
        "items_without_metadata": sum(key not in known for key in keys),
        "items_without_text": count_without_text(text, len(keys)),
    }
    return Catalog(keys=keys, text=text, categories=categories, price=price), counts
