"""Amazon 2014 events: review JSON lines (``reviews_*_5.json.gz``) or ``ratings_*.csv`` (user, item, rating, time)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sidbench.datasets.reading.events import check_events
from sidbench.datasets.reading.lines import delimited_columns, json_columns

_FIELDS = {"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "timestamp"}
_TYPES = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}


def read_reviews(path: Path) -> pl.DataFrame:
    """Columns user, item, rating (absent when no line has one), timestamp in unix seconds; one row a line of the file.

    Raises ``InputError`` naming file and line for a malformed line, a missing field, or a rating some lines lack.
    """
    table = json_columns(path, {field: _TYPES[name] for field, name in _FIELDS.items()})
    return check_events(table.rename(_FIELDS), path)


def read_ratings(path: Path) -> pl.DataFrame:
    """The same columns from a headerless ``user,item,rating,timestamp`` file; same errors."""
    return check_events(delimited_columns(path, _TYPES, ","), path)
