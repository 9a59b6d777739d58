"""Metrics of alignment; their code is ``benchmark/metrics/alignment.py``."""

from __future__ import annotations

from functools import partial

from sidbench.benchmark.metrics.declaration import HIGHER, LOWER, NEITHER, Family, MetricDeclaration

FAMILY = Family("alignment", None, "alignment", 4)
_information = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=None, best=1.0, unit="", digits=3)
_lift = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=None, unit="ratio", digits=2)
_overlap = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=1.0, unit="share", digits=3)

METRICS = (
    _information(
        "cat_ami",
        definition="adjusted mutual information of the best prefix (unordered: position) with the leaf category; chance = 0",
        heading="category AMI",
        column=True,
    ),
    _information(
        "cat_ami_rare",
        definition="cat_ami among items with at most 5 training interactions, at the same position",
        heading="category AMI rare",
    ),
    MetricDeclaration(
        "cat_nmi",
        FAMILY,
        NEITHER,
        0.0,
        1.0,
        "",
        "mutual information with the leaf category over mean entropy, where cat_ami is largest; chance is not 0",
        "category NMI",
        digits=3,
    ),
    _lift(
        "cooc_lift",
        definition="adjacent items of training sequences that share the first code (unordered: mean over positions), over "
        "pairs drawn by popularity; chance = 1",
        heading="co-occurrence lift",
        column=True,
    ),
    _lift(
        "cooc_lift_rare",
        definition="cooc_lift over pairs with an item of at most 5 training interactions",
        heading="co-occurrence lift rare",
    ),
    _overlap(
        "knn_overlap_{m}",
        definition="share of the 20 nearest neighbours in a modality that are also among the 20 nearest in code space",
        heading="knn overlap {m}",
    ),
    _overlap(
        "knn_overlap_{m}_rare",
        definition="knn_overlap over items with at most 5 training interactions",
        heading="knn overlap {m} rare",
    ),
    MetricDeclaration(
        "active_count_spearman",
        FAMILY,
        NEITHER,
        -1.0,
        1.0,
        "",
        "rank correlation of an item's number of codes with its training interactions",
        "active count spearman",
        digits=3,
    ),
    MetricDeclaration(
        "dead_positions",
        FAMILY,
        LOWER,
        1.0,
        0.0,
        "share",
        "share of positions (routers) that no item uses, of SIDs with PAD",
        "dead positions",
        digits=3,
    ),
)
