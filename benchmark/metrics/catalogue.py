"""The catalogue of metrics: every declaration below ``declared/``, looked up by name. Imports no numpy.

Tables, comparisons, lists of runs, sweeps and reproductions ask here for direction, heading, digits and statistic of a
metric; ``docs/metrics.md`` must list every pattern (a test holds the two together).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterable
from functools import cache

from sidbench.benchmark.metrics import declared
from sidbench.benchmark.metrics.cutoffs import CUTOFFS, lead_cutoff
from sidbench.benchmark.metrics.declaration import (
    HIGHER,
    MODALITIES,
    NEITHER,
    MetricDeclaration,
    NamedMetric,
    filled,
)


@cache
def all_metrics() -> tuple[MetricDeclaration, ...]:
    """Every declared metric, families by their place and a family's metrics as its file lists them.

    Raises ``ValueError`` for a pattern or heading that is declared twice, which would make names ambiguous.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(declared.__path__))
    modules = [importlib.import_module(f"{declared.__name__}.{name}") for name in names]
    found: list[MetricDeclaration] = [entry for module in modules for entry in module.METRICS]
    for what, values in (("pattern", [e.pattern for e in found]), ("heading", [e.heading for e in found])):
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"{what} {twice[0]!r} is declared by two metrics; declare each metric once, in one file")
    return tuple(sorted(found, key=lambda e: (e.family.place, e.family.name)))  # stable: files keep their order


def describe(name: str) -> MetricDeclaration | None:
    """The declaration of a metric by its name, or ``None`` for an unknown one. Exact names win over patterns."""
    entries = all_metrics()
    exact = next((entry for entry in entries if entry.pattern == name), None)
    return exact or next((entry for entry in entries if entry.matches(name)), None)


def is_better(name: str, left: float, right: float) -> bool | None:
    """Whether ``left`` is strictly better than ``right``; ``None`` for unknown names and metrics without direction."""
    entry = describe(name)
    if entry is None or entry.direction == NEITHER:
        return None
    return left > right if entry.direction == HIGHER else left < right


def heading(name: str) -> str:
    """A metric's name as a heading: "R@50", "SID N@10", "AUC tail"; unknown names with spaces."""
    entry = describe(name)
    return name.replace("_", " ") if entry is None else filled(entry.heading, entry.parameters(name) or {})


def named(name: str) -> NamedMetric:
    """What statistics need to know of a metric; an undeclared per-user column is averaged."""
    entry = describe(name)
    return NamedMetric(name) if entry is None else entry.named(name)


def named_in_papers(column: str) -> tuple[str | None, str] | None:
    """(task, name) of the metric that stands beside a heading of published tables, such as "N@50" or "Util."."""
    for entry in all_metrics():
        before, hole, after = entry.in_papers.partition("{k}")
        k = column.removeprefix(before).removesuffix(after) if hole else ""
        if entry.in_papers and column == entry.in_papers.replace("{k}", k) and bool(hole) == k.isdigit():
            return entry.task, filled(entry.pattern, {"k": k})
    return None


def objectives() -> dict[str, MetricDeclaration]:
    """Name under which a sweep optimises a metric -> the metric."""
    return {entry.objective: entry for entry in all_metrics() if entry.objective}


def tasks_in_order() -> tuple[str | None, ...]:
    """The tasks in the order of their columns, and ``None`` for the SID table."""
    return tuple(dict.fromkeys(entry.task for entry in all_metrics()))


# -- columns -----------------------------------------------------------------------------------------------------------
def column_names(task: str | None, known: Collection[str], measured: Collection[str]) -> list[str]:
    """The metrics of a task (``None``: the SID table) that have a column in a table, in order.

    known: names that the table's records hold, with a number or with the reason why there is none. measured: those with
    a number. Of the default cut-offs those that the metric declares have one, of others all; the lead always has one.
    """
    lead, found = _lead(task, known, measured), []
    for order, entry in enumerate(e for e in all_metrics() if e.column and e.task == task):
        own = [name for name in known if entry.matches(name)]
        if "{k}" not in entry.pattern:
            found += [((1, 0, order, _modality(entry, name)), name) for name in own]
            continue
        at = {k: name for name in own if (k := entry.cutoff(name)) is not None}
        shown = {lead, *((entry.cutoffs if set(at) == set(CUTOFFS) else at) if entry.cutoffs else ())}
        # Cut-off by cut-off, then what stands at the lead alone.
        place = 0 if entry.cutoffs else 1
        found += [((place, 0 if place else k, order, (0, "")), name) for k, name in at.items() if k in shown]
    return [name for _, name in sorted(found)]


def headline_names(task: str | None, known: Collection[str], measured: Collection[str]) -> list[str]:
    """The metrics that stand for a task, or for the SID table; those with cut-offs at the lead."""
    lead = _lead(task, known, measured)
    headlines = [e for e in all_metrics() if e.headline and e.task == task]
    return [name for e in headlines for name in known if e.matches(name) and e.cutoff(name) in (None, lead)]


def stratified_names(task: str, known: Collection[str], measured: Collection[str]) -> list[str]:
    """The metrics of a task that are also taken within strata of items, those with cut-offs at the lead."""
    lead, patterns = _lead(task, known, measured), {e.pattern for e in all_metrics()}
    chosen = [e for e in all_metrics() if e.task == task and f"{e.pattern}_{{s}}" in patterns]
    return [name for e in chosen for name in known if e.matches(name) and e.cutoff(name) in (None, lead)]


def _lead(task: str | None, known: Iterable[str], measured: Collection[str]) -> int | None:
    """The lead among the cut-offs of a task's headline, of those with a number where there are any."""
    at = {
        name: k
        for entry in all_metrics()
        if entry.headline and entry.task == task
        for name in known
        if (k := entry.cutoff(name)) is not None
    }
    return lead_cutoff([k for name, k in at.items() if name in measured] or at.values())


def _modality(entry: MetricDeclaration, name: str) -> tuple[int, str]:
    modality = (entry.parameters(name) or {}).get("m", "")
    return (MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES), modality)
