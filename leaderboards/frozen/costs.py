"""What a row of format 1 cost and how its settings came about, from the records of its seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from sidbench.leaderboards.frozen.records import Record

TOKENIZER_STAGES = ("tokenizer", "sids", "collisions")


def median(records: Sequence[Record], get: Callable[[Record], float | None]) -> float | None:
    """The median over the records, ``None`` where one of them does not say."""
    values = [get(r) for r in records]
    numbers = [v for v in values if v is not None]
    return float(np.median(numbers)) if numbers and len(numbers) == len(values) else None


def _stage(name: str) -> Callable[[Record], float | None]:
    return lambda r: next((s.wall_seconds for s in r.stages if s.name == name), None)


def _per_second(record: Record) -> float | None:
    items, seconds = record.dataset.counts.get("items"), _stage("sids")(record)
    return items / seconds if items and seconds else None


def _told(task: str, name: str) -> Callable[[Record], float | None]:
    return lambda r: None if (part := r.task(task)) is None else part.recommender.diagnostics.get(name)


def costs(records: Sequence[Record]) -> dict[str, float | None]:
    """Every cost: the median of the seeds, of memory the largest; ``None`` where the records do not say."""
    return {
        "fit_seconds": median(records, _stage("tokenizer")),
        "encode_items_per_second": median(records, _per_second),
        "retrieval_fit_seconds": median(records, _stage("retrieval.fit")),
        "ranking_fit_seconds": median(records, _stage("ranking.fit")),
        "ms_per_user": median(records, _told("retrieval", "ms_per_user")),
        "ms_per_row": median(records, _told("ranking", "ms_per_row")),
        "tokenizer_parameters": median(records, lambda r: None if r.tokenizer is None else r.tokenizer.n_parameters),
        "recommender_parameters": median(
            records, lambda r: sum(t.recommender.n_parameters for t in r.tasks) if r.tasks else None
        ),
        "peak_memory_bytes": max((float(s.peak_memory_bytes) for r in records for s in r.stages), default=None),
    }


def all_seconds(records: Sequence[Record]) -> float | None:
    """Wall seconds of everything behind a row, median over its seeds."""
    return median(records, lambda r: sum(s.wall_seconds for s in r.stages))


def tokenizer_seconds(records: Sequence[Record]) -> float | None:
    """Wall seconds of fitting a tokenizer and encoding the catalogue, median over its seeds; ``None`` without SIDs."""
    found = median(records, lambda r: sum(s.wall_seconds for s in r.stages if s.name in TOKENIZER_STAGES))
    return found if records[0].sids is not None and found else None


def code_bits(record: Record) -> float | None:
    """Mean bits of an item's codes, ``sum_l active_l log2 K_l``; ``None`` without SIDs."""
    sids = record.sids
    if sids is None:
        return None
    active = sids.vectors.get("active_by_position", [])
    if len(active) != len(sids.sizes):
        active = [sids.mean_active / max(1, sids.code_length)] * len(sids.sizes)
    return float(sum(a * math.log2(k) for a, k in zip(active, sids.sizes, strict=True) if k > 0))


def effort(record: Record) -> str:
    """Where the settings of a record's plugins come from, and the trials behind them."""
    plugins = [record.tokenizer] if record.tokenizer is not None else [t.recommender for t in record.tasks]
    parts = []
    for plugin in plugins:
        trials = plugin.effort.get("trials")
        parts.append(plugin.settings_source + (f", {trials:g} trials" if trials else ""))
    return "; ".join(dict.fromkeys(parts))
