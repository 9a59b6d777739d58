"""What stands beside the quality of a row: costs, effort of tuning, and whether its numbers are stale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.hashing import canonical_json
from sidbench.leaderboards.board.recorded_versions import Plugin
from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.board.values import Costs


def costs_of(group: Sequence[StoredRun]) -> Costs:
    """Costs of one row: the median over the records of its seeds, of memory the largest."""
    records = [r.record for r in group]
    return Costs(
        fit_seconds=_median(_stage(r, "tokenizer") for r in records),
        encode_items_per_second=_median(_per_second(r) for r in records),
        retrieval_fit_seconds=_median(_stage(r, "retrieval.fit") for r in records),
        ranking_fit_seconds=_median(_stage(r, "ranking.fit") for r in records),
        ms_per_user=_median(_diagnostic(r, "retrieval", "ms_per_user") for r in records),
        ms_per_row=_median(_diagnostic(r, "ranking", "ms_per_row") for r in records),
        tokenizer_parameters=_median(None if r.tokenizer is None else r.tokenizer.n_parameters for r in records),
        recommender_parameters=_median(
            sum(t.recommender.n_parameters for t in r.tasks) if r.tasks else None for r in records
        ),
        peak_memory_bytes=max((float(s.peak_memory_bytes) for r in records for s in r.stages), default=None),
    )


def _median(values: Iterable[float | None]) -> float | None:
    present = list(values)
    numbers = [v for v in present if v is not None]
    return float(np.median(numbers)) if numbers and len(numbers) == len(present) else None


def _stage(record: RunRecord, name: str) -> float | None:
    return next((s.wall_seconds for s in record.stages if s.name == name), None)


def _per_second(record: RunRecord) -> float | None:
    items, seconds = record.dataset.counts.get("items"), _stage(record, "sids")
    return items / seconds if items and seconds else None


def _diagnostic(record: RunRecord, task: str, name: str) -> float | None:
    return next((t.recommender.diagnostics.get(name) for t in record.tasks if t.task == task), None)


def effort_of(record: RunRecord) -> str:
    """How the settings of a row's plugins came about: their source, and the trials behind it where there were any."""
    plugins = [record.tokenizer] if record.tokenizer is not None else [t.recommender for t in record.tasks]
    parts = []
    for plugin in plugins:
        trials = plugin.effort.get("trials")
        parts.append(plugin.settings_source + (f", {trials:g} trials" if trials else ""))
    return "; ".join(dict.fromkeys(parts))


def newest_data(runs: Sequence[StoredRun]) -> dict[str, str]:
    """(dataset and its settings) -> content hash in the newest record; ``runs`` are in order of creation."""
    return {_data(r.record): r.record.dataset.content_hash for r in runs}


def _data(record: RunRecord) -> str:
    return canonical_json([record.dataset.name, record.dataset.config, record.budget])


def stale_reasons(run: StoredRun, current: Mapping[Plugin, str] | None, data: Mapping[str, str]) -> tuple[str, ...]:
    """Why a run's numbers may not be what would be computed now; nothing when all is as it was.

    current: versions of the installed plugins, or ``None`` where they are not to be compared. data: of ``newest_data``.
    Plugins that left no version are not judged.
    """
    reasons, record = [], run.record
    for plugin, version in run.versions.items() if current is not None else ():
        kind, name, _ = plugin
        now = current.get(plugin) if current is not None else None
        if now is None:
            reasons.append(f"{kind} {name} is not installed")
        elif version and now != version:
            reasons.append(f"{kind} {name} had version {version} and has {now} now")
    if data.get(_data(record), record.dataset.content_hash) != record.dataset.content_hash:
        reasons.append(f"the data of {record.dataset.name} changed since")
    return tuple(reasons)
