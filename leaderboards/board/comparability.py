"""Whether two runs may be compared, which part of the comparability key differs, and what else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidbench.benchmark.store.records import RunRecord, TaskRecord
from sidbench.leaderboards.board.recorded_versions import recorded_version

ABSENT = "(absent)"


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as dotted name -> value; lists stay values."""
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{path}.{name}" if path else str(name))
    return found


def unequal(left: Any, right: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name -> both values, where two nested mappings differ; "(absent)" for a side without the name."""
    a, b = flat(left, path), flat(right, path)
    return {
        name: (a.get(name, ABSENT), b.get(name, ABSENT))
        for name in dict.fromkeys([*a, *b])
        if a.get(name, ABSENT) != b.get(name, ABSENT)
    }


def common_tasks(left: RunRecord, right: RunRecord) -> list[str]:
    """Tasks that both runs evaluated."""
    return [t.task for t in left.tasks if any(t.task == other.task for other in right.tasks)]


def incomparable_parts(left: RunRecord, right: RunRecord) -> list[str]:
    """Sentences naming the parts of the comparability key that differ; nothing when the runs may be compared.

    Tasks that both have must have equal keys (equal protocols, where one is a baseline that needs no SIDs); runs without
    a common task, equal keys as a whole.
    """
    tasks = {t: (_task(left, t), _task(right, t)) for t in common_tasks(left, right)}
    baseline = left.tokenizer is None or right.tokenizer is None
    if tasks:
        equal = all(
            (a.protocol_key == b.protocol_key) if baseline else (a.comparability_key == b.comparability_key)
            for a, b in tasks.values()
        )
    else:
        equal = left.comparability_key == right.comparability_key
    if equal:
        return []
    parts = _told("dataset", unequal(_dataset(left), _dataset(right)))
    if not tasks and left.tasks and right.tasks:
        parts.append(f"tasks: {', '.join(t.task for t in left.tasks)} against {', '.join(t.task for t in right.tasks)}")
    if not baseline:
        parts += _told("features", unequal(_features(left), _features(right)))
        parts += _told("budget", unequal({"budget": left.budget}, {"budget": right.budget}))
        parts += _told("numerics", unequal(_numerics(left), _numerics(right)))
    for task, (a, b) in tasks.items():
        if not baseline:
            parts += _told(f"recommender of {task}", unequal(_recommender(a), _recommender(b)))
        parts += _told(f"protocol of {task}", unequal(a.protocol, b.protocol))
    return parts or ["the keys differ in something that the records do not state (another release wrote one of them)"]


def _told(part: str, found: Mapping[str, tuple[Any, Any]]) -> list[str]:
    if not found:
        return []
    return [f"{part}: " + ", ".join(f"{name} {short(a)} against {short(b)}" for name, (a, b) in found.items())]


def short(value: Any) -> str:
    """A value for reading: hashes cut to eight characters, long texts to 60."""
    text = str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:8]
    return text if len(text) <= 60 else f"{text[:57]}…"


def _task(record: RunRecord, name: str) -> TaskRecord:
    return next(t for t in record.tasks if t.task == name)


def _dataset(record: RunRecord) -> dict[str, Any]:
    data = record.dataset
    return {"name": data.name, "content": data.content_hash, **flat(data.config, "config")}


def _features(record: RunRecord) -> dict[str, Any]:
    if record.features is None:
        return {}
    return {"content": record.features.provenance, **flat(record.features.config)}


def _recommender(task: TaskRecord) -> dict[str, Any]:
    return {"name": task.recommender.name, **flat(task.recommender.config)}


def _numerics(record: RunRecord) -> dict[str, Any]:
    return {"precision": record.environment.precision, "accumulate": record.environment.accumulate}


def settings(record: RunRecord) -> dict[str, Any]:
    """Everything that was chosen for a run, and the code and machine it met, as nested values to compare."""
    where = record.environment
    chosen: dict[str, Any] = {
        "budget": record.budget,
        "dataset": _dataset(record),
        "features": _features(record),
        "tokenizer": None
        if record.tokenizer is None
        else {
            "name": record.tokenizer.name,
            "version": recorded_version("tokenizer", record.tokenizer.name, record.tokenizer.version, record.tokenizer.code),
            "config": record.tokenizer.config,
            "settings_source": record.tokenizer.settings_source,
            "effort": record.tokenizer.effort,
        },
        "collisions": None
        if record.sids is None
        else {
            "policy": record.sids.collision_policy,
            "config": record.sids.collision_config,
            "version": recorded_version(
                "collisions", record.sids.collision_policy, record.sids.collision_version, record.sids.collision_code
            ),
        },
        "sids": None
        if record.sids is None
        else {"code_length": record.sids.code_length, "sizes": list(record.sids.sizes), "ordered": record.sids.ordered},
    }
    for task in record.tasks:
        model = task.recommender
        version = recorded_version("recommender", model.name, model.version, model.code)
        chosen[task.task] = {"recommender": _recommender(task), "version": version, "protocol": task.protocol}
    chosen["environment"] = {
        **_numerics(record),
        "device": where.device,
        "threads": where.threads,
        "processes": where.processes,
        "compiled": where.compiled,
        "allocator": where.allocator,
        "python": where.python,
        "platform": where.platform,
        "git_commit": where.git_commit,
        "git_dirty": where.git_dirty,
        "versions": where.versions,
    }
    return chosen
