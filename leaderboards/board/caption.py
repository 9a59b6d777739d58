"""The words around a table: what was measured, on what, under which protocol, and every caveat on the records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sidbench.benchmark.store.records import RunRecord
from sidbench.leaderboards.board.store import StoredRun


def caption(key: str, members: Sequence[StoredRun]) -> dict[str, str]:
    """Heading -> sentence for one table: dataset, budget, tasks, features, comparability key.

    All rows but baselines share these by construction of the key, so the first of them speaks for all.
    """
    lead = next((r.record for r in members if r.record.tokenizer is not None), members[0].record)
    counts = ", ".join(
        f"{v:,} {k.replace('_', ' ')}" for k, v in lead.dataset.counts.items() if k in ("users", "items", "interactions")
    )
    lines = {"dataset": lead.dataset.name, "counts": counts, "budget": lead.budget}
    for task in lead.tasks:
        units = ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in task.counts.items())
        lines[task.task] = "; ".join(p for p in (task.recommender.name, _pairs(task.protocol), units) if p)
    if lead.features is not None:
        lines["features"] = _features(lead)
    return lines | {"key": key}


def titles(captions: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each table that tells it from the others: data set, budget, recommenders and, where these are equal,
    what else of the caption is its own, or the beginning of its key."""
    short = [
        f"{words['dataset']}, budget {words['budget']}"
        + "".join(f", {task} by {words[task].partition(';')[0]}" for task in ("retrieval", "ranking") if task in words)
        for words in captions
    ]
    short = [name if ", " in name.partition("budget ")[2] else f"{name}, semantic IDs alone" for name in short]
    parts = [{p for h, text in words.items() if h != "key" for p in re.split("[;,] ", text)} for words in captions]
    found = []
    for i, (name, words) in enumerate(zip(short, captions, strict=True)):
        twins = [parts[j] for j, other in enumerate(short) if other == name and j != i]
        # A content hash tells a reader nothing; whether ties are shuffled does.
        own = sorted(p for p in parts[i] if all(p not in t for t in twins) and not re.search(r"\b[0-9a-f]{8}\b", p))
        found.append(name if not twins else f"{name} ({', '.join(own[:3]) or 'key ' + words['key'][:8]})")
    return found


def _pairs(values: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return "/".join(map(str, value))
        if isinstance(value, str) and len(value) == 64:  # a content hash: its start is enough to compare by eye
            return value[:8]
        return f"({_pairs(value)})" if isinstance(value, Mapping) else str(value)

    return ", ".join(f"{k.replace('_', ' ')} {shown(v)}" for k, v in values.items())


def _features(record: RunRecord) -> str:
    features = record.features
    if features is None:
        return ""
    present = [f"{m} ({d} dimensions, {features.coverage.get(m, 1.0):.0%} of items)" for m, d in features.dims.items()]
    absent = [f"{m} absent: {why}" for m, why in features.absent.items()]
    return "; ".join([", ".join(present), *absent, f"richness {features.richness_proxy}"])


def warnings_of(members: Sequence[StoredRun], budget: str) -> tuple[str, ...]:
    """Warnings on the records, broken bounds, budgets other than the table's and code that changed, each with its run."""
    notes = []
    for run in members:
        record = run.record
        notes += [f"{record.run_id}: {w}" for w in record.warnings]
        if record.sids is not None:
            notes += [f"{record.run_id}: {record.sids.collision_policy}: {n}" for n in record.sids.collision_notes]
        notes += [
            f"{record.run_id}: {t.task} breaks bounds of single-target metrics: {', '.join(t.bound_violations)}"
            for t in record.tasks
            if t.bound_violations
        ]
        if record.budget != budget:
            notes.append(f"{record.run_id}: budget {record.budget}, the table's is {budget}")
    found: dict[str, dict[str, list[str]]] = {}
    for run in members:
        for (kind, name, _), version in run.versions.items():
            if kind == "recommender":
                found.setdefault(name, {}).setdefault(version, []).append(run.record.run_id)
    for name, by_version in found.items():
        if len(by_version) > 1:
            versions = " | ".join(f"{version}: {', '.join(ids)}" for version, ids in by_version.items())
            notes.append(f"{name} had several versions in these runs, repeat the older ones: {versions}")
    return tuple(dict.fromkeys(notes))
