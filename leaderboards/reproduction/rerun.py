"""A record and its repetition: which numbers differ, and what else does."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import PluginRecord, RunRecord
from sidbench.leaderboards.board.recorded_versions import recorded_version, versions_of

TOLERANCE = 1e-6
EQUAL, EXPLAINED, DIFFERS = "equal", "explained", "differs"


@dataclass(frozen=True)
class NumberPair:
    """One metric of both runs; ``None`` where a run has none. task: "SIDs" for the SID table."""

    task: str
    metric: str
    recorded: float | None
    repeated: float | None

    @property
    def difference(self) -> float | None:
        """Repeated minus recorded."""
        return None if self.recorded is None or self.repeated is None else self.repeated - self.recorded

    def within(self, tolerance: float) -> bool:
        """Whether both runs have the number and it is the same up to ``tolerance``."""
        return self.difference is not None and abs(self.difference) <= tolerance


@dataclass(frozen=True)
class Repetition:
    """The comparison. sids_equal: same codes by content hash, ``None`` for baselines. causes: what differs and may
    change numbers (code, data, settings, versions, machine), as (what, recorded, repeated). remarks: what the record
    left open."""

    recorded: str
    repeated: str
    tolerance: float
    numbers: tuple[NumberPair, ...]
    sids_equal: bool | None
    causes: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]

    @property
    def beyond(self) -> tuple[NumberPair, ...]:
        """Numbers that differ by more than the tolerance, or that one run lacks."""
        return tuple(n for n in self.numbers if not n.within(self.tolerance))

    @property
    def verdict(self) -> str:
        """ "equal"; "explained" where numbers differ and something that may change them does; else "differs"."""
        if not self.beyond and self.sids_equal is not False:
            return EQUAL
        return EXPLAINED if self.causes else DIFFERS


def compare_records(
    recorded: RunRecord, repeated: RunRecord, tolerance: float = TOLERANCE, remarks: tuple[str, ...] = ()
) -> Repetition:
    """Every metric of both records, and every difference that may explain one."""
    numbers = [
        NumberPair(
            "SIDs", name, *_values(name, *(r.sids.metrics if r.sids is not None else {} for r in (recorded, repeated)))
        )
        for name in _names(recorded, repeated, None)
    ]
    for task in dict.fromkeys(t.task for r in (recorded, repeated) for t in r.tasks):
        both = [next((t.metrics for t in r.tasks if t.task == task), {}) for r in (recorded, repeated)]
        numbers += [NumberPair(task, name, *_values(name, *both)) for name in _names(recorded, repeated, task)]
    hashes = [None if r.sids is None else r.sids.content_hash for r in (recorded, repeated)]
    equal = None if hashes == [None, None] else hashes[0] == hashes[1]
    return Repetition(
        recorded.run_id, repeated.run_id, tolerance, tuple(numbers), equal, tuple(_causes(recorded, repeated)), remarks
    )


def _names(recorded: RunRecord, repeated: RunRecord, task: str | None) -> list[str]:
    found: dict[str, None] = {}
    for record in (recorded, repeated):
        if task is None:
            found |= dict.fromkeys(record.sids.metrics if record.sids is not None else ())
        else:
            found |= {name: None for t in record.tasks if t.task == task for name in t.metrics}
    return list(found)


def _values(name: str, left: dict[str, Metric], right: dict[str, Metric]) -> tuple[float | None, float | None]:
    return tuple(side[name].value if name in side else None for side in (left, right))  # type: ignore[return-value]


def _causes(recorded: RunRecord, repeated: RunRecord) -> Iterator[tuple[str, str, str]]:
    """(what, recorded, repeated) of everything that may change numbers and is not the same."""
    left, right = _facts(recorded), _facts(repeated)
    for what in dict.fromkeys([*left, *right]):
        a, b = left.get(what, ""), right.get(what, "")
        if a != b:
            yield what, a, b


def _facts(record: RunRecord) -> dict[str, str]:
    where = record.environment
    facts = {
        "data": record.dataset.content_hash[:12],
        "features": "" if record.features is None else record.features.provenance[:12],
        "code of the suite": where.code[:12],
        "device": where.device,
        "platform": where.platform,
        "threads": str(where.threads),
        "processes": str(where.processes),
        "precision": where.precision,
        "accumulate": str(where.accumulate),
        "compiled": str(where.compiled),
        "python": where.python,
        **{f"version of {name}": version for name, version in where.versions.items()},
    }
    plugins: list[tuple[str, PluginRecord | None]] = [
        ("tokenizer", record.tokenizer),
        *((t.task, t.recommender) for t in record.tasks),
    ]
    for role, plugin in plugins:
        if plugin is not None:
            kind = "tokenizer" if role == "tokenizer" else "recommender"
            facts[f"version of {plugin.name}"] = recorded_version(kind, plugin.name, plugin.version, plugin.code)
            facts |= {f"setting {role}.{name}": str(value) for name, value in plugin.config.items()}
    facts |= {f"version of {name}": v for (kind, name, _), v in versions_of(record).items() if kind == "collisions"}
    return facts


def render_repetition(found: Repetition, form: str) -> str:
    """The comparison as text; ``form`` is one of ``FORMATS``."""
    return FORMATS[form](found)


def _sids(found: Repetition) -> str:
    return {None: "no semantic IDs", True: "semantic IDs: identical", False: "semantic IDs: different"}[found.sids_equal]


def _value(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.6f}"


def _markdown(found: Repetition) -> str:
    beyond = found.beyond
    words = {
        EQUAL: "The record is reproduced.",
        EXPLAINED: "Numbers differ, and so does what may change them (below); this is no proof of a fault.",
        DIFFERS: "Numbers differ although code, data, versions and machine are those of the record.",
    }
    lines = [
        f"# {found.recorded} repeated",
        "",
        f"{words[found.verdict]} {len(found.numbers) - len(beyond)} of "
        f"{len(found.numbers)} numbers agree within {found.tolerance:g}; {_sids(found)}. Repeated as {found.repeated}.",
        "",
    ]
    lines += ["| task | metric | recorded | repeated | difference |", "|:--|:--|--:|--:|--:|"]
    lines += [
        f"| {n.task} | {n.metric} | {_value(n.recorded)} | {_value(n.repeated)} | "
        f"{'–' if n.difference is None else f'{n.difference:+.2e}'}{'' if n.within(found.tolerance) else ' **≠**'} |"
        for n in found.numbers
    ]
    lines += [
        "",
        "What differs between the two runs:" if found.causes else "Code, data, settings, versions and machine are the same.",
        "",
    ]
    if found.causes:
        lines += ["| what | recorded | repeated |", "|:--|:--|:--|"]
        lines += [f"| {what} | {a or '–'} | {b or '–'} |" for what, a, b in found.causes] + [""]
    lines += [f"- {remark}" for remark in found.remarks]
    return "\n".join(lines).rstrip() + "\n"


def _csv(found: Repetition) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "metric", "recorded", "repeated", "difference", "within_tolerance"])
    writer.writerows(
        [n.task, n.metric, n.recorded, n.repeated, n.difference, int(n.within(found.tolerance))] for n in found.numbers
    )
    return out.getvalue()


def _json(found: Repetition) -> str:
    numbers: list[dict[str, Any]] = [
        {**vars(n), "difference": n.difference, "within_tolerance": n.within(found.tolerance)} for n in found.numbers
    ]
    causes = [{"what": what, "recorded": a, "repeated": b} for what, a, b in found.causes]
    return (
        json.dumps(
            {
                "recorded": found.recorded,
                "repeated": found.repeated,
                "verdict": found.verdict,
                "tolerance": found.tolerance,
                "sids_equal": found.sids_equal,
                "numbers": numbers,
                "causes": causes,
                "remarks": list(found.remarks),
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


FORMATS: dict[str, Callable[[Repetition], str]] = {"md": _markdown, "csv": _csv, "json": _json}
