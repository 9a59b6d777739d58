"""All numbers of a SID table in one call: distribution, collisions, reconstruction and the shared probe.

They are exact for the catalogue, hence without interval; the probe alone draws folds from the run's seed. A number
that is undefined (no reconstruction, no training interaction, unordered SIDs) is absent, never NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidbench.benchmark.metrics import collisions, distribution, probe, reconstruction
from sidbench.benchmark.records import Metric
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

if TYPE_CHECKING:  # the contract lives beside torch; metrics stay importable without it
    from sidbench.tokenizers.base import SemanticIds

Numbers = dict[str, float | None]
Vectors = dict[str, tuple[float, ...]]


def _distribution_numbers(sids: SemanticIds, traffic: np.ndarray) -> tuple[Numbers, Vectors]:
    codes, sizes = sids.codes, sids.sizes
    counts = distribution.code_counts(codes, sizes)
    entropies = distribution.position_entropies(codes, sizes)
    shares, used = distribution.perplexity_shares(codes, sizes), distribution.utilisations(codes, sizes)
    numbers: Numbers = {
        "entropy": entropies.mean(), "entropy_min": entropies.min(),
        "entropy_pad": distribution.position_entropies(codes, sizes, pad_as_code=True).mean(),
        "entropy_traffic": distribution.position_entropies(codes, sizes, traffic).mean() if traffic.any() else None,
        "perplexity_share": shares.mean(), "joint_entropy": distribution.joint_entropy(codes),
        "utilisation": used.mean(), "hourglass": distribution.hourglass_index(entropies) if sids.ordered else None,
    }
    vectors = {
        "entropy": entropies, "perplexity_share": shares, "utilisation": used,
        "gini": np.array([distribution.gini(n) for n in counts]),
        "top_share": np.array([distribution.top_share(n) for n in counts]),
        "std": distribution.count_spreads(codes, sizes), "active": (codes >= 0).mean(axis=0),
    }
    if sids.ordered:  # prefixes mean something only where a position refines the ones before it
        vectors |= {
            "prefixes": distribution.prefix_counts(codes), "branching": distribution.branching(codes),
            "path_density": distribution.path_densities(codes, sizes),
            "conditional_entropy": distribution.conditional_entropies(codes),
            "conditional_entropy_miller_madow": distribution.conditional_entropies(codes, miller_madow=True),
        }
    return numbers, {f"{name}_by_position": tuple(float(v) for v in values) for name, values in vectors.items()}


def _collision_numbers(codes: np.ndarray, traffic: np.ndarray) -> Numbers:
    sizes = collisions.group_sizes(codes)
    return {
        "collision_rate": collisions.collision_rate(sizes), "items_in_collision": collisions.items_in_collision(sizes),
        "max_group": collisions.max_group(sizes), "expected_group": collisions.expected_group(sizes),
        "expected_group_traffic": collisions.expected_group_traffic(sizes, traffic),
        "frac_unique": collisions.frac_unique(sizes),
    }


def _reconstruction_numbers(sids: SemanticIds, features: ItemFeatures) -> Numbers:
    numbers: Numbers = {}
    taus: list[float] = []
    sample = np.zeros(features.n_items, bool)
    sample[reconstruction.tau_sample(features.n_items)] = True
    for m in features.ordered_names():
        if m not in sids.reconstruction:
            continue
        original, estimate, available = features.modalities[m], sids.reconstruction[m], features.available[m]
        if estimate.shape != original.shape:
            raise InputError(f"reconstruction of {m}", got=f"shape {estimate.shape}", wanted=f"{original.shape}",
                             do="return the reconstruction in the shape and scale of ItemFeatures")
        numbers[f"nmse_{m}"] = reconstruction.nmse(original[available], estimate[available])
        numbers[f"cos_{m}"] = reconstruction.mean_cosine(original[available], estimate[available])
        rows = sample & available
        tau = reconstruction.distance_tau(original[rows], estimate[rows])
        numbers[f"kendall_tau_{m}"] = tau
        if tau is not None:
            taus.append(tau)
    numbers["kendall_tau"] = float(np.mean(taus)) if taus else None
    return numbers


def _probe_numbers(sids: SemanticIds, features: ItemFeatures, rng: Rng) -> Numbers:
    # Modalities with the same available items share folds and factorisations.
    by_mask: dict[bytes, list[str]] = {}
    for m in features.ordered_names():
        by_mask.setdefault(np.packbits(features.available[m]).tobytes(), []).append(m)
    numbers: Numbers = {}
    for names in by_mask.values():
        rows = features.available[names[0]]
        if rows.any():
            targets = {m: features.modalities[m][rows] for m in names}
            generator = rng.child("probe", *names).numpy()
            found = probe.probe_nmse(sids.codes[rows], sids.sizes, targets, generator)
            numbers |= {f"probe_{m}": found.get(m) for m in names}
    return numbers


def quantisation_metrics(sids: SemanticIds, features: ItemFeatures, rng: Rng) -> tuple[dict[str, Metric], Vectors]:
    """Scalars (name -> ``Metric`` without interval) and per-position vectors (name -> ``L`` numbers) of a SID table.

    Traffic weights are ``features.train_counts``. ``n`` is the number of items, for a modality the available ones.
    Prefix vectors and ``hourglass`` exist for ordered SIDs only. Raises ``InputError`` when the SIDs and features do
    not describe the same items, or a reconstruction has another shape than its modality.
    """
    if sids.n_items != features.n_items:
        raise InputError("SIDs and features", got=f"{sids.n_items} and {features.n_items} items",
                         wanted="the same items")
    numbers, vectors = _distribution_numbers(sids, features.train_counts)
    numbers |= _collision_numbers(sids.codes, features.train_counts)
    numbers |= _reconstruction_numbers(sids, features) | _probe_numbers(sids, features, rng)
    modalities = tuple(features.ordered_names())
    own = {m: v for m in modalities if (v := numbers.get(f"nmse_{m}")) is not None}
    probed = {m: v for m in modalities if (v := numbers.get(f"probe_{m}")) is not None}
    numbers["seed_like"] = reconstruction.seed_like(own, probed, modalities)
    available = {m: int(features.available[m].sum()) for m in modalities}
    metrics = {}
    for name, value in numbers.items():
        if value is not None:
            modality = next((m for m in modalities if name.endswith(f"_{m}")), "")
            metrics[name] = Metric(value=float(value), n=available.get(modality, features.n_items))
    return metrics, vectors
