"""What there is to know of a metric, as one value, and how names are read by its pattern. Imports no numpy.

A name pattern has holes: ``{k}`` stands for a cut-off, ``{m}`` for a modality, ``{s}`` for a stratum of items. A metric of
a part of the items ends in ``_{s}`` or ``_rare``, one before the collision policy in ``_before``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
STRATA = ("head", "torso", "tail", "cold")
MODALITIES = ("text", "vision", "behaviour")  # the order of columns; any other follows by name
_HOLES = {  # bounded, since names stand on records that strangers may have written
    "{k}": r"(?P<k>[1-9][0-9]{0,8})",
    "{m}": r"(?P<m>[a-z][a-z0-9_]{0,63}(?<!_rare))",
    "{s}": f"(?P<s>{'|'.join(STRATA)})",
}

# What a number is made of, and so which interval and which test it has.
EXACT = "exact"  # of one SID table: no sampling noise, only seeds speak for it
USER_MEAN = "mean over users"  # of the per-user column of the same name: BCa bootstrap, permutation test
USER_RATIO = "ratio of two sums over users"  # of the per-user columns ``ratio``: as USER_MEAN
ROW_AUC = "AUC of rows"  # DeLong's components, added up within users
USER_AUC = "mean of the AUC within users, weighted by their rows"  # as USER_RATIO
RECORDED = "interval of the record"  # per-user files do not give it by itself
STATISTICS = (EXACT, USER_MEAN, USER_RATIO, ROW_AUC, USER_AUC, RECORDED)


@dataclass(frozen=True)
class NamedMetric:
    """A metric as statistics need it: its name, what the number is made of (one of ``STATISTICS``) and, of a
    ``USER_RATIO``, the per-user columns of numerator and denominator. An undeclared per-user column is averaged."""

    name: str
    statistic: str = USER_MEAN
    ratio: tuple[str, str] | None = None


@dataclass(frozen=True)
class Family:
    """Metrics that are explained together. task: the task they belong to, ``None`` for the SID table. section: anchor of
    their formulas in ``docs/metrics.md``. place: order of the families' columns in a table, by name where equal."""

    name: str
    task: str | None
    section: str
    place: int


@dataclass(frozen=True)
class MetricDeclaration:
    """One metric: everything that tables, comparisons, sweeps, reproductions and documents know of it.

    pattern: its name with holes. direction: "higher" or "lower" is better, or "neither" for numbers that explain others.
    worst, best: the ends of its range in the sense of ``direction``, ``None`` where the end depends on the catalogue or
    there is none (for "neither": smallest and largest value). unit: "" for a number without one. definition: one line.
    heading: what stands above its column, with the same holes. digits: behind the point, as printed.
    statistic: one of ``STATISTICS``. ratio: patterns of numerator and denominator of a ``USER_RATIO``.
    column: whether it has a column in tables. cutoffs: which of the default cut-offs have one, () for the lead alone; of
    cut-offs that somebody chose all have one, unless this is ().
    headline: the number that stands for its task or for the SID table: tables rank by that of a task, lists of runs show
    it. objective: the name under which a sweep optimises its value on validation data, "" for none. in_papers: the
    heading of published tables beside which it stands, "" for none.
    """

    pattern: str
    family: Family
    direction: str
    worst: float | None
    best: float | None
    unit: str
    definition: str
    heading: str
    digits: int = 4
    statistic: str = EXACT
    ratio: tuple[str, str] | None = None
    column: bool = False
    cutoffs: tuple[int, ...] = ()
    headline: bool = False
    objective: str = ""
    in_papers: str = ""

    @property
    def task(self) -> str | None:
        """The task it belongs to, ``None`` for the SID table."""
        return self.family.task

    @property
    def of_part(self) -> bool:
        """Whether it is over a part of the items: a stratum, or the rare ones."""
        return "{s}" in self.pattern or self.pattern.endswith("_rare")

    @property
    def before_policy(self) -> bool:
        """Whether it is of the tokenizer's own codes, before a collision policy."""
        return self.pattern.endswith("_before")

    def named(self, name: str) -> NamedMetric:
        """The instance ``name`` of the pattern."""
        parameters = self.parameters(name) or {}
        ratio = None if self.ratio is None else (filled(self.ratio[0], parameters), filled(self.ratio[1], parameters))
        return NamedMetric(name, self.statistic, ratio)

    def matches(self, name: str) -> bool:
        """Whether ``name`` is an instance of the pattern."""
        return self.parameters(name) is not None

    def parameters(self, name: str) -> dict[str, str] | None:
        """Hole -> what stands there in ``name``, such as ``{"k": "10"}``; ``None`` for a name of another pattern."""
        found = _expression(self.pattern).fullmatch(name)
        return None if found is None else found.groupdict()

    def cutoff(self, name: str) -> int | None:
        """The cut-off in ``name``; ``None`` for a name without one or of another pattern."""
        found = self.parameters(name) or {}
        return int(found["k"]) if "k" in found else None


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    expression = re.escape(pattern)
    for hole, choices in _HOLES.items():
        expression = expression.replace(re.escape(hole), choices)
    return re.compile(expression)


def filled(pattern: str, parameters: dict[str, str]) -> str:
    """A pattern or heading with its holes filled."""
    for hole, text in parameters.items():
        pattern = pattern.replace(f"{{{hole}}}", text)
    return pattern
