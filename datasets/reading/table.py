"""A user's own tables: csv, tsv, JSON lines or parquet (plain or gzip), columns found by role, cells converted."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.lines import read_blocks, read_records
from sidbench.datasets.reading.parquet import read_parquet

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "reviewerid", "customer_id", "session_id", "visitorid"),
    "item": (
        "item",
        "item_id",
        "itemid",
        "iid",
        "asin",
        "parent_asin",
        "movie_id",
        "movieid",
        "product_id",
        "sku",
        "key",
        "id",
    ),
    "timestamp": ("timestamp", "time", "unix_time", "unixreviewtime", "ts", "datetime", "date"),
    "rating": ("rating", "overall", "score", "stars", "label"),
    "title": ("title", "name", "item_name", "product_name"),
    "brand": ("brand", "store", "manufacturer"),
    "categories": ("categories", "category", "genres", "category_path"),
    "price": ("price",),
    "description": ("description", "overview", "summary", "text"),
    "embedding": ("embedding", "embeddings", "vector", "features"),
}
"""Role -> accepted column names, compared in lower case, in order of preference."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file. ``severity`` error: the import is refused; warning: repaired or harmless, but counted.

    examples: where it is seen first, such as "row 7: 'abc'" (rows count from 1, without the header).
    """

    severity: str
    file: str
    what: str
    count: int
    examples: tuple[str, ...] = ()
    do: str = ""

    def __str__(self) -> str:
        seen = f" ({'; '.join(self.examples)})" if self.examples else ""
        step = f". To do: {self.do}" if self.do else ""
        return f"{self.severity}: {self.file}: {self.what}: {self.count:,}{seen}{step}"


@dataclass
class Problems:
    """Collects problems, so that a report names all of them and not only the first."""

    found: list[Problem] = field(default_factory=list)

    def add(self, severity: str, file: str, what: str, count: int, examples: Sequence[str] = (), do: str = "") -> None:
        """Record a problem unless ``count`` is zero."""
        if count:
            self.found.append(Problem(severity, file, what, count, tuple(examples), do))

    def rows(self, severity: str, file: str, what: str, bad: pl.Series, values: pl.Series, do: str = "") -> None:
        """Record the rows where ``bad`` (Boolean ``[E]``) holds, with the first three as examples."""
        rows = bad.fill_null(False).arg_true().to_list()
        self.add(severity, file, what, len(rows), [f"row {r + 1}: {values[r]!r}" for r in rows[:3]], do)

    @property
    def n_errors(self) -> int:
        return sum(problem.severity == "error" for problem in self.found)


def format_of(path: Path) -> str:
    """The format suffix of ``path`` (without .gz). Raises ``InputError`` for one that is not in ``FORMATS``."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"format of {path}",
            got=repr(suffix),
            wanted=" ".join(FORMATS) + ", plain or .gz",
            do="convert the file or rename it",
        )
    return suffix


def read_table(path: Path) -> pl.DataFrame:
    """All columns of a table; cells of csv and tsv stay text, so that a wrong cell can be named later.

    Raises ``InputError`` for an unknown format, a damaged file or a malformed line (named when it is JSON).
    """
    suffix = format_of(path)
    if suffix == ".parquet":
        return read_parquet(path)
    try:
        block = io.BytesIO(b"".join(block for _, block in read_blocks(path)))
        if suffix in (".csv", ".tsv"):
            return pl.read_csv(block, separator="\t" if suffix == ".tsv" else ",", infer_schema=False)
        return pl.read_ndjson(block, infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if suffix in (".jsonl", ".ndjson"):
            for _ in read_records(path):  # names the malformed line, if there is one
                pass
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"cannot read {path}",
            got=reason,
            wanted=f"a {suffix[1:]} table with a header",
            do="repair the file or export it again",
        ) from error


def find_column(table: pl.DataFrame, role: str, chosen: Mapping[str, str]) -> str | None:
    """The column of a role: the one the user chose, else the first synonym present, else ``None``."""
    if role in chosen:
        return chosen[role] if chosen[role] in table.columns else None
    lowered = {name.lower(): name for name in reversed(table.columns)}
    return next((lowered[name] for name in SYNONYMS[role] if name in lowered), None)


def as_keys(column: pl.Series) -> pl.Series:
    """Raw keys as text, white space at the ends removed; empty becomes null, and so do lists and records. Whole floats
    lose their ".0"."""
    if column.dtype.is_nested():
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    if column.dtype.is_float() and (column.drop_nulls() % 1 == 0).all():
        column = column.cast(pl.Int64, strict=False)
    text = column.cast(pl.String, strict=False).str.strip_chars()
    return pl.select(pl.when(text != "").then(text)).to_series().alias(column.name)


def as_numbers(column: pl.Series) -> pl.Series:
    """Float64; cells that are no finite number become null."""
    if column.dtype.is_nested():
        return pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    number = column.cast(pl.Float64, strict=False)
    return pl.select(pl.when(number.is_finite()).then(number)).to_series()


def as_seconds(column: pl.Series, unit: str) -> pl.Series:
    """Int64 unix seconds from numbers (in ``unit``, "s" or "ms"), dates or date texts; unreadable cells become null."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("ms")).dt.epoch("s")
    number = as_numbers(column)
    if number.null_count() < len(number) or column.null_count() == len(column) or column.dtype != pl.String:
        return (number // (1000 if unit == "ms" else 1)).cast(pl.Int64, strict=False)
    try:
        return column.str.to_datetime(strict=False, time_unit="ms").dt.epoch("s")
    except pl.exceptions.PolarsError:  # no date format fits: every cell is unreadable, which the caller reports
        return pl.Series([None] * len(column), dtype=pl.Int64)


def as_path(value: Any) -> list[str]:
    """A category path from a list, or from text split at ">" (else at "|")."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    parts = value if isinstance(value, list) else str(value).split(">" if ">" in str(value) else "|")
    return [part for part in (str(p).strip() for p in parts if p is not None) if part]
