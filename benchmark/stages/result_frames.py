"""The files beside a record, so that anyone can recompute every number outside this code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sidbench.recommenders.base import RankingRows, RetrievalData, TargetRanks
from sidbench.tokenizers.base import SemanticIds

if TYPE_CHECKING:
    from sidbench.benchmark.stages.prepared import Prepared


def sids_frame(sids: SemanticIds, item_keys: Sequence[str]) -> pl.DataFrame:
    """Columns item (raw key), codes (list of int32, -1 = PAD) and, where the method has them, weights."""
    columns: dict[str, object] = {"item": list(item_keys), "codes": pl.Series(sids.codes.tolist(), dtype=pl.List(pl.Int32))}
    if sids.weights is not None:
        columns["weights"] = pl.Series(sids.weights.tolist(), dtype=pl.List(pl.Float32))
    return pl.DataFrame(columns)


def _keys(keys: Sequence[str], index: np.ndarray) -> pl.Series:
    return pl.Series(keys, dtype=pl.String).gather(index)


def retrieval_frame(
    ranks: TargetRanks, per_user: Mapping[str, np.ndarray], prepared: Prepared, data: RetrievalData
) -> pl.DataFrame:
    """One row a user: user, target, rank intervals (1-based, inclusive), the target's score, how many items and SIDs
    of the user's list are known, every per-user metric."""
    intervals = {
        "rank_low": ranks.better + 1,
        "rank_high": ranks.better + ranks.tied,
        "sid_rank_low": ranks.sid_better + 1,
        "sid_rank_high": ranks.sid_better + ranks.sid_tied,
        "masked_rank_low": ranks.masked_better + 1,
        "masked_rank_high": ranks.masked_better + ranks.masked_tied,
        "score": ranks.score,
        "depth": ranks.depth,
        "sid_depth": ranks.sid_depth,
    }
    return pl.DataFrame(
        {
            "user": _keys(prepared.dataset.user_keys, data.test_user),
            "target": _keys(prepared.dataset.catalog.keys, data.test_target),
            **intervals,
            **per_user,
        }
    )


def ranking_frame(
    scores: np.ndarray, prepared: Prepared, rows: RankingRows, users: np.ndarray, strata: np.ndarray
) -> pl.DataFrame:
    """One row a test event: user, item, label, score, the event's row number in the data set, and the stratum of its
    item (int8 labels of ``metrics/strata.py``)."""
    return pl.DataFrame(
        {
            "user": _keys(prepared.dataset.user_keys, users),
            "item": _keys(prepared.dataset.catalog.keys, rows.item),
            "label": rows.label.astype(np.int8),
            "score": scores,
            "row": rows.row,
            "stratum": strata,
        }
    )
