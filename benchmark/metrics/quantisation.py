"""All numbers of a SID table in one call: distribution, collisions, reconstruction, the shared probe and alignment.

They are exact for the catalogue, hence without interval; the probe alone draws folds from the run's seed. A number
that is undefined (no reconstruction, no training interaction, unordered SIDs) is absent, never NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidbench.benchmark.metrics import alignment, collisions, distribution, probe, reconstruction, strata
from sidbench.benchmark.metrics.metric import Metric
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

if TYPE_CHECKING:  # the contract lives beside torch; metrics stay importable without it
    from sidbench.tokenizers.base import SemanticIds

Numbers = dict[str, float | None]
Vectors = dict[str, tuple[float, ...]]


def distribution_numbers(
    codes: np.ndarray, sizes: np.ndarray, ordered: bool, traffic: np.ndarray
) -> tuple[Numbers, Vectors]:
    """The distribution metrics of codes int ``[N, L]``, and their vectors; traffic: training interactions ``[N]``."""
    counts = distribution.code_counts(codes, sizes)
    entropies = distribution.position_entropies(codes, sizes)
    shares, used = distribution.perplexity_shares(codes, sizes), distribution.utilisations(codes, sizes)
    numbers: Numbers = {
        "entropy": entropies.mean(),
        "entropy_min": entropies.min(),
        "entropy_pad": distribution.position_entropies(codes, sizes, pad_as_code=True).mean(),
        "entropy_traffic": distribution.position_entropies(codes, sizes, traffic).mean() if traffic.any() else None,
        "perplexity_share": shares.mean(),
        "joint_entropy": distribution.joint_entropy(codes),
        "utilisation": used.mean(),
        "hourglass": distribution.hourglass_index(entropies) if ordered else None,
    }
    vectors = {
        "entropy": entropies,
        "perplexity_share": shares,
        "utilisation": used,
        "gini": np.array([distribution.gini(n) for n in counts]),
        "top_share": np.array([distribution.top_share(n) for n in counts]),
        "std": distribution.count_spreads(codes, sizes),
        "active": (codes >= 0).mean(axis=0),
    }
    if ordered:  # prefixes mean something only where a position refines the ones before it
        vectors |= {
            "prefixes": distribution.prefix_counts(codes),
            "branching": distribution.branching(codes),
            "path_density": distribution.path_densities(codes, sizes),
            "conditional_entropy": distribution.conditional_entropies(codes),
            "conditional_entropy_miller_madow": distribution.conditional_entropies(codes, miller_madow=True),
        }
    return numbers, {f"{name}_by_position": tuple(float(v) for v in values) for name, values in vectors.items()}


def collision_numbers(codes: np.ndarray, traffic: np.ndarray) -> Numbers:
    """The collision metrics of codes int ``[N, L]`` with training interactions ``traffic`` ``[N]`` by name."""
    sizes = collisions.group_sizes(codes)
    return {
        "collision_rate": collisions.collision_rate(sizes),
        "items_in_collision": collisions.items_in_collision(sizes),
        "max_group": collisions.max_group(sizes),
        "expected_group": collisions.expected_group(sizes),
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
            raise InputError(
                f"reconstruction of {m}",
                got=f"shape {estimate.shape}",
                wanted=f"{original.shape}",
                do="return the reconstruction in the shape and scale of ItemFeatures",
            )
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


def _strata_numbers(sids: SemanticIds, train_counts: np.ndarray) -> tuple[Numbers, dict[str, int]]:
    """How codes are allotted to head and tail items, and how many items each stratum has."""
    labels, sizes = strata.item_strata(train_counts), collisions.group_sizes(sids.codes)
    numbers: Numbers = {}
    members: dict[str, int] = {}
    for name in ("head", "tail"):
        mask = strata.stratum_mask(labels, name)
        if mask.any() and not mask.all():
            codes = sids.codes[mask]
            here: Numbers = {
                "entropy": distribution.position_entropies(codes, sids.sizes).mean(),
                "utilisation": distribution.utilisations(codes, sids.sizes).mean(),
                "items_in_collision": collisions.items_in_collision(sizes[mask]),
            }
            numbers |= {f"{n}_{name}": value for n, value in here.items()}
            members |= {f"{n}_{name}": int(mask.sum()) for n in here}
    return numbers, members


def _category_numbers(
    sids: SemanticIds, features: ItemFeatures, rare: np.ndarray
) -> tuple[Numbers, dict[str, np.ndarray], dict[str, int]]:
    labels = alignment.leaf_labels(features.categories, features.n_items)
    if labels is None:
        return {}, {}, {}
    found = alignment.agreement(sids.codes, sids.ordered, labels)
    numbers: Numbers = {"cat_nmi": float(found.nmi[found.best]), "cat_ami": float(found.ami[found.best])}
    labelled = labels >= 0
    members = {"cat_nmi": int(labelled.sum()), "cat_ami": int(labelled.sum()), "cat_ami_rare": int((labelled & rare).sum())}
    if len(np.unique(labels[labelled & rare])) > 1:
        numbers["cat_ami_rare"] = float(alignment.agreement(sids.codes[rare], sids.ordered, labels[rare]).ami[found.best])
    vectors = {
        "cat_nmi_by_position": found.nmi,
        "cat_nmi_chance_by_position": found.chance,
        "cat_ami_by_position": found.ami,
    }
    return numbers, vectors, members


def _behaviour_numbers(
    sids: SemanticIds, features: ItemFeatures, rare: np.ndarray
) -> tuple[Numbers, dict[str, np.ndarray], dict[str, int]]:
    numbers: Numbers = {}
    vectors: dict[str, np.ndarray] = {}
    members: dict[str, int] = {}
    pairs = features.sequences.adjacent_pairs()
    for name, ends in (("cooc_lift", None), ("cooc_lift_rare", rare)):
        found = alignment.matches(sids.codes, sids.ordered, pairs, features.train_counts, ends)
        if found is None:
            continue
        lifts = found.lifts()[:1] if sids.ordered else found.lifts()
        defined = lifts[np.isfinite(lifts)]
        numbers[name] = float(defined.mean()) if len(defined) else None
        members[name] = found.n_pairs
        if ends is None:
            vectors = {"cooc_match_by_position": found.adjacent, "cooc_match_chance_by_position": found.random}
    return numbers, vectors, members


def _neighbour_numbers(sids: SemanticIds, features: ItemFeatures, rare: np.ndarray) -> tuple[Numbers, dict[str, int]]:
    sample = np.zeros(features.n_items, bool)
    sample[alignment.query_sample(features.n_items)] = True
    numbers: Numbers = {}
    members: dict[str, int] = {}
    for m in features.ordered_names():
        there = features.available[m]
        queries = np.flatnonzero(sample[there])  # rows among the available items
        overlap = alignment.neighbour_overlap(sids.codes[there], features.modalities[m][there], sids.ordered, queries)
        if overlap is None:
            continue
        few = rare[there][queries]
        for name, share in ((f"knn_overlap_{m}", overlap), (f"knn_overlap_{m}_rare", overlap[few])):
            if len(share):
                numbers[name], members[name] = float(share.mean()), len(share)
    return numbers, members


def _alignment_numbers(sids: SemanticIds, features: ItemFeatures) -> tuple[Numbers, Vectors, dict[str, int]]:
    """Metrics of ``alignment`` with the number of items, pairs or queries each one averages."""
    rare = features.train_counts <= alignment.RARE_COUNT
    numbers, vectors, members = _category_numbers(sids, features, rare)
    more, by_position, counted = _behaviour_numbers(sids, features, rare)
    near, queried = _neighbour_numbers(sids, features, rare)
    numbers, vectors, members = numbers | more | near, vectors | by_position, members | counted | queried
    used = alignment.activity(sids.codes, sids.weights, features.train_counts)
    if used is not None:
        numbers |= {"active_count_spearman": used.spearman, "dead_positions": used.dead}
        vectors["active_codes_by_quartile"] = used.active
        if used.weight is not None:
            vectors["weight_by_quartile"] = used.weight
    return numbers, {name: tuple(float(v) for v in values) for name, values in vectors.items()}, members


def quantisation_metrics(sids: SemanticIds, features: ItemFeatures, rng: Rng) -> tuple[dict[str, Metric], Vectors]:
    """Scalars (name -> ``Metric`` without interval) and vectors of a SID table: ``<name>_by_position`` with ``L``
    numbers, ``<name>_by_quartile`` with four.

    Traffic weights are ``features.train_counts``. ``n`` is the number of items, for a modality the available ones, for a
    stratum those in it, for alignment the items, pairs or queries averaged. Prefix vectors and ``hourglass`` exist for
    ordered SIDs only. Raises ``InputError`` when the SIDs and features do not describe the same items, or a
    reconstruction has another shape than its modality.
    """
    if sids.n_items != features.n_items:
        raise InputError("SIDs and features", got=f"{sids.n_items} and {features.n_items} items", wanted="the same items")
    numbers, vectors = distribution_numbers(sids.codes, sids.sizes, sids.ordered, features.train_counts)
    numbers |= collision_numbers(sids.codes, features.train_counts)
    numbers |= _reconstruction_numbers(sids, features) | _probe_numbers(sids, features, rng)
    allotted, members = _strata_numbers(sids, features.train_counts)
    aligned, more, counted = _alignment_numbers(sids, features)
    numbers, vectors, members = numbers | allotted | aligned, vectors | more, members | counted
    modalities = tuple(features.ordered_names())
    own = {m: v for m in modalities if (v := numbers.get(f"nmse_{m}")) is not None}
    probed = {m: v for m in modalities if (v := numbers.get(f"probe_{m}")) is not None}
    numbers["seed_like"] = reconstruction.seed_like(own, probed, modalities)
    available = {m: int(features.available[m].sum()) for m in modalities}
    metrics = {}
    for name, value in numbers.items():
        if value is not None:
            modality = next((m for m in modalities if name.endswith(f"_{m}")), "")
            metrics[name] = Metric(value=float(value), n=members.get(name, available.get(modality, features.n_items)))
    return metrics, vectors
