"""Metrics of the distribution of codes; their code is ``benchmark/metrics/distribution.py``."""

from __future__ import annotations

from functools import partial

from sidbench.benchmark.metrics.declaration import HIGHER, LOWER, Family, MetricDeclaration

FAMILY = Family("distribution", None, "distribution-of-codes", 2)
_nats = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=None, unit="nats", digits=3)
_share = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=0.0, best=1.0, unit="share", digits=3)

METRICS = (
    _nats(
        "entropy",
        definition="mean over positions of the entropy of codes over items, PAD excluded; at most ln K",
        heading="entropy",
        column=True,
        in_papers="Entropy",
    ),
    _nats("entropy_min", definition="smallest entropy of a position", heading="entropy min"),
    _nats(
        "entropy_{s}",
        definition="entropy of codes over the items of a stratum (head or tail)",
        heading="entropy {s}",
    ),
    _nats("entropy_pad", definition="entropy with PAD counted as one more code", heading="entropy pad"),
    _nats(
        "entropy_traffic",
        definition="entropy of codes weighted by training interactions, as the recommender sees them",
        heading="entropy traffic",
    ),
    _nats(
        "joint_entropy",
        definition="entropy of whole SIDs over items; at most ln N, reached without collisions",
        heading="joint entropy",
    ),
    _share(
        "perplexity_share",
        definition="mean over positions of exp(entropy)/K: the effectively used share of the codebook",
        heading="perplexity share",
    ),
    _share(
        "utilisation",
        definition="mean over positions of the share of codes that some item uses",
        heading="utilisation",
        column=True,
        in_papers="Util.",
    ),
    _share(
        "utilisation_{s}",
        definition="utilisation by the items of a stratum (head or tail)",
        heading="utilisation {s}",
    ),
    MetricDeclaration(
        "hourglass",
        FAMILY,
        LOWER,
        None,
        None,
        "nats",
        "mean of first and last entropy minus the smallest one between; positive = waist (ordered only)",
        "hourglass",
        digits=3,
    ),
)
