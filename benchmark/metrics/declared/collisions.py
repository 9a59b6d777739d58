"""Metrics of collisions; their code is ``benchmark/metrics/collisions.py``."""

from __future__ import annotations

from functools import partial

from sidbench.benchmark.metrics.declaration import HIGHER, LOWER, Family, MetricDeclaration

FAMILY = Family("collisions", None, "collisions", 3)
_share = partial(MetricDeclaration, family=FAMILY, direction=LOWER, worst=1.0, best=0.0, unit="share")
_items = partial(MetricDeclaration, family=FAMILY, direction=LOWER, worst=None, best=1.0, unit="items", digits=2)
_unique = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=1.0, unit="share")

METRICS = (
    _share(
        "collision_rate",
        definition="(N - U)/N with U distinct SIDs among N items",
        heading="collision rate",
        column=True,
        headline=True,
        objective="collision_rate",
    ),
    _share(
        "collision_rate_before",
        definition="collision_rate of the tokenizer's own codes, before the collision policy",
        heading="before policy",
        column=True,
    ),
    _share(
        "items_in_collision",
        definition="share of items whose SID another item also has",
        heading="items in collision",
    ),
    _share(
        "items_in_collision_{s}",
        definition="share of the items of a stratum (head or tail) whose SID any other item also has",
        heading="items in collision {s}",
    ),
    _share(
        "items_in_collision_before",
        definition="items_in_collision of the tokenizer's own codes, before the collision policy",
        heading="items in collision before",
    ),
    _items("max_group", definition="items that share the most frequent SID", heading="max group"),
    _items(
        "max_group_before",
        definition="max_group of the tokenizer's own codes, before the collision policy",
        heading="max group before",
    ),
    _items(
        "expected_group",
        definition="items that share the SID of a random item, itself included",
        heading="expected group",
    ),
    _items(
        "expected_group_before",
        definition="expected_group of the tokenizer's own codes, before the collision policy",
        heading="expected group before",
    ),
    _items(
        "expected_group_traffic",
        definition="expected_group with items weighted by training interactions",
        heading="expected group traffic",
    ),
    _items(
        "expected_group_traffic_before",
        definition="expected_group_traffic of the tokenizer's own codes, before the policy",
        heading="expected group traffic before",
    ),
    _unique("frac_unique", definition="U/N: distinct SIDs per item", heading="frac unique"),
    _unique(
        "frac_unique_before",
        definition="frac_unique of the tokenizer's own codes, before the collision policy",
        heading="frac unique before",
    ),
)
