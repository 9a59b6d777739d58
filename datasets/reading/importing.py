"""Import of a user's own data into one normalised folder, with a report that names every problem at once.

The folder holds ``interactions.parquet`` (user, item, timestamp, rating), ``items.parquet`` (item, text fields,
categories, price), ``embeddings/<modality>.npz`` (keys, embeddings) and ``schema.json`` (format, sources, counts).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.reading.table import (
    Problem,
    Problems,
    as_keys,
    as_numbers,
    as_path,
    as_seconds,
    find_column,
    read_table,
)
from sidbench.datasets.reading.vectors import read_vectors, write_vectors

FORMAT_VERSION = 1
ROLES = (
    "user",
    "item",
    "timestamp",
    "rating",
    "items.item",
    "items.title",
    "items.brand",
    "items.categories",
    "items.price",
    "items.description",
    "embeddings.item",
    "embeddings.embedding",
)
MODALITY = re.compile(r"[a-z][a-z0-9_]{0,63}")  # names become files: embeddings/<modality>.npz
_MILLISECONDS_FROM = 10**11  # as seconds this is the year 5138


@dataclass(frozen=True)
class ImportReport:
    """What an import found. ``written`` is false exactly when a problem is an error: then nothing was written.

    columns: role -> column used. counts: rows, users, items and embeddings. problems: every one found, errors first.
    """

    folder: Path
    written: bool
    columns: Mapping[str, str]
    counts: Mapping[str, int]
    problems: tuple[Problem, ...] = ()

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""
        return [
            *(f"{role} <- column {column!r}" for role, column in self.columns.items()),
            *(f"{name}: {count:,}" for name, count in self.counts.items()),
            *map(str, self.problems),
            f"written to {self.folder}" if self.written else "nothing written: repair the errors and import again",
        ]


@dataclass
class _State:
    chosen: Mapping[str, str]
    problems: Problems = field(default_factory=Problems)
    columns: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def choices(self, part: str) -> dict[str, str]:
        """Columns the user chose for the roles of one file ("" interactions, "items.", "embeddings.")."""
        return {
            role.removeprefix(part): column
            for role, column in self.chosen.items()
            if role.startswith(part) and "." not in role.removeprefix(part)
        }


def import_custom(
    folder: Path,
    interactions: Path,
    items: Path | None = None,
    embeddings: Mapping[str, Path] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    overwrite: bool = False,
) -> ImportReport:
    """Check a user's files and write the normalised folder that ``--dataset custom dataset.path=FOLDER`` reads.

    Parameters
    ----------
    folder: where to write; must not exist, or be an earlier import and ``overwrite``.
    interactions: table with user, item, timestamp and optionally rating (csv, tsv, jsonl, parquet; plain or gzip).
    items: table with an item key; title, brand, categories, description, price by name, every other text column too.
    embeddings: modality -> npy (rows as in ``items``), npz (``keys``, ``embeddings``) or parquet (item, list column).
    columns: role (one of ``ROLES``) -> column name, where the names are not the usual ones.
    time_unit: "s" or "ms" of numeric times; dates and date texts are understood too.

    Returns the report; data problems are in it, not raised. Raises ``InputError`` for files that cannot be opened, an
    unknown role, modality name or unit, and a folder that would be overwritten.
    """
    state = _State(dict(columns or {}))
    _check_call(folder, state.chosen, embeddings or {}, time_unit, overwrite)
    events = _read_interactions(interactions, state, time_unit)
    catalog = None if items is None else _read_items(items, state)
    if events is not None and catalog is not None:
        _compare(events, catalog, interactions.name, state)
    vectors = {}
    for modality, path in (embeddings or {}).items():
        order = None if catalog is None else catalog["item"].fill_null("").to_list()
        loaded = read_vectors(path, order, state.choices("embeddings."), state.problems)
        if loaded is not None:
            vectors[modality] = loaded
            _cover(modality, path.name, loaded[0], events, state)
    state.problems.found.sort(key=lambda problem: problem.severity != "error")
    written = state.problems.n_errors == 0 and events is not None
    if written and events is not None:
        sources = {"interactions": interactions, **({"items": items} if items else {}), **(embeddings or {})}
        _write(folder, events, catalog, vectors, sources, state)
    return ImportReport(folder, written, state.columns, state.counts, tuple(state.problems.found))


def _check_call(folder: Path, chosen: Mapping[str, str], embeddings: Mapping[str, Path], unit: str, again: bool) -> None:
    unknown = sorted(set(chosen) - set(ROLES))
    if unknown:
        raise InputError("unknown column roles", got=", ".join(unknown), wanted=", ".join(ROLES))
    if unit not in ("s", "ms"):
        raise InputError("time_unit", got=repr(unit), wanted="s or ms")
    for modality in embeddings:
        if not MODALITY.fullmatch(modality):
            raise InputError("modality name", got=repr(modality), wanted="lower-case letters, digits, _ (text, vision)")
    if folder.exists() and not (again and (folder / "schema.json").is_file()):
        raise InputError(
            f"{folder} exists",
            got="a file or folder of that name",
            wanted="a new folder",
            do="choose another folder, or overwrite an earlier import on purpose",
        )


def _read_interactions(path: Path, state: _State, unit: str) -> pl.DataFrame | None:
    table, problems, name = read_table(path), state.problems, path.name
    found = {role: find_column(table, role, state.choices("")) for role in ("user", "item", "timestamp", "rating")}
    missing = [role for role in ("user", "item", "timestamp") if found[role] is None]
    missing += [role for role in ("rating",) if role in state.chosen and found[role] is None]
    problems.add(
        "error",
        name,
        f"columns missing ({', '.join(missing)})",
        len(missing),
        [f"columns present: {', '.join(table.columns)}"],
        "name them with columns=",
    )
    state.counts["interaction_rows"] = table.height
    problems.add("error", name, "no rows", int(table.height == 0))
    if missing or table.height == 0:
        return None
    state.columns.update({role: column for role, column in found.items() if column is not None})
    columns = {}
    for role in ("user", "item"):
        raw = table[str(found[role])]
        columns[role] = as_keys(raw)
        problems.rows("error", name, f"{role} missing", columns[role].is_null(), raw)
    raw = table[str(found["timestamp"])]
    columns["timestamp"] = seconds = as_seconds(raw, unit)
    problems.rows("error", name, "timestamp missing or unreadable", seconds.is_null(), raw, "use unix times or ISO dates")
    problems.rows("error", name, "timestamp before 1970", seconds < 0, raw)
    problems.rows(
        "error",
        name,
        "timestamp after the year 5138",
        seconds >= _MILLISECONDS_FROM,
        raw,
        "these look like milliseconds: set the time unit to ms",
    )
    if found["rating"] is not None:
        raw = table[found["rating"]]
        columns["rating"] = as_numbers(raw)
        if raw.null_count() == len(raw):
            problems.add("warning", name, "rating column is empty and left out", 1)
            del columns["rating"]
        else:
            problems.rows("error", name, "rating missing, no number or not finite", columns["rating"].is_null(), raw)
    events = pl.DataFrame({role: column.alias(role) for role, column in columns.items()})
    copies = events.height - events.n_unique()
    problems.add("warning", name, "duplicate rows (the first counts)", copies)
    problems.add(
        "warning",
        name,
        "repeated (user, item) pairs (the earliest counts)",
        events.height - events.select("user", "item").n_unique() - copies,
    )
    per_user = events.group_by("user").len()["len"]
    problems.add("warning", name, "users with fewer than 3 events (no leave-last-out split)", int((per_user < 3).sum()))
    state.counts |= {"users": events["user"].n_unique(), "items": events["item"].n_unique()}
    return events


def _read_items(path: Path, state: _State) -> pl.DataFrame | None:
    table, problems, name = read_table(path), state.problems, path.name
    chosen = state.choices("items.")
    found = {
        role: find_column(table, role, chosen) for role in ("item", "title", "brand", "categories", "description", "price")
    }
    missing = [role for role, column in found.items() if column is None and (role == "item" or role in chosen)]
    problems.add(
        "error",
        name,
        f"columns missing ({', '.join(missing)})",
        len(missing),
        [f"columns present: {', '.join(table.columns)}"],
        "name them with columns=",
    )
    state.counts["item_rows"] = table.height
    if found["item"] is None:
        return None
    state.columns.update({f"items.{role}": column for role, column in found.items() if column is not None})
    keys = as_keys(table[found["item"]])
    problems.rows("error", name, "item key missing", keys.is_null(), table[found["item"]])
    repeats = keys.drop_nulls().value_counts().filter(pl.col("count") > 1)
    problems.add(
        "error",
        name,
        "item keys that repeat",
        repeats.height,
        [str(key) for key in repeats[:, 0].sort().to_list()[:3]],
        "keep one row per item",
    )
    columns: dict[str, pl.Series] = {"item": keys}
    for role in ("title", "brand", "description"):
        if found[role] is not None:
            columns[role] = _text(table[str(found[role])])
    if found["categories"] is not None:
        paths = [as_path(value) for value in table[found["categories"]].to_list()]
        columns["categories"] = pl.Series(paths, dtype=pl.List(pl.String))
    used = {column for column in found.values() if column is not None}
    for column in table.columns:
        if column not in used and table[column].dtype == pl.String and column not in columns:
            columns[column] = _text(table[column])
    if found["price"] is not None:
        raw = table[found["price"]]
        columns["price"] = as_numbers(raw)
        empty = _text(raw) == "" if raw.dtype == pl.String else raw.is_null()
        problems.rows(
            "error",
            name,
            "price is no finite number",
            columns["price"].is_null() & ~empty,
            raw,
            "use plain numbers, empty where unknown",
        )
    return pl.DataFrame({role: column.alias(role) for role, column in columns.items()})


def _text(column: pl.Series) -> pl.Series:
    return column.cast(pl.String, strict=False).fill_null("").str.replace_all(r"\s+", " ").str.strip_chars()


def _compare(events: pl.DataFrame, catalog: pl.DataFrame, file: str, state: _State) -> None:
    seen, known = set(events["item"].drop_nulls()), set(catalog["item"].drop_nulls())
    unknown = sorted(seen - known)
    strangers = "error" if len(unknown) == len(seen) else "warning"
    state.problems.add(
        strangers,
        file,
        "items without a row in the items file (they have no text)",
        len(unknown),
        unknown[:3],
        "use the same item keys in both files" if strangers == "error" else "",
    )
    idle = sorted(known - seen)
    state.problems.add("warning", file, "items of the items file without interactions (left out)", len(idle), idle[:3])


def _cover(modality: str, file: str, keys: np.ndarray, events: pl.DataFrame | None, state: _State) -> None:
    state.counts[f"{modality}_embeddings"] = len(keys)
    if events is None:
        return
    seen, given = set(events["item"].drop_nulls()), set(keys.tolist())
    covered = len(seen & given)
    state.counts[f"items_with_{modality}"] = covered
    state.problems.add(
        "error",
        file,
        "no key equals an item of the interactions",
        int(covered == 0),
        sorted(given)[:3],
        "use the same item keys in both files",
    )
    if covered:
        lacking, unknown = sorted(seen - given), sorted(given - seen)
        state.problems.add("warning", file, f"items without {modality} embedding", len(lacking), lacking[:3])
        state.problems.add("warning", file, "embeddings of items without interactions (not used)", len(unknown), unknown[:3])


def _write(
    folder: Path,
    events: pl.DataFrame,
    catalog: pl.DataFrame | None,
    vectors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    sources: Mapping[str, Path],
    state: _State,
) -> None:
    """Write beside ``folder`` and rename, so that a folder is complete or absent."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.importing")
    try:
        partial.mkdir(parents=True)
        events.write_parquet(partial / "interactions.parquet")
        if catalog is not None:
            catalog.write_parquet(partial / "items.parquet")
        for modality, (keys, values) in vectors.items():
            write_vectors(partial, modality, keys, values)
        schema = {
            "format": FORMAT_VERSION,
            "columns": state.columns,
            "counts": state.counts,
            "embeddings": {modality: int(values.shape[1]) for modality, (_, values) in vectors.items()},
            "sources": {role: {"name": path.name, "sha256": hash_file(path)} for role, path in sources.items()},
            "warnings": [str(problem) for problem in state.problems.found],
        }
        (partial / "schema.json").write_text(json.dumps(schema, indent=1, sort_keys=True), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}", got=error.strerror or str(error), wanted="a writable place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
