"""Published values as data: one file a paper in ``published/``, read into plain values.

Values are numbers copied from the papers with their source; ``nan`` in a file stands for a cell that was not copied.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sidbench.benchmark.metrics.catalogue import all_metrics, named_in_papers
from sidbench.datasets.foundation.errors import unknown_name

SID_LEVEL = "SID"
_EVIDENCE = {"P": "the paper", "C": "the authors' code or result files", "S": "a secondary source", "U": "not checked again"}
# Columns beside which ours measures something else, so that no difference is taken: beside the paper's unnormalised
# reconstruction loss stands the mean normalised error of all modalities.
OTHER_QUANTITY = frozenset({"L_recon"})


@dataclass(frozen=True)
class PublishedTable:
    """One table of a paper for one data set.

    number: what ``--table`` selects ("2", "ablation"). dataset: ours of that name, or "industrial" for data that are not
    public. evidence: P paper, C code of the authors, S secondary source, U not re-checked. rows: method -> column ->
    value, ``None`` where not printed or not copied. reference: the row that the others are compared with, "" for none.
    codebook_size: codes a position, 0 where not stated.
    """

    number: str
    title: str
    dataset: str
    evidence: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float | None]]
    reference: str = ""
    codebook_size: int = 0

    @property
    def copied_from(self) -> str:
        """The evidence in words."""
        return re.sub(r"\b[PCSU]\b", lambda tag: _EVIDENCE[tag[0]], self.evidence)

    @property
    def label(self) -> str:
        """Number, title and data set in one line."""
        number = f"Table {self.number}" if self.number.isdigit() else f"Table `{self.number}`"
        return f"{number}: {self.title} ({self.dataset})"


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that can be drawn again. reading: what the paper prints of it, and what ours shows."""

    number: str
    title: str
    reading: str


@dataclass(frozen=True)
class PublishedPaper:
    """A paper's tables. compare: what of its numbers may be held against ours. level: "item", "SID" or "unstated", what
    its Recall counts. protocol: how its numbers came about. notes: what a reader must know of them."""

    name: str
    title: str
    arxiv: str
    compare: str
    level: str
    protocol: tuple[str, ...]
    notes: tuple[str, ...]
    tables: tuple[PublishedTable, ...]
    figures: tuple[PublishedFigure, ...] = ()

    @property
    def source(self) -> str:
        """Title and number, as a citation."""
        return f"{self.title}, arXiv {self.arxiv}"


def paper_names() -> tuple[str, ...]:
    """Every paper whose values are on file."""
    folder = resources.files(__package__) / "published"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


@cache
def published(name: str) -> PublishedPaper:
    """The values of one paper. Raises ``InputError`` for a paper that is not on file."""
    if name not in paper_names():
        raise unknown_name("paper", name, paper_names(), do="use one of these, or a run id")
    text = (resources.files(__package__) / "published" / f"{name}.toml").read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    figures = tuple(PublishedFigure(**f) for f in raw.get("figures", ()))
    return PublishedPaper(
        name,
        raw["title"],
        raw["arxiv"],
        raw["compare"],
        raw["level"],
        tuple(raw["protocol"]),
        tuple(raw["notes"]),
        tuple(_table(t) for t in raw["tables"]),
        figures,
    )


def _table(raw: Mapping[str, Any]) -> PublishedTable:
    columns = tuple(raw["columns"])
    rows = {
        method: {c: None if math.isnan(v) else float(v) for c, v in zip(columns, values, strict=True)}
        for method, values in raw["rows"].items()
    }
    return PublishedTable(
        raw["number"],
        raw["title"],
        raw["dataset"],
        raw["evidence"],
        columns,
        rows,
        raw.get("reference", ""),
        raw.get("codebook_size", 0),
    )


def our_metric(column: str, level: str) -> tuple[str | None, str]:
    """(task, metric) of ours that stands beside a published column; ``None`` as task is the SID table."""
    at_sid_level = named_in_papers(f"{SID_LEVEL} {column}") if level == SID_LEVEL else None
    found = at_sid_level or named_in_papers(column)
    if found is None:
        known = [entry.in_papers for entry in all_metrics() if entry.in_papers]
        raise unknown_name("published column", column, known, do="fix the file of published values")
    return found
