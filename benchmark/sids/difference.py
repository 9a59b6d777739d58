"""How far two SID tables differ: two fits, two seeds, two dates. Items are matched by key.

Two fits may name the same clusters differently, so beside the share of items whose codes changed stand numbers that no
renaming of codes can move: mutual information of the two partitions by prefix, and the pairs of items that collide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sidbench.benchmark.metrics.alignment import partition_agreement, parts
from sidbench.benchmark.metrics.distribution import prefix_ids
from sidbench.benchmark.sids.inspection import item_keys
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.sid_tables.table import SidTable


def difference(left: SidTable, right: SidTable, ordered: bool) -> dict[str, Any]:
    """Plain values; everything but the first block is over the items that both tables hold.

    items: common, added (only in ``right``), removed. moved: share of items with any changed code; ``None`` when the
    lengths differ. churn_by_position: share of items whose code changed there. prefix_equal: share with equal first p
    codes; mean_common_prefix: their sum, codes. agreement: nmi and ami of the partitions by prefix (unordered: by
    position). collisions: pairs of items that share a SID on both sides, on one only, their Jaccard index, and items
    that entered or left collisions. Prefix numbers are absent for unordered SIDs.

    Raises ``InputError`` when the tables have no item in common.
    """
    left_keys, right_keys = item_keys(left), item_keys(right)
    place = {key: row for row, key in enumerate(right_keys)}
    common = [(i, place[key]) for i, key in enumerate(left_keys) if key in place]
    if not common:
        raise InputError(
            "two tables without a common item",
            got=f"keys such as {left_keys[0]!r} and {right_keys[0]!r}",
            wanted="tables of one catalogue",
            do="bring both to item keys with `bench sids import`",
        )
    rows = np.array(common)
    a, b = left.codes[rows[:, 0]], right.codes[rows[:, 1]]
    width = min(a.shape[1], b.shape[1])
    equal = a[:, :width] == b[:, :width]
    report: dict[str, Any] = {
        "items": {"common": len(rows), "added": right.n_items - len(rows), "removed": left.n_items - len(rows)},
        "code_length": [left.code_length, right.code_length],
        "sizes": [left.sizes.tolist(), right.sizes.tolist()],
        "moved": float((~equal).any(axis=1).mean()) if left.code_length == right.code_length else None,
        "churn_by_position": (~equal).mean(axis=0).tolist(),
    }
    if ordered:
        together = np.logical_and.accumulate(equal, axis=1)
        report["prefix_equal"] = together.mean(axis=0).tolist()
        report["mean_common_prefix"] = float(together.sum(axis=1).mean())
    rows_of = zip(parts(a, ordered)[:width], parts(b, ordered)[:width], strict=True)
    found = [partition_agreement(x[hx & hy], y[hx & hy]) for (x, hx), (y, hy) in rows_of]
    report["agreement"] = {"nmi": [nmi for nmi, _, _ in found], "ami": [ami for _, _, ami in found]}
    report["collisions"] = _collision_churn(prefix_ids(a)[-1], prefix_ids(b)[-1])
    return report


def _collision_churn(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Pairs and items that collide under two SID partitions int ``[N]`` of the same items."""
    joint = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1]
    before, after = np.bincount(a), np.bincount(b)
    pairs_before, pairs_after, kept = (int((n.astype(np.int64) * (n - 1) // 2).sum()) for n in (before, after, joint))
    union = pairs_before + pairs_after - kept
    was, now = before[a] > 1, after[b] > 1
    return {
        "pairs_before": pairs_before,
        "pairs_after": pairs_after,
        "pairs_kept": kept,
        "jaccard": kept / union if union else None,
        "items_entered": int((now & ~was).sum()),
        "items_left": int((was & ~now).sum()),
        "items_stayed": int((was & now).sum()),
    }
