"""What a SID table holds, as plain values: the whole table, or one item and its neighbours in code space.

Works on ``SidTable`` alone, so it imports no torch and needs no data set.
"""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from sidbench.benchmark.metrics.catalogue import describe
from sidbench.benchmark.metrics.distribution import prefix_ids
from sidbench.benchmark.metrics.quantisation import collision_numbers, distribution_numbers
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.sid_tables.table import PAD, SidTable

SHOWN_ITEMS = 5
SHOWN_GROUPS = 10
BEHIND = ("alignment", "reconstruction")  # families that compare codes with what they were made from
ACTIVITY = ("active_count_spearman", "dead_positions")  # shown with the vectors of the same routers
_NEAREST_AMONG = 100_000  # difflib takes about a second for so many keys


def item_keys(table: SidTable) -> tuple[str, ...]:
    """The table's keys, row numbers where it has none."""
    return table.keys if table.keys is not None else tuple(str(i) for i in range(table.n_items))


def table_report(table: SidTable, ordered: bool) -> dict[str, Any]:
    """Counts, metrics, vectors by position and the largest collision groups of a table.

    Numbers that need training interactions (``entropy_traffic``, strata) are absent: a table does not know them.
    """
    nobody = np.zeros(table.n_items)
    numbers, vectors = distribution_numbers(table.codes, table.sizes, ordered, nobody)
    numbers |= collision_numbers(table.codes, nobody)
    return {
        "items": table.n_items,
        "distinct_sids": int(prefix_ids(table.codes)[-1].max()) + 1,
        "sizes": table.sizes.tolist(),
        "sizes_stated": table.sizes_stated,
        "ordered": ordered,
        "mean_active": float((table.codes != PAD).sum(axis=1).mean()),
        "metrics": {name: float(value) for name, value in numbers.items() if value is not None},
        "vectors": {name: list(values) for name, values in vectors.items()},
        "largest_groups": largest_groups(table),
    }


def largest_groups(table: SidTable) -> list[dict[str, Any]]:
    """At most ``SHOWN_GROUPS`` SIDs that several items share, largest first, equal ones in lexicographic order."""
    ids, keys = prefix_ids(table.codes)[-1], item_keys(table)
    sizes = np.bincount(ids)
    order = np.argsort(-sizes, kind="stable")[:SHOWN_GROUPS]
    groups = []
    for group in order[sizes[order] > 1]:
        members = np.flatnonzero(ids == group)
        groups.append(
            {
                "codes": table.codes[members[0]].tolist(),
                "items": int(sizes[group]),
                "first": [keys[i] for i in members[:SHOWN_ITEMS]],
            }
        )
    return groups


def record_report(record: RunRecord) -> dict[str, Any]:
    """What the record knows beyond the codes: alignment, head and tail, activity of routers, the collision policy."""
    if record.sids is None:
        return {}
    values = {name: m.value for name, m in record.sids.metrics.items()}
    known = {n: entry for n in values if (entry := describe(n)) is not None}
    head_tail = {n: v for n, v in values.items() if n in known and known[n].of_part}
    report: dict[str, Any] = {
        "head_and_tail": head_tail,
        "alignment": {
            n: v
            for n, v in values.items()
            if n in known and known[n].family.name in BEHIND and n not in head_tail and n not in ACTIVITY
        },
        "activity": {
            **{n: v for n, v in values.items() if n in ACTIVITY},
            **{n: list(v) for n, v in record.sids.vectors.items() if n.endswith("_by_quartile")},
        },
        "before_collision_policy": {n: v for n, v in values.items() if n in known and known[n].before_policy},
    }
    if record.tokenizer is not None:
        report["diagnostics"] = dict(record.tokenizer.diagnostics)
    return {name: part for name, part in report.items() if part}


def item_report(table: SidTable, key: str, ordered: bool) -> dict[str, Any]:
    """One item: its codes, and how many items share each prefix (unordered: each code, then the whole SID).

    Raises ``InputError`` naming the nearest key when the table lacks the item.
    """
    keys = item_keys(table)
    if key not in keys:
        near = difflib.get_close_matches(key, keys, n=1) if len(keys) <= _NEAREST_AMONG else []
        raise InputError(
            "item of the table",
            got=repr(key),
            wanted=f"one of its {len(keys)} keys, such as {keys[0]!r}",
            do=f"did you mean {near[0]!r}?" if near else "use the raw item key of the dataset",
        )
    row = keys.index(key)
    own = table.codes[row]
    same = table.codes == own[None, :]
    shared = []
    for p in range(table.code_length):
        if ordered:
            shared.append(_sharing(f"first {p + 1}", own[: p + 1], same[:, : p + 1].all(axis=1), row, keys))
        elif own[p] != PAD:
            shared.append(_sharing(f"position {p + 1}", own[p : p + 1], same[:, p], row, keys))
    if not ordered:
        shared.append(_sharing("all", own, same.all(axis=1), row, keys))
    report: dict[str, Any] = {"item": key, "codes": own.tolist(), "ordered": ordered, "shared": shared}
    if table.weights is not None:
        report["weights"] = [float(w) for w in table.weights[row]]
    return report


def _sharing(name: str, codes: np.ndarray, mask: np.ndarray, row: int, keys: tuple[str, ...]) -> dict[str, Any]:
    others = np.flatnonzero(mask)
    others = others[others != row]
    return {"part": name, "codes": codes.tolist(), "others": len(others), "first": [keys[i] for i in others[:SHOWN_ITEMS]]}
