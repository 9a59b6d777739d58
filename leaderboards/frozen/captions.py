"""The words around a table of format 1, as its records state them, and the protocol of a board in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sidbench.leaderboards.frozen.records import Record, Task


def caption(lead: Record, key: str) -> dict[str, str]:
    """Heading -> sentence: dataset, budget, tasks, features, comparability key. lead: the first record with SIDs."""
    counts = [f"{v:,} {k}" for k, v in lead.dataset.counts.items() if k in ("users", "items", "interactions")]
    lines = {"dataset": lead.dataset.name, "counts": ", ".join(counts), "budget": lead.budget}
    for task in lead.tasks:
        units = ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in task.counts.items())
        lines[task.task] = "; ".join(p for p in (task.recommender.name, _pairs(task.protocol), units) if p)
    if lead.features is not None:
        own = lead.features
        present = [f"{m} ({d} dimensions, {own.coverage.get(m, 1.0):.0%} of items)" for m, d in own.dims.items()]
        absent = [f"{m} absent: {why}" for m, why in own.absent.items()]
        lines["features"] = "; ".join([", ".join(present), *absent, f"richness {own.richness_proxy}"])
    return lines | {"key": key}


def title(words: Mapping[str, str]) -> str:
    """How the heading of a table begins; tables that share it go on with what is their own."""
    tasks = [f", {task} by {words[task].partition(';')[0]}" for task in ("retrieval", "ranking") if task in words]
    return f"{words['dataset']}, budget {words['budget']}" + ("".join(tasks) or ", semantic IDs alone")


def protocol_words(leads: Sequence[Record]) -> str:
    """What a board measures, without hashes and counts; tables that share it are said once."""
    return " | ".join(dict.fromkeys(_measured(lead) for lead in leads))


def _measured(lead: Record) -> str:
    parts = [f"{lead.dataset.name}, budget {lead.budget}"]
    for task in lead.tasks:
        parts.append(f"{task.task} by {task.recommender.name} ({_pairs(_without_hashes(task))})")
    return "; ".join(parts)


def _without_hashes(task: Task) -> dict[str, Any]:
    return {k: v for k, v in task.protocol.items() if not re.fullmatch("[0-9a-f]{64}", str(v))}


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {_shown(v)}" for k, v in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    if isinstance(value, str) and len(value) == 64:  # a content hash
        return value[:8]
    return f"({_pairs(value)})" if isinstance(value, Mapping) else str(value)
