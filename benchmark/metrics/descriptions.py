"""What each metric name means, as data: direction, range, unit and a one-line definition. Imports no numpy.

Leaderboards sort, colour and caption by these entries, and ``docs/metrics.md`` must list every one of them (a test
holds the two together). Names are patterns: ``{k}`` stands for a cut-off, ``{m}`` for a modality, ``{s}``
for a stratum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
STRATA_PATTERN = "head|torso|tail|cold"
_HOLES = {"{k}": r"[1-9]\d*", "{m}": r"[a-z][a-z0-9]*", "{s}": STRATA_PATTERN}


@dataclass(frozen=True)
class MetricDescription:
    """One metric (family).

    pattern: its name with holes. family: "distribution", "collisions", "reconstruction", "alignment", "retrieval" or
    "ranking".
    direction: "higher" or "lower" is better, or "neither" for numbers that explain others.
    worst, best: the ends of its range in the sense of ``direction``, ``None`` where the end depends on the catalogue
    or there is none (for "neither": smallest and largest value). definition: one line.
    """

    pattern: str
    family: str
    direction: str
    worst: float | None
    best: float | None
    unit: str
    definition: str

    def matches(self, name: str) -> bool:
        """Whether ``name`` is an instance of the pattern."""
        return re.fullmatch(_expression(self.pattern), name) is not None


@cache
def _expression(pattern: str) -> str:
    expression = re.escape(pattern)
    for hole, choices in _HOLES.items():
        expression = expression.replace(re.escape(hole), f"(?:{choices})")
    return expression


def _of(
    family: str, direction: str, worst: float | None, best: float | None, unit: str, **definitions: str
) -> tuple[MetricDescription, ...]:
    return tuple(
        MetricDescription(
            pattern.replace("_K", "_{k}").replace("_M", "_{m}").replace("_S", "_{s}"),
            family,
            direction,
            worst,
            best,
            unit,
            text,
        )
        for pattern, text in definitions.items()
    )


DESCRIPTIONS: tuple[MetricDescription, ...] = (
    *_of(
        "distribution",
        HIGHER,
        0.0,
        None,
        "nats",
        entropy="mean over positions of the entropy of codes over items, PAD excluded; at most ln K",
        entropy_min="smallest entropy of a position",
        entropy_S="entropy of codes over the items of a stratum (head or tail)",
        entropy_pad="entropy with PAD counted as one more code",
        entropy_traffic="entropy of codes weighted by training interactions, as the recommender sees them",
        joint_entropy="entropy of whole SIDs over items; at most ln N, reached without collisions",
    ),
    *_of(
        "distribution",
        HIGHER,
        0.0,
        1.0,
        "share",
        utilisation_S="utilisation by the items of a stratum (head or tail)",
        perplexity_share="mean over positions of exp(entropy)/K: the effectively used share of the codebook",
        utilisation="mean over positions of the share of codes that some item uses",
    ),
    *_of(
        "distribution",
        LOWER,
        None,
        None,
        "nats",
        hourglass="mean of first and last entropy minus the smallest one between; positive = waist (ordered only)",
    ),
    *_of(
        "collisions",
        LOWER,
        1.0,
        0.0,
        "share",
        collision_rate="(N - U)/N with U distinct SIDs among N items",
        items_in_collision="share of items whose SID another item also has",
        items_in_collision_S="share of the items of a stratum (head or tail) whose SID any other item also has",
    ),
    *_of(
        "collisions",
        LOWER,
        None,
        1.0,
        "items",
        max_group="items that share the most frequent SID",
        expected_group="items that share the SID of a random item, itself included",
        expected_group_traffic="expected_group with items weighted by training interactions",
    ),
    *_of(
        "collisions",
        HIGHER,
        0.0,
        1.0,
        "share",
        frac_unique="U/N: distinct SIDs per item",
        frac_unique_before="frac_unique of the tokenizer's own codes, before the collision policy",
    ),
    *_of(
        "collisions",
        LOWER,
        1.0,
        0.0,
        "share",
        collision_rate_before="collision_rate of the tokenizer's own codes, before the collision policy",
        items_in_collision_before="items_in_collision of the tokenizer's own codes, before the collision policy",
    ),
    *_of(
        "collisions",
        LOWER,
        None,
        1.0,
        "items",
        max_group_before="max_group of the tokenizer's own codes, before the collision policy",
        expected_group_before="expected_group of the tokenizer's own codes, before the collision policy",
        expected_group_traffic_before="expected_group_traffic of the tokenizer's own codes, before the policy",
    ),
    *_of(
        "reconstruction",
        LOWER,
        None,
        0.0,
        "share of variance",
        nmse_M="squared reconstruction error of a modality over its variance; 1 = predicting the mean",
        probe_M="held-out nmse of a shared ridge probe from one-hot codes to a modality; 1 = codes say nothing",
        seed_like="mean over modalities of nmse, or of the probe where the method reconstructs nothing",
    ),
    *_of(
        "reconstruction",
        HIGHER,
        -1.0,
        1.0,
        "",
        cos_M="mean cosine between an embedding and its reconstruction",
        kendall_tau="mean over reconstructed modalities of kendall_tau of that modality",
        kendall_tau_M="Kendall tau-b of item-pair distances before and after quantisation, 2,000 fixed items",
    ),
    *_of(
        "alignment",
        HIGHER,
        None,
        1.0,
        "",
        cat_ami="adjusted mutual information of the best prefix (unordered: position) with the leaf category; chance = 0",
        cat_ami_rare="cat_ami among items with at most 5 training interactions, at the same position",
    ),
    *_of(
        "alignment",
        NEITHER,
        0.0,
        1.0,
        "",
        cat_nmi="mutual information with the leaf category over mean entropy, where cat_ami is largest; chance is not 0",
    ),
    *_of(
        "alignment",
        HIGHER,
        0.0,
        None,
        "ratio",
        cooc_lift="adjacent items of training sequences that share the first code (unordered: mean over positions), over "
        "pairs drawn by popularity; chance = 1",
        cooc_lift_rare="cooc_lift over pairs with an item of at most 5 training interactions",
    ),
    *_of(
        "alignment",
        HIGHER,
        0.0,
        1.0,
        "share",
        knn_overlap_M="share of the 20 nearest neighbours in a modality that are also among the 20 nearest in code space",
        knn_overlap_M_rare="knn_overlap over items with at most 5 training interactions",
    ),
    *_of(
        "alignment",
        NEITHER,
        -1.0,
        1.0,
        "",
        active_count_spearman="rank correlation of an item's number of codes with its training interactions",
    ),
    *_of(
        "alignment",
        LOWER,
        1.0,
        0.0,
        "share",
        dead_positions="share of positions (routers) that no item uses, of SIDs with PAD",
    ),
    *_of(
        "retrieval",
        HIGHER,
        0.0,
        1.0,
        "",
        item_recall_at_K="expected share of users whose target item is among the first K, ties in random order",
        item_ndcg_at_K="expected 1/log2(rank + 1) of the target item within the first K, ties in random order",
        item_recall_at_K_S="item recall over users whose target lies in a stratum of items",
        item_ndcg_at_K_S="item NDCG over users whose target lies in a stratum of items",
        masked_item_recall_at_K="item recall after removing the user's history from the candidates",
        masked_item_ndcg_at_K="item NDCG after removing the user's history from the candidates",
        pessimistic_recall_at_K="item recall with the target last among its ties: a lower bound",
    ),
    *_of(
        "retrieval",
        NEITHER,
        0.0,
        1.0,
        "",
        sid_recall_at_K="recall in distinct SIDs: any item with the target's SID is a hit; inflated by collisions",
        sid_ndcg_at_K="NDCG in distinct SIDs: any item with the target's SID is a hit; inflated by collisions",
        optimistic_recall_at_K="item recall with the target first among its ties: an upper bound",
    ),
    *_of(
        "retrieval",
        LOWER,
        None,
        1.0,
        "ratio",
        inflation_recall_at_K="sid_recall over item_recall: what code-string matching overstates",
    ),
    *_of(
        "ranking",
        HIGHER,
        0.0,
        1.0,
        "",
        auc="probability that a random positive row scores above a random negative one, ties one half",
        gauc="mean AUC within users that have both labels, weighted by their test rows",
        gauc_click_weighted="mean AUC within users, weighted by their positive rows",
        gauc_unweighted="mean AUC within users, every user alike",
        auc_S="AUC over rows whose item lies in a stratum",
        gauc_S="gauc over rows whose item lies in a stratum",
    ),
    *_of(
        "ranking",
        NEITHER,
        0.0,
        1.0,
        "share",
        gauc_coverage_users="share of test users with both labels, the ones GAUC averages",
        gauc_coverage_rows="share of test rows that belong to such users",
    ),
)


def describe(name: str) -> MetricDescription | None:
    """The description of a metric name, or ``None`` for an unknown one. Exact names win over patterns."""
    for entry in DESCRIPTIONS:
        if entry.pattern == name:
            return entry
    return next((entry for entry in DESCRIPTIONS if entry.matches(name)), None)


def is_better(name: str, left: float, right: float) -> bool | None:
    """Whether ``left`` is strictly better than ``right``; ``None`` for unknown names and metrics without direction."""
    entry = describe(name)
    if entry is None or entry.direction == NEITHER:
        return None
    return left > right if entry.direction == HIGHER else left < right
