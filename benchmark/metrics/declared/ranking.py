"""Metrics of ranking; their code is ``benchmark/metrics/auc.py``."""

from __future__ import annotations

from functools import partial

from sidbench.benchmark.metrics.declaration import (
    HIGHER,
    NEITHER,
    RECORDED,
    ROW_AUC,
    USER_AUC,
    Family,
    MetricDeclaration,
)

FAMILY = Family("ranking", "ranking", "ranking", 1)
_auc = partial(
    MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=1.0, unit="", statistic=RECORDED, digits=4
)
_share = partial(
    MetricDeclaration, family=FAMILY, direction=NEITHER, worst=0.0, best=1.0, unit="share", statistic=RECORDED, digits=4
)

METRICS = (
    _auc(
        "auc",
        definition="probability that a random positive row scores above a random negative one, ties one half",
        heading="AUC",
        statistic=ROW_AUC,
        column=True,
        headline=True,
        objective="auc",
        in_papers="AUC",
    ),
    _auc(
        "gauc",
        definition="mean AUC within users that have both labels, weighted by their test rows",
        heading="GAUC",
        statistic=USER_AUC,
        column=True,
        in_papers="GAUC",
    ),
    _auc(
        "gauc_click_weighted",
        definition="mean AUC within users, weighted by their positive rows",
        heading="GAUC click weighted",
    ),
    _auc("gauc_unweighted", definition="mean AUC within users, every user alike", heading="GAUC unweighted"),
    _auc("auc_{s}", definition="AUC over rows whose item lies in a stratum", heading="AUC {s}"),
    _auc("gauc_{s}", definition="gauc over rows whose item lies in a stratum", heading="GAUC {s}"),
    _share(
        "gauc_coverage_users",
        definition="share of test users with both labels, the ones GAUC averages",
        heading="GAUC coverage users",
    ),
    _share(
        "gauc_coverage_rows",
        definition="share of test rows that belong to such users",
        heading="GAUC coverage rows",
    ),
)
