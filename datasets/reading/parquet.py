"""Parquet files of strangers, read by Arrow and handed to polars.

Arrow's reader is fuzzed and turns damage into errors, where polars' panics; and it takes a path as it is, where polars
would look for other files if the name holds a wildcard.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.archives import check_unpacked

MAX_ROWS = 1 << 31
PARQUET_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    RecursionError,
    pa.ArrowException,
)
"""What damaged files make ``pyarrow`` raise."""


def check_extent(metadata: Any, path: Path) -> None:
    """Raise ``InputError`` when a file claims more rows or bytes than it can hold.

    metadata: the ``FileMetaData`` of pyarrow. Only its row groups are asked: ``column()`` ends the process (an uncaught
    C++ exception in pyarrow 26) where the metadata of a column are damaged.
    """
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    sizes = [group.total_byte_size for group in groups]
    rows = [metadata.num_rows, *(group.num_rows for group in groups)]
    if min([*rows, *sizes], default=0) < 0 or max(rows) > MAX_ROWS or sum(rows[1:]) != rows[0]:
        raise InputError(
            f"cannot read {path}",
            got=f"{metadata.num_rows:,} rows that do not fit its {len(groups):,} groups",
            wanted=f"a parquet table of at most {MAX_ROWS:,} rows",
            do="write it again",
        )
    # A run of equal or missing values takes a few bytes however long it is, so cells count as well as bytes.
    check_unpacked(str(path), max(sum(sizes), 8 * metadata.num_rows * metadata.num_columns), path.stat().st_size)


def read_parquet(path: Path, columns: Collection[str] | None = None) -> pl.DataFrame:
    """The columns of a parquet file (all by default; those it lacks are left out), numbers, texts, times and lists.

    Raises ``InputError`` for a file that is damaged or cannot be read, for one that claims more than it can hold, and
    for a column of another type.
    """
    try:
        with pq.ParquetFile(path) as file:
            check_extent(file.metadata, path)
            wanted = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            table = file.read(columns=wanted)
        table.validate(full=True)  # bytes that are no text, offsets that lead out of their buffer
        for field in table.schema:
            if not _is_plain(field.type):
                raise InputError(
                    f"{path}: column {field.name!r}",
                    got=f"values of type {field.type}",
                    wanted="numbers, texts, times, or lists of them",
                    do="leave this column out",
                )
        return pl.DataFrame(table)
    except (*PARQUET_DAMAGE, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(
            f"cannot read {path}", got=str(error).partition("\n")[0][:160], wanted="a parquet table", do="write it again"
        ) from error


def _is_plain(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_date,
        pa.types.is_timestamp,
        pa.types.is_decimal,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)
