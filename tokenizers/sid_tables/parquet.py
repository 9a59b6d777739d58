"""Parquet with columns item, codes (list) and weights (list): what every run leaves as ``sids.parquet``.

Columns item, c0, c1, … are read too. Sizes and order stand in the file's metadata under ``sidbench`` when we wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.parquet import check_extent
from sidbench.tokenizers.sid_tables.table import MAX_FILE_BYTES, MAX_ITEMS, MAX_POSITIONS, PAD, SidTable, from_matrix
from sidbench.tokenizers.sid_tables.text import ITEM_COLUMNS

_METADATA = b"sidbench"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError, OverflowError, pa.ArrowException)


def read_parquet(path: Path) -> SidTable:
    """The table of a parquet file. Raises ``InputError`` for a damaged file, other columns, or codes that are none."""
    try:
        with pq.ParquetFile(path) as file:
            check_extent(file.metadata, path)
            _check_items(file.metadata, path)
            schema = file.schema_arrow
            item = next((n for n in schema.names if n.lower() in ITEM_COLUMNS), None)
            positions = [f"c{p}" for p in range(MAX_POSITIONS) if f"c{p}" in schema.names]
            code_columns = ["codes"] if "codes" in schema.names else positions
            if item is None or not code_columns:
                raise InputError(
                    f"{path}: columns", got=", ".join(schema.names)[:120], wanted="item and codes, or item, c0, c1"
                )
            weights = ["weights"] if "weights" in schema.names and code_columns == ["codes"] else []
            table = file.read(columns=[item, *code_columns, *weights])
            stated = _stated((schema.metadata or {}).get(_METADATA), path)
        keys = _item_keys(table[item], path)
        if code_columns == ["codes"]:
            codes = _matrix(table["codes"], path, "codes", np.int64, PAD)
        else:
            codes = np.stack([_numbers(table[name], path, np.int64, PAD) for name in code_columns], axis=1)
        strengths = _matrix(table["weights"], path, "weights", np.float32, 0) if weights else None
    except _DAMAGE as error:
        raise InputError(
            f"cannot read {path}", got=str(error).partition("\n")[0][:120], wanted="a parquet table", do="write it again"
        ) from error
    return from_matrix(codes, keys, str(path), sizes=stated.get("sizes"), ordered=stated.get("ordered"), weights=strengths)


def _check_items(metadata: Any, path: Path) -> None:
    size = sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))
    if size > MAX_FILE_BYTES or metadata.num_rows > MAX_ITEMS:
        raise InputError(
            f"{path}: too large",
            got=f"{metadata.num_rows:,} rows, {size:,} bytes",
            wanted=f"at most {MAX_ITEMS:,} rows and {MAX_FILE_BYTES:,} bytes",
        )


def _item_keys(column: Any, path: Path) -> list[str]:
    if column.null_count or not (
        pa.types.is_string(column.type)
        or pa.types.is_large_string(column.type)
        or pa.types.is_string_view(column.type)
        or pa.types.is_integer(column.type)
    ):
        raise InputError(
            f"{path}: item column",
            got=f"{column.type} with {column.null_count} missing",
            wanted="one text or whole number a row",
        )
    return [str(key) for key in column.to_pylist()]


def _numbers(column: Any, path: Path, dtype: type, fill: float) -> np.ndarray:
    wanted = pa.types.is_integer if dtype is np.int64 else pa.types.is_floating
    if not wanted(column.type):
        raise InputError(f"{path}: code columns", got=f"values of type {column.type}", wanted="whole numbers")
    return np.asarray(column.fill_null(fill).combine_chunks().to_numpy(zero_copy_only=False)).astype(dtype)


def _matrix(column: Any, path: Path, name: str, dtype: type, fill: float) -> np.ndarray:
    """``[M, L]`` of a list column; shorter rows end in ``fill``."""
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or column.null_count:
        raise InputError(f"{path}: {name} column", got=f"{kind} with {column.null_count} missing", wanted="one list a row")
    rows = pa.chunked_array(column.chunks, type=kind).combine_chunks().cast(pa.large_list(kind.value_type))
    flat, offsets = rows.values, np.asarray(rows.offsets)
    wanted = pa.types.is_integer if dtype is np.int64 else pa.types.is_floating
    if not wanted(flat.type) or flat.null_count:
        raise InputError(
            f"{path}: {name}",
            got=f"values of type {flat.type} with {flat.null_count} missing",
            wanted="whole numbers" if dtype is np.int64 else "finite numbers",
        )
    lengths = np.diff(offsets)
    width = int(lengths.max(initial=0))
    if width > MAX_POSITIONS:
        raise InputError(f"{path}: SIDs too long", got=f"{width} positions", wanted=f"at most {MAX_POSITIONS}")
    matrix: np.ndarray = np.full((len(lengths), width), fill, dtype)
    inside = np.arange(width)[None, :] < lengths[:, None]
    matrix[inside] = np.asarray(flat.to_numpy(zero_copy_only=False))[offsets[0] : offsets[-1]]
    return matrix


def _stated(raw: bytes | None, path: Path) -> dict[str, Any]:
    """Sizes and order that ``write_parquet`` noted."""
    if raw is None:
        return {}
    try:
        noted = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: metadata", got=str(error)[:80], wanted="what sidbench wrote") from error
    sizes, ordered = (noted.get("sizes"), noted.get("ordered")) if isinstance(noted, dict) else (0, 0)
    if not isinstance(sizes, list) or not (ordered is None or isinstance(ordered, bool)):
        raise InputError(f"{path}: metadata", got=repr(noted)[:80], wanted="what sidbench wrote")
    return {"sizes": sizes, "ordered": ordered}


def write_parquet(path: Path, table: SidTable, keys: Sequence[str]) -> None:
    """Columns item, codes, weights where there are some; sizes and order in the metadata."""
    columns = {"item": pa.array(list(keys), pa.string()), "codes": pa.array(table.codes.tolist(), pa.list_(pa.int32()))}
    if table.weights is not None:
        columns["weights"] = pa.array(table.weights.tolist(), pa.list_(pa.float32()))
    noted = json.dumps({"sizes": table.sizes.tolist(), "ordered": table.ordered}).encode()
    pq.write_table(pa.table(columns).replace_schema_metadata({_METADATA: noted}), path)
