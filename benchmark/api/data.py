"""Data frames of one's own as a data set that ``sidbench.run`` takes."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sidbench.benchmark.api.homes import at_home
from sidbench.benchmark.store.paths import home_folder
from sidbench.datasets.base import Dataset
from sidbench.datasets.custom import Custom, CustomConfig
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file, hash_json
from sidbench.datasets.reading.importing import ImportReport, import_custom
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.reading.vectors import write_vectors

_ENCODED = ("text", "vision", "behaviour")  # the modalities that have an encoder setting ``features.<modality>``


@dataclass(frozen=True)
class ImportedDataset:
    """A data set in a folder, as ``bench data import`` writes it; ``sidbench.run(dataset=...)`` takes it.

    folder: where it lies. columns: role -> the column it was taken from. counts: rows, users, items, embeddings.
    remarks: what was repaired or left out. settings: those with which a run reads it, ``bench run --dataset custom`` too.
    """

    folder: Path
    columns: Mapping[str, str]
    counts: Mapping[str, int]
    remarks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Dataset:
        """The data as arrays: interactions, catalogue and card."""
        return Custom(CustomConfig(path=str(self.folder))).load(LocalFiles(self.folder))

    def __repr__(self) -> str:
        size = ", ".join(f"{self.counts[name]:,} {name}" for name in ("users", "items", "interaction_rows"))
        taken = ", ".join(f"{role} from {column!r}" for role, column in self.columns.items())
        return f"<ImportedDataset: {size.replace('interaction_rows', 'interactions')}; {taken}>"


def dataset_from_frames(
    interactions: Any,
    items: Any = None,
    *,
    embeddings: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    home: str | Path | None = None,
) -> ImportedDataset:
    """A data set from pandas or polars frames, checked as ``bench data import`` checks files.

    Parameters
    ----------
    interactions: one row per event with columns ``user``, ``item``, ``timestamp`` and, for the ranking task, ``rating``.
    items: one row per item with ``item`` and any of ``title``, ``brand``, ``categories``, ``description``, ``price``;
        every other text column is read as text, too.
    embeddings: modality -> numbers ``[N, D]`` with one row per row of ``items``; runs then use them instead of an encoder.
    columns: role -> column, where names differ: ``{"user": "uid", "items.title": "name"}``. A usual synonym that is
        taken without being named here is said in a warning.
    time_unit: "s" or "ms", of numeric times.
    home: the data set is kept below ``<home>/datasets``; equal frames give the same folder.

    Raises ``InputError`` naming every problem at once: missing columns, keys, unreadable times, repeated items.
    """
    with at_home(home):
        root = (home_folder() / "datasets").absolute()
    with storing("dataset_from_frames", root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".frames-", dir=root) as scratch:
            sources = {"interactions": _written(interactions, "interactions", Path(scratch))}
            if items is not None:
                sources["items"] = _written(items, "items", Path(scratch))
            given = dict(embeddings or {})
            if given:
                keys = _item_keys(sources.get("items"), columns or {})
                sources |= {m: write_vectors(Path(scratch), m, keys, _rows(m, rows, keys)) for m, rows in given.items()}
            target = root / f"frames-{_identity(sources, columns or {}, time_unit)}"
            report = import_custom(
                Path(scratch) / "imported",
                sources["interactions"],
                sources.get("items"),
                {m: sources[m] for m in given},
                columns=columns,
                time_unit=time_unit,
            )
            _refuse_errors(report)
            _keep(report.folder, target)
    remarks = tuple(str(problem) for problem in report.problems)
    for line in (*_guesses(report, columns or {}), *remarks):
        warnings.warn(line, stacklevel=2)
    used = {f"features.{m}": "precomputed" for m in given if m in _ENCODED}
    return ImportedDataset(target, report.columns, report.counts, remarks, {"dataset.path": str(target), **used})


def _written(frame: Any, name: str, folder: Path) -> Path:
    """The frame as ``<folder>/<name>.parquet``."""
    if not isinstance(frame, pl.DataFrame):
        import pandas as pd

        if not isinstance(frame, pd.DataFrame):
            raise InputError(name, got=type(frame).__name__, wanted="a pandas or polars DataFrame")
        if not all(isinstance(column, str) for column in frame.columns):
            raise InputError(f"columns of {name}", got=repr(list(frame.columns))[:120], wanted="names, as strings")
        try:
            frame = pl.from_pandas(frame)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:  # ArrowInvalid is a ValueError
            raise InputError(f"frame {name}", got=str(error)[:200], wanted="columns of one type each") from error
    path = folder / f"{name}.parquet"
    frame.write_parquet(path)
    return path


def _item_keys(items: Path | None, columns: Mapping[str, str]) -> np.ndarray:
    """Keys of the rows of ``items``, in the order of its rows, which is that of embeddings."""
    from sidbench.datasets.reading.table import as_keys, find_column, read_table

    if items is None:
        raise InputError("embeddings", got="no items", wanted="the items whose rows they belong to", do="give items=")
    table = read_table(items)
    chosen = {"item": columns["items.item"]} if "items.item" in columns else {}
    column = find_column(table, "item", chosen)
    if column is None:
        raise InputError("columns of items", got=", ".join(table.columns), wanted="item", do="name it with columns=")
    return as_keys(table[column]).fill_null("").to_numpy().astype(str)


def _rows(modality: str, rows: Any, keys: np.ndarray) -> np.ndarray:
    numbers = np.asarray(rows)
    if numbers.dtype.kind not in "fiu" or numbers.ndim != 2 or len(numbers) != len(keys) or not numbers.shape[1]:
        raise InputError(
            f"embeddings[{modality!r}]",
            got=f"{numbers.dtype} of shape {numbers.shape}",
            wanted=f"numbers of shape ({len(keys)}, dimensions), one row per row of items",
        )
    return numbers


def _identity(sources: Mapping[str, Path], columns: Mapping[str, str], time_unit: str) -> str:
    return hash_json([{name: hash_file(path) for name, path in sources.items()}, dict(columns), time_unit])[:16]


def _refuse_errors(report: ImportReport) -> None:
    if not report.written:
        errors = [str(problem) for problem in report.problems if problem.severity == "error"]
        raise InputError("dataset_from_frames", got="; ".join(errors), wanted="frames without errors")


def _keep(made: Path, target: Path) -> None:
    """Put an import at its place; another process may have put an equal one there meanwhile."""
    try:
        os.rename(made, target)
    except OSError:
        if not (target / "schema.json").is_file():
            raise
        shutil.rmtree(made)


def _guesses(report: ImportReport, columns: Mapping[str, str]) -> list[str]:
    """A sentence for every column that was taken by a synonym of its role."""
    return [
        f"dataset_from_frames took {role} from the column {column!r}; give columns={{{role!r}: ...}} for another one"
        for role, column in report.columns.items()
        if role not in columns and column != role.rpartition(".")[2]
    ]
