"""Published cells that cannot be what their heading says, found by arithmetic and marked.

For one relevant item per user and cut-offs a < b (derived from ``NDCG@K = mean 1{r<=K}/log2(r+1)``):

    (R@b - R@a) / log2(b+1)  <=  N@b - N@a  <=  (R@b - R@a) / log2(a+2)
    R@K / log2(K+1)  <=  N@K  <=  R@K,      R@a <= R@b

and for K codes a position: utilisation <= 1, entropy <= ln K. Every inequality gets the slack that printing with four
digits costs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidbench.leaderboards.reproduction.papers import PublishedTable

ROUNDING = 5e-5  # largest error of a number printed with four digits


@dataclass(frozen=True)
class BoundViolation:
    """One inequality that a published row breaks. columns: the cells it concerns. left, right: both sides, of which
    ``left`` should not exceed ``right``."""

    row: str
    columns: tuple[str, ...]
    rule: str
    left: float
    right: float

    def __str__(self) -> str:
        return f"{self.row}: {self.rule} is broken, {self.left:.4f} > {self.right:.4f}"


def violations(table: PublishedTable) -> tuple[BoundViolation, ...]:
    """Every broken inequality of a table, row by row."""
    return tuple(b for name, cells in table.rows.items() for b in _row(name, cells, table.codebook_size))


def marked_cells(table: PublishedTable) -> set[tuple[str, str]]:
    """(row, column) of every cell that takes part in a broken inequality."""
    return {(b.row, column) for b in violations(table) for column in b.columns}


def _row(name: str, cells: Mapping[str, float | None], codebook_size: int) -> list[BoundViolation]:
    found: list[BoundViolation] = []

    def at_most(columns: tuple[str, ...], rule: str, left: float, right: float, slack: float) -> None:
        if left > right + slack:
            found.append(BoundViolation(name, columns, rule, left, right))

    known = {column: value for column, value in cells.items() if value is not None}
    if "Util." in known:
        at_most(("Util.",), "utilisation <= 1", known["Util."], 1.0, ROUNDING)
    if "Entropy" in known and codebook_size:
        at_most(("Entropy",), f"entropy <= ln {codebook_size}", known["Entropy"], math.log(codebook_size), ROUNDING)
    cutoffs = sorted(int(m[1]) for column in known if (m := re.fullmatch(r"R@(\d+)", column)))
    both = [k for k in cutoffs if f"N@{k}" in known]
    for k in both:
        recall, ndcg, least = known[f"R@{k}"], known[f"N@{k}"], 1 / math.log2(k + 1)
        pair = (f"R@{k}", f"N@{k}")
        at_most(pair, f"N@{k} <= R@{k}", ndcg, recall, 2 * ROUNDING)
        at_most(pair, f"R@{k} / log2({k + 1}) <= N@{k}", recall * least, ndcg, ROUNDING * (1 + least))
    for a, b in zip(cutoffs, cutoffs[1:], strict=False):
        at_most((f"R@{a}", f"R@{b}"), f"R@{a} <= R@{b}", known[f"R@{a}"], known[f"R@{b}"], 2 * ROUNDING)
    for a, b in zip(both, both[1:], strict=False):
        recall, ndcg = known[f"R@{b}"] - known[f"R@{a}"], known[f"N@{b}"] - known[f"N@{a}"]
        most, least = 1 / math.log2(a + 2), 1 / math.log2(b + 1)
        cells_of = (f"R@{a}", f"R@{b}", f"N@{a}", f"N@{b}")
        at_most(
            cells_of, f"N@{b} - N@{a} <= (R@{b} - R@{a}) / log2({a + 2})", ndcg, recall * most, 2 * ROUNDING * (1 + most)
        )
        at_most(
            cells_of, f"(R@{b} - R@{a}) / log2({b + 1}) <= N@{b} - N@{a}", recall * least, ndcg, 2 * ROUNDING * (1 + least)
        )
    return found
