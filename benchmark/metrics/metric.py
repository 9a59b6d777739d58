"""The value of a metric with its doubt: what every metric of the suite returns and every record holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Metric(BaseModel):
    """One number with its doubt. ``n``: users, rows or items it averages; ``low``/``high``: 95 % interval over those
    units (absent where the number is exact for the catalogue)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    n: int
    low: float | None = None
    high: float | None = None
