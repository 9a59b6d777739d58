"""Metrics of retrieval; their code is ``benchmark/metrics/ranking_at_k.py``."""

from __future__ import annotations

from functools import partial

from sidbench.benchmark.metrics.declaration import (
    HIGHER,
    LOWER,
    NEITHER,
    RECORDED,
    USER_MEAN,
    USER_RATIO,
    Family,
    MetricDeclaration,
)

FAMILY = Family("retrieval", "retrieval", "retrieval", 0)
_item = partial(
    MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=1.0, unit="", statistic=USER_MEAN, digits=4
)
_other = partial(
    MetricDeclaration, family=FAMILY, direction=NEITHER, worst=0.0, best=1.0, unit="", statistic=USER_MEAN, digits=4
)

METRICS = (
    _item(
        "item_recall_at_{k}",
        definition="expected share of users whose target item is among the first K, ties in random order",
        heading="R@{k}",
        column=True,
        cutoffs=(10, 50, 100),
        headline=True,
        in_papers="R@{k}",
    ),
    _item(
        "item_ndcg_at_{k}",
        definition="expected 1/log2(rank + 1) of the target item within the first K, ties in random order",
        heading="N@{k}",
        column=True,
        cutoffs=(10, 100),
        objective="ndcg",
        in_papers="N@{k}",
    ),
    _item(
        "item_recall_at_{k}_{s}",
        definition="item recall over users whose target lies in a stratum of items",
        heading="R@{k} {s}",
        statistic=RECORDED,
    ),
    _item(
        "item_ndcg_at_{k}_{s}",
        definition="item NDCG over users whose target lies in a stratum of items",
        heading="N@{k} {s}",
        statistic=RECORDED,
    ),
    _item(
        "masked_item_recall_at_{k}",
        definition="item recall after removing the user's history from the candidates",
        heading="masked R@{k}",
    ),
    _item(
        "masked_item_ndcg_at_{k}",
        definition="item NDCG after removing the user's history from the candidates",
        heading="masked N@{k}",
    ),
    _item(
        "pessimistic_recall_at_{k}",
        definition="item recall with the target last among its ties: a lower bound",
        heading="pessimistic R@{k}",
    ),
    _other(
        "sid_recall_at_{k}",
        definition="recall in distinct SIDs: any item with the target's SID is a hit; inflated by collisions",
        heading="SID R@{k}",
        column=True,
        in_papers="SID R@{k}",
    ),
    _other(
        "sid_ndcg_at_{k}",
        definition="NDCG in distinct SIDs: any item with the target's SID is a hit; inflated by collisions",
        heading="SID N@{k}",
        in_papers="SID N@{k}",
    ),
    _other(
        "optimistic_recall_at_{k}",
        definition="item recall with the target first among its ties: an upper bound",
        heading="optimistic R@{k}",
    ),
    MetricDeclaration(
        "inflation_recall_at_{k}",
        FAMILY,
        LOWER,
        None,
        1.0,
        "ratio",
        "sid_recall over item_recall: what code-string matching overstates",
        "inflation",
        digits=3,
        statistic=USER_RATIO,
        ratio=("sid_recall_at_{k}", "item_recall_at_{k}"),
        column=True,
    ),
)
