"""Precomputed item embeddings: npy, npz or parquet in; ``embeddings/<modality>.npz`` (``keys``, ``embeddings``) out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from sidbench.datasets.reading.archives import read_npy, read_npz
from sidbench.datasets.reading.table import Problems, as_keys, find_column, read_table


def read_vectors(
    path: Path, item_order: Sequence[str] | None, chosen: Mapping[str, str], problems: Problems
) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys (unicode ``[M]``) and embeddings (float32 ``[M, D]``), or ``None`` after recording why they cannot be used.

    An ``.npy`` holds one row per row of the items file (``item_order``); an ``.npz`` holds arrays ``keys`` and
    ``embeddings``; a table holds an item column and a list column. Pickled arrays are refused.
    Raises ``InputError`` when the file cannot be opened.
    """
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        loaded = {"embeddings": read_npy(path)} if suffix == ".npy" else read_npz(path)
        if suffix == ".npy":
            if item_order is None:
                problems.add(
                    "error",
                    path.name,
                    "rows without keys: an .npy needs an items file for its order",
                    1,
                    do="pass the items file, or an .npz with arrays keys and embeddings",
                )
                return None
            keys, values = np.asarray(list(item_order), dtype=str), loaded["embeddings"]
        else:
            lacking = {"keys", "embeddings"} - set(loaded)
            if lacking:
                problems.add(
                    "error",
                    path.name,
                    f"arrays missing ({', '.join(sorted(lacking))})",
                    len(lacking),
                    [f"arrays present: {', '.join(sorted(loaded))}"],
                    "save keys and embeddings",
                )
                return None
            keys, values = loaded["keys"].astype(str), loaded["embeddings"]
    else:
        table = read_table(path)
        item, embedding = find_column(table, "item", chosen), find_column(table, "embedding", chosen)
        if item is None or embedding is None:
            problems.add(
                "error",
                path.name,
                "columns missing (item, embedding)",
                (item, embedding).count(None),
                [f"columns present: {', '.join(table.columns)}"],
                "name them with columns=",
            )
            return None
        keys = as_keys(table[item]).fill_null("").to_numpy().astype(str)
        lists = table[embedding]
        is_list = lists.dtype in (pl.List, pl.Array)
        n_widths = lists.list.len().n_unique() if lists.dtype == pl.List else int(is_list)
        if n_widths != 1 or lists.null_count():
            problems.add(
                "error",
                path.name,
                "embedding column is no list of equal lengths in every row",
                1,
                [f"type {lists.dtype}, {n_widths} different lengths, {lists.null_count()} missing"],
            )
            return None
        values = np.array(lists.to_list())
    return _check(path.name, keys, values, problems)


def _check(file: str, keys: np.ndarray, values: np.ndarray, problems: Problems) -> tuple[np.ndarray, np.ndarray] | None:
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        problems.add(
            "error",
            file,
            "no numeric matrix",
            1,
            [f"shape {values.shape}, type {values.dtype}"],
            "save one row of numbers per item",
        )
        return None
    if keys.shape != (len(values),):
        problems.add(
            "error",
            file,
            "row count differs from the number of items",
            abs(len(values) - keys.size),
            [f"{len(values):,} rows for {keys.size:,} keys"],
            "export one row per item, in the items' order",
        )
        return None
    with np.errstate(over="ignore"):
        vectors = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    problems.add(
        "error",
        file,
        "rows with NaN or infinite values",
        len(bad),
        [f"row {r + 1}: item {keys[r]}" for r in bad[:3]],
        "re-export or remove these rows",
    )
    empty = np.flatnonzero(keys == "")
    problems.add("error", file, "rows without item key", len(empty), [f"row {r + 1}" for r in empty[:3]])
    names, counts = np.unique(keys, return_counts=True)
    problems.add(
        "error", file, "item keys that repeat", int((counts > 1).sum()), list(names[counts > 1][:3]), "keep one row per item"
    )
    zero = np.flatnonzero((vectors == 0).all(axis=1))
    problems.add("warning", file, "rows that are all zero", len(zero), [f"row {r + 1}: item {keys[r]}" for r in zero[:3]])
    return keys, vectors


def write_vectors(folder: Path, modality: str, keys: np.ndarray, embeddings: np.ndarray) -> Path:
    """Write ``<folder>/embeddings/<modality>.npz``: ``keys`` unicode ``[M]``, ``embeddings`` float32 ``[M, D]``."""
    target = folder / "embeddings" / f"{modality}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, keys=keys.astype(str), embeddings=embeddings.astype(np.float32))
    return target
