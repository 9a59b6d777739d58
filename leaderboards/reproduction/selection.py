"""Which records of ours stand in which row: exact settings first, one comparability key for all rows of a task.

A record stands in a row when data set, budget, ties, tokenizer, policy, recommender and every setting that the row needs
agree. Other settings may differ; what differs from the plan is returned, to be printed. Rows of several keys are never
mixed: the key that the user names, else that of runs standing in another task already, with the most rows, nearest to
the plan, the newest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import unknown_name
from sidbench.datasets.foundation.hashing import hash_json
from sidbench.leaderboards.board.store import Store, StoredRun, identity, newest
from sidbench.leaderboards.reproduction.plan import Need

_MISSING = object()


@dataclass(frozen=True)
class Wanted:
    """A row's need with the configs it composes to on this machine: group -> field -> value."""

    need: Need
    dataset: str
    budget: str
    groups: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ours:
    """The runs of one row, one a seed. differs: "group.field=ours (plan: theirs)" for every setting off the plan."""

    runs: tuple[StoredRun, ...]
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Row -> its runs for one task, all of one comparability ``key``. others: keys that hold rows too, with how many."""

    key: str
    rows: Mapping[str, Ours]
    others: Mapping[str, int]


def groups_of(record: RunRecord) -> dict[str, Mapping[str, Any]]:
    """The configs on a record by the group they were composed in."""
    groups: dict[str, Mapping[str, Any]] = {"dataset": record.dataset.config}
    if record.features is not None:
        groups |= record.features.config
    if record.tokenizer is not None:
        groups["tokenizer"] = record.tokenizer.config
    if record.sids is not None and record.sids.collision_policy != "none":
        groups["collisions"] = record.sids.collision_config
    names = {"retrieval": "retriever", "ranking": "ranker"}
    return groups | {names[t.task]: t.recommender.config for t in record.tasks}


def ties_of(record: RunRecord) -> str | None:
    """How a record ordered events of equal time, ``None`` when it does not say."""
    return next((str(t.protocol["ties"]) for t in record.tasks if t.task == "retrieval"), None)


def select_all(wanted: Mapping[str, Wanted], store: Store, key: str = "") -> dict[str | None, Selection]:
    """The runs of every row for retrieval, ranking and the SID tables (``None``), of runs in common where there are any.

    key: beginning of the comparability key to use. Raises ``InputError`` when rows exist, but no task has this key.
    """
    found: dict[str | None, Selection] = {}
    chosen: set[str] = set()
    for task in ("retrieval", "ranking", None):
        found[task] = select(wanted, store, task, key, chosen)
        chosen |= {r.record.run_id for ours in found[task].rows.values() for r in ours.runs}
    known = {k for s in found.values() for k in (s.key, *s.others) if k}
    if key and known and not any(k.startswith(key) for k in known):
        raise unknown_name("comparability key", key, known, do="give the beginning of one of these")
    return found


def select(
    wanted: Mapping[str, Wanted], store: Store, task: str | None, key: str = "", chosen: Collection[str] = ()
) -> Selection:
    """The runs of every row for one task (``None``: the SID tables).

    key: beginning of the comparability key to use, where the task has one. chosen: ids of runs that stand in other tasks,
    whose key is preferred.
    """
    found: dict[str, list[tuple[str, int, StoredRun]]] = defaultdict(list)
    hosts: dict[str, set[str]] = defaultdict(set)  # protocol -> keys of runs with SIDs, which baselines join
    runs, _ = newest(store.runs)
    for run in runs:
        for row in (row for row, want in wanted.items() if _stands(run.record, want, task)):
            own = _key(run.record, task)
            distance = len(_differences(run.record, wanted[row], task))
            found[own].append((row, distance, run))
            if run.record.tokenizer is not None:
                hosts[_protocol(run, task)].add(own)
    for own, members in list(found.items()):
        into = hosts.get(_protocol(members[0][2], task), set())
        if members[0][2].record.tokenizer is None and into:
            for host in into:
                found[host] += members
            del found[own]
    if not found:
        return Selection("", {}, {})

    def standing(own: str) -> tuple[bool, bool, int, float, str]:
        members = found[own]
        return (
            bool(key) and own.startswith(key),
            any(m[2].record.run_id in chosen for m in members),
            len({m[0] for m in members}),
            -sum(m[1] for m in members) / len(members),
            max(m[2].record.created for m in members),
        )

    best = max(found, key=standing)
    rows = {
        row: _nearest([m for m in found[best] if m[0] == row], wanted[row], task)
        for row in wanted
        if any(m[0] == row for m in found[best])
    }
    return Selection(best, rows, {k: len({m[0] for m in v}) for k, v in found.items() if k != best})


def _stands(record: RunRecord, want: Wanted, task: str | None) -> bool:
    need = want.need
    name = None if record.tokenizer is None else record.tokenizer.name
    policy = "none" if record.sids is None else record.sids.collision_policy
    if (record.dataset.name, record.budget, name, policy) != (want.dataset, want.budget, need.tokenizer, need.collisions):
        return False
    if ties_of(record) not in (None, need.ties):
        return False
    if task is None and record.sids is None:
        return False
    if task is not None and not any(t.task == task and t.recommender.name in need.recommenders for t in record.tasks):
        return False
    own = groups_of(record)
    other = {None: ("retriever", "ranker"), "retrieval": ("ranker",), "ranking": ("retriever",)}[task]
    return all(
        own.get(group, {}).get(field) == want.groups.get(group, {}).get(field)
        for group, _, field in (setting.partition(".") for setting in need.settings)
        if group not in other
    )


def _differences(record: RunRecord, want: Wanted, task: str | None) -> list[str]:
    """Settings of the groups that decide the task's numbers and are not those of the plan; fields that only one side
    knows came with another release."""
    own, found = groups_of(record), []
    sides = {None: set(), "retrieval": {"retriever"}, "ranking": {"ranker"}}[task]
    for group in ("dataset", "features", "behaviour", "tokenizer", "collisions", *sides):
        ours, plan = own.get(group, {}), want.groups.get(group, {})
        for name, value in ours.items():
            theirs = plan.get(name, _MISSING)
            if theirs is not _MISSING and theirs != value:
                found.append(f"{group}.{name}={value} (plan: {theirs})")
    return found


def _nearest(members: Sequence[tuple[str, int, StoredRun]], want: Wanted, task: str | None) -> Ours:
    """The seeds of the identity that is nearest to the plan, the newest of equals."""
    by_identity: dict[str, list[tuple[str, int, StoredRun]]] = defaultdict(list)
    for member in members:
        by_identity[identity(member[2].record)].append(member)
    chosen = min(by_identity.values(), key=lambda g: (g[0][1], _later(max(m[2].record.created for m in g))))
    seeds = {m[2].record.seed: m[2] for m in chosen}
    runs = tuple(seeds[s] for s in sorted(seeds))
    return Ours(runs, tuple(_differences(runs[0].record, want, task)))


def _later(created: str) -> tuple[int, ...]:
    """Sort key that puts later ISO times first."""
    return tuple(-ord(c) for c in created)


def _key(record: RunRecord, task: str | None) -> str:
    if task is not None:
        return next(t.comparability_key for t in record.tasks if t.task == task)
    provenance = None if record.features is None else record.features.provenance
    return hash_json({"dataset": record.dataset.content_hash, "features": provenance, "budget": record.budget})


def _protocol(run: StoredRun, task: str | None) -> str:
    entry = run.task(task)
    return "" if entry is None else entry.protocol_key
