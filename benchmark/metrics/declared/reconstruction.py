"""Metrics of reconstruction; their code is ``benchmark/metrics/reconstruction.py`` and ``probe.py``."""

from __future__ import annotations

from functools import partial

from sidbench.benchmark.metrics.declaration import HIGHER, LOWER, Family, MetricDeclaration

FAMILY = Family("reconstruction", None, "reconstruction", 5)
_error = partial(MetricDeclaration, family=FAMILY, direction=LOWER, worst=None, best=0.0, unit="share of variance", digits=3)
_likeness = partial(MetricDeclaration, family=FAMILY, direction=HIGHER, worst=-1.0, best=1.0, unit="", digits=3)

METRICS = (
    _error(
        "nmse_{m}",
        definition="squared reconstruction error of a modality over its variance; 1 = predicting the mean",
        heading="nmse {m}",
    ),
    _error(
        "probe_{m}",
        definition="held-out nmse of a shared ridge probe from one-hot codes to a modality; 1 = codes say nothing",
        heading="probe {m}",
        column=True,
    ),
    _error(
        "seed_like",
        definition="mean over modalities of nmse, or of the probe where the method reconstructs nothing",
        heading="seed like",
        in_papers="L_recon",
    ),
    _likeness("cos_{m}", definition="mean cosine between an embedding and its reconstruction", heading="cos {m}"),
    _likeness(
        "kendall_tau",
        definition="mean over reconstructed modalities of kendall_tau of that modality",
        heading="kendall tau",
    ),
    _likeness(
        "kendall_tau_{m}",
        definition="Kendall tau-b of item-pair distances before and after quantisation, 2,000 fixed items",
        heading="kendall tau {m}",
    ),
)
