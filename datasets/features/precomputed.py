"""Embeddings made elsewhere: ``.npy`` by row, ``.npz`` and ``.parquet`` keyed by item. Nothing pickled is ever read.

- ``.npy``: a numeric array ``[N, D]``, one row per catalogue item in item order.
- ``.npz``: ``keys`` (``M`` strings or integers) and ``embeddings`` ``[M, D]``.
- ``.parquet``: a column ``key`` and either one list column or ``D`` numeric columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from sidbench.datasets.features.encoding import Encoding, encoding
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.mapped import row_blocks
from sidbench.datasets.reading.archives import read_npy, read_npz
from sidbench.datasets.reading.parquet import read_parquet

SUFFIXES = (".npz", ".npy", ".parquet")
KEY_COLUMN = "key"


def read_precomputed(path: Path, keys: Sequence[str], modality: str) -> Encoding:
    """Embeddings of the items ``keys`` from ``path``: float32 ``[N, D]`` and who is in the file.

    Items that a keyed file lacks are not available and counted as ``<modality>_items_missing``; keys outside the
    catalogue are counted as ``<modality>_keys_unknown``.

    Raises ``InputError`` for an unknown suffix, a damaged or pickled file, a wrong row count, repeated keys, values
    that are not finite numbers, or a file in which no catalogue item occurs.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{modality} embeddings {path.name}",
            got=f"a {path.suffix or 'suffixless'} file",
            wanted=" or ".join(SUFFIXES),
            do="export the embeddings in one of these formats",
        )
    read = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}[path.suffix]
    names, values = read(path)
    matrix = _check_matrix(path, values)
    if names is None:
        if len(matrix) != len(keys):
            raise InputError(
                f"{modality} embeddings {path.name}",
                got=f"{len(matrix)} rows",
                wanted=f"{len(keys)}, one per catalogue item in item order",
                do="export again, or key the rows by item in an .npz or .parquet file",
            )
        return Encoding(matrix, np.ones(len(keys), bool))
    return _align(path, names, matrix, keys, modality)


def _align(path: Path, names: list[str], matrix: np.ndarray, keys: Sequence[str], modality: str) -> Encoding:
    if len(names) != len(matrix):
        raise InputError(
            f"{path.name}",
            got=f"{len(names)} keys and {len(matrix)} embeddings",
            wanted="one key per row",
            do="export again",
        )
    row = {name: i for i, name in enumerate(names)}
    if len(row) != len(names):
        raise InputError(
            f"keys of {path.name} repeat",
            got=f"{len(names) - len(row)} repeats",
            wanted="unique keys",
            do="keep one row per item",
        )
    index = np.array([row.get(key, -1) for key in keys], np.int64)
    available = index >= 0
    if not available.any():
        raise InputError(
            f"{path.name} holds no item of the catalogue",
            got=f"keys such as {names[:3]}",
            wanted=f"keys such as {list(keys[:3])}",
            do="key the rows by the dataset's raw item keys",
        )
    known = int(available.sum())
    return encoding(
        matrix[index[available]],
        available,
        {f"{modality}_items_missing": len(keys) - known, f"{modality}_keys_unknown": len(names) - known},
    )


def _check_matrix(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise InputError(
            f"embeddings of {path.name}",
            got=f"{values.dtype} of shape {values.shape}",
            wanted="numbers of shape (items, dimensions)",
            do="export one row of numbers per item",
        )
    with np.errstate(over="ignore"):
        matrix = np.asarray(values, np.float32)  # a map of float32 stays one
    broken = np.concatenate(
        [
            np.zeros(0, np.int64),
            *(part.start + np.flatnonzero(~np.isfinite(block).all(axis=1)) for part, block in row_blocks(matrix)),
        ]
    )
    if len(broken):
        raise InputError(
            f"embeddings of {path.name}",
            got=f"NaN or infinite values in {len(broken)} of {len(matrix)} rows (first: row {broken[0]})",
            wanted="finite numbers in the range of float32",
            do="repair these rows, or leave the items out of a keyed file",
        )
    return matrix


def _read_npy(path: Path) -> tuple[None, np.ndarray]:
    return None, read_npy(path, mapped=True)


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    arrays = read_npz(path, ("keys", "embeddings"))
    if len(arrays) < 2:
        raise InputError(
            f"arrays of {path.name}",
            got=sorted(arrays),
            wanted="the arrays keys and embeddings",
            do="numpy.savez(path, keys=..., embeddings=...)",
        )
    names, values = arrays["keys"], arrays["embeddings"]
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise InputError(
            f"keys of {path.name}",
            got=f"{names.dtype} of shape {names.shape}",
            wanted="one string or integer per row",
            do="numpy.savez(path, keys=array of strings, ...)",
        )
    try:
        return [k.decode() if isinstance(k, bytes) else str(k) for k in names.tolist()], values
    except ValueError as error:  # bytes or code points that are no text
        raise InputError(f"keys of {path.name}", got=str(error), wanted="texts in UTF-8", do="export again") from error


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    table = read_parquet(path)
    if KEY_COLUMN not in table.columns or table.width < 2:
        raise InputError(
            f"columns of {path.name}",
            got=table.columns,
            wanted=f"{KEY_COLUMN!r} and the embeddings",
            do=f"name the column of item keys {KEY_COLUMN!r}",
        )
    kind = table.schema[KEY_COLUMN]
    if kind != pl.String and not kind.is_integer():
        raise InputError(
            f"column {KEY_COLUMN} of {path.name}",
            got=f"values of type {kind}",
            wanted="texts or whole numbers",
            do="write the raw item keys there",
        )
    if any(table.null_count().row(0)):
        raise InputError(
            f"{path.name}",
            got="missing values",
            wanted="a key and an embedding in every row",
            do="leave items without an embedding out",
        )
    names = table[KEY_COLUMN].cast(pl.String).to_list()
    rest = table.drop(KEY_COLUMN)
    nested = [c for c in rest.columns if isinstance(rest.schema[c], (pl.List, pl.Array))]
    if not nested:
        wrong = [c for c in rest.columns if not rest.schema[c].is_numeric()]
        if wrong:
            raise InputError(
                f"columns of {path.name}",
                got=f"{wrong[:3]} without numbers",
                wanted="numeric columns",
                do="drop the other columns",
            )
        return names, rest.to_numpy()
    if rest.width > 1:
        raise InputError(
            f"columns of {path.name}",
            got=rest.columns,
            wanted="one list column beside the keys",
            do="drop the other columns",
        )
    inner = getattr(rest.schema[nested[0]], "inner", None)
    if inner is None or not inner.is_numeric():
        raise InputError(
            f"column {nested[0]} of {path.name}",
            got=f"lists of {inner}",
            wanted="lists of numbers",
            do="export one list of numbers per row",
        )
    vectors = rest[nested[0]].cast(pl.List(pl.Float64), strict=False)
    widths = vectors.list.len()
    if len(vectors) == 0 or widths.n_unique() != 1 or vectors.explode().null_count():
        raise InputError(
            f"column {nested[0]} of {path.name}",
            got=f"{widths.n_unique()} lengths or missing numbers",
            wanted="numeric lists of one length",
            do="export again",
        )
    return names, vectors.explode().to_numpy().reshape(len(vectors), -1)
