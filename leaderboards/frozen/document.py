"""``board.json`` of format 1 as typed values: what the tables of a board state."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

TOKENIZER, CONTROL, BASELINE, BOUND = "tokenizer", "control", "baseline", "bound"


class _Stated(BaseModel):
    """Every field stands there and no other: what nobody judges has no place in a table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _mark(value: object) -> object:
    return {"best": 1, "second": 2, "": 0}.get(value, value) if isinstance(value, str) else value


Mark = Annotated[Literal[0, 1, 2], BeforeValidator(_mark)]  # rank 1, the next rank, neither


class Cell(_Stated):
    """One number with its interval, what that covers, and its mark."""

    value: float
    n: int
    half_width: float | None
    seed_sd: float | None
    mark: Mark
    low: float | None
    high: float | None
    interval: Literal["users", "seeds", "exact", "expected", "unknown"]


class Run(_Stated):
    """One record behind a row."""

    run_id: str
    seed: int
    git_commit: str
    git_dirty: bool
    command_line: list[str]


class Row(_Stated):
    """One tokenizer with one set of settings, one baseline, or the bound of planted data."""

    tokenizer: str
    kind: Literal["tokenizer", "control", "baseline", "bound"]
    settings: str
    code_length: str
    codebook_size: str
    seeds: list[int]
    seconds: float | None
    devices: list[str]
    ranks: dict[str, int]
    improvements: dict[str, float]
    costs: dict[str, float | None]
    effort: str
    stale: list[str]
    metrics: dict[str, Cell]
    runs: list[Run]

    @property
    def label(self) -> str:
        """Name with settings, as it stands in a table."""
        return self.tokenizer + (f" ({self.settings})" if self.settings else "")


class Table(_Stated):
    """Rows that may be compared."""

    key: str
    title: str
    caption: dict[str, str]
    columns: list[str]
    headlines: list[str]
    rows: list[Row]
    notes: list[str]


class Unreadable(_Stated):
    """A record that could not be read when the board was made; a frozen board has none."""

    path: str
    reason: str


class Board(_Stated):
    """All tables of a board."""

    title: str
    tables: list[Table]
    unreadable: list[Unreadable]
    superseded: list[str]
