"""What SIDs share with categories, behaviour and embeddings (spec: semantic and collaborative alignment).

A *part* of SIDs is what a recommender can condition on: for ordered SIDs the prefix of length p (PAD is a symbol, since
"ends here" distinguishes items), for unordered ones the code of position p alone (items with PAD there are left out).

- ``agreement``: normalised and adjusted mutual information of parts with the leaf category.
- ``matches``: how often adjacent items of training sequences share a part, and how often random pairs do.
- ``neighbour_overlap``: nearest neighbours in an embedding against nearest neighbours in code space.
- ``activity``: active codes by popularity, for SIDs whose items use different numbers of positions.

Ties are resolved by exact expectation, never by item order; nothing here draws a random number except the fixed sample
of query items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln
from scipy.stats import spearmanr

from sidbench.benchmark.metrics.distribution import entropy_nats, prefix_ids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

NEIGHBOURS = 20
QUERIES = 2_000
RARE_COUNT = 5  # items with at most so many training interactions are rare
_BLOCK = 128  # queries at a time
_TIE = 1e-6  # relative to the squared norms: equal vectors must tie whatever the order of additions
_WIDE = 12.0  # standard deviations of an overlap count beyond which its probability is below double precision


def parts(codes: np.ndarray, ordered: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per position: dense int64 ``[N]`` ids of the part, and bool ``[N]`` items that have it."""
    if ordered:
        return [(ids, np.ones(len(codes), bool)) for ids in prefix_ids(codes)]
    return [(np.where(column >= 0, column, 0).astype(np.int64), column >= 0) for column in codes.T]


# -- categories --------------------------------------------------------------------------------------------------------
def leaf_labels(categories: tuple[tuple[str, ...], ...] | None, n_items: int) -> np.ndarray | None:
    """int64 ``[N]`` label of each item's whole category path, -1 without one; ``None`` below two distinct paths."""
    if categories is None:
        return None
    if len(categories) != n_items:
        raise InputError("categories", got=f"{len(categories)} paths", wanted=f"{n_items}, one an item")
    number: dict[tuple[str, ...], int] = {}
    labels = np.array([number.setdefault(path, len(number)) if path else -1 for path in categories], np.int64)
    return labels if len(number) > 1 else None


def mutual_information(left: np.ndarray, right: np.ndarray) -> float:
    """``I(X; Y) = H(X) + H(Y) - H(X, Y)`` in nats of two dense labelings ``[N]``."""
    joint = np.unique(left * (int(right.max()) + 1) + right, return_counts=True)[1]
    both = entropy_nats(np.bincount(left)) + entropy_nats(np.bincount(right))
    return max(0.0, both - entropy_nats(joint))


def expected_mutual_information(left_sizes: np.ndarray, right_sizes: np.ndarray) -> float:
    """Mean of ``I(X; Y)`` over all labelings with these cluster sizes (Vinh, Epps and Bailey 2010, eq. 24a), nats.

    This is the chance level of an index with the same prefix sizes. Clusters of equal size are taken together, and the
    hypergeometric sum over ``n`` is cut where its terms vanish, so millions of items are no matter.
    """
    n_items = int(left_sizes.sum())
    a_sizes, a_times = np.unique(left_sizes[left_sizes > 0], return_counts=True)
    b_sizes, b_times = np.unique(right_sizes[right_sizes > 0], return_counts=True)
    log_factorial = gammaln(np.arange(n_items + 1) + 1.0)
    total = 0.0
    for a, times in zip(a_sizes.tolist(), a_times.tolist(), strict=True):
        mean = a * b_sizes / n_items
        variance = mean * (1 - a / n_items) * (1 - b_sizes / n_items) * n_items / max(n_items - 1, 1)
        reach = _WIDE * np.sqrt(variance) + _WIDE**2  # the second term covers the long tail of small means
        low = np.maximum(np.maximum(1, a + b_sizes - n_items), np.floor(mean - reach)).astype(np.int64)
        high = np.minimum(np.minimum(a, b_sizes), np.ceil(mean + reach)).astype(np.int64)
        lengths = np.maximum(high - low + 1, 0)
        which = np.repeat(np.arange(len(b_sizes)), lengths)
        n = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + low[which]
        b = b_sizes[which]
        log_p = (
            log_factorial[a]
            + log_factorial[b]
            + log_factorial[n_items - a]
            + log_factorial[n_items - b]
            - log_factorial[n_items]
            - log_factorial[n]
            - log_factorial[a - n]
            - log_factorial[b - n]
            - log_factorial[n_items - a - b + n]
        )
        terms = n / n_items * (np.log(n) + np.log(n_items) - np.log(a) - np.log(b)) * np.exp(log_p)
        total += times * float((terms * b_times[which]).sum())
    return total


@dataclass(frozen=True)
class Agreement:
    """Agreement of each part with labels: float64 ``[L]`` each. nmi: ``I / mean(H_part, H_label)`` (V-measure).

    chance: ``E[I] / mean(H)``, what parts of the same sizes reach by chance. ami: ``(I - E[I]) / (mean(H) - E[I])``.
    """

    nmi: np.ndarray
    chance: np.ndarray
    ami: np.ndarray

    @property
    def best(self) -> int:
        """The position of the largest adjusted value."""
        return int(np.argmax(self.ami))


def agreement(codes: np.ndarray, ordered: bool, labels: np.ndarray) -> Agreement:
    """Parts against labels int64 ``[N]`` (-1 = item without label, left out). A part that says nothing counts 0."""
    there = labels >= 0
    rows = [partition_agreement(ids[have & there], labels[have & there]) for ids, have in parts(codes, ordered)]
    return Agreement(*np.array(rows).reshape(-1, 3).T)


def partition_agreement(ids: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """(nmi, chance, ami) of two labelings int ``[N]`` of the same items, as ``Agreement`` defines them."""
    if len(ids) == 0:
        return 0.0, 0.0, 0.0
    left, right = np.unique(ids, return_inverse=True)[1], np.unique(labels, return_inverse=True)[1]
    left_sizes, right_sizes = np.bincount(left), np.bincount(right)
    mean = (entropy_nats(left_sizes) + entropy_nats(right_sizes)) / 2
    if mean == 0:
        return 0.0, 0.0, 0.0
    found, chance = mutual_information(left, right), expected_mutual_information(left_sizes, right_sizes)
    # All items apart on both sides: chance and truth agree perfectly, so nothing can be said.
    adjusted = (found - chance) / (mean - chance) if mean - chance > 1e-12 else 0.0
    return found / mean, chance / mean, adjusted


# -- behaviour ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Matches:
    """Share of pairs of different items with the same part, float64 ``[L]``: adjacent pairs, and random ones."""

    adjacent: np.ndarray
    random: np.ndarray
    n_pairs: int

    def lifts(self) -> np.ndarray:
        """``adjacent / random`` float64 ``[L]``, NaN where no random pair matches."""
        return np.divide(self.adjacent, self.random, out=np.full(len(self.random), np.nan), where=self.random > 0)


def matches(
    codes: np.ndarray, ordered: bool, pairs: np.ndarray, train_counts: np.ndarray, ends: np.ndarray | None = None
) -> Matches | None:
    """How often adjacent items of training sequences share a part, against pairs drawn by popularity.

    pairs: int ``[P, 2]`` adjacent items; pairs of one item with itself are left out on both sides. ends: bool ``[N]``
    restricts one end of every pair to these items (a pair counts once for each of its ends among them); the other end
    is any item. ``None`` without pairs or training interactions.

    The random pair has ends ``a ~ w`` and ``b ~ v`` (``w`` = training counts, ``v`` = those of ``ends``), a != b:
    ``P = (sum_s W_s V_s - sum_i w_i v_i) / (1 - sum_i w_i v_i)`` with W, V the mass of each part; no sampling.
    """
    apart = pairs[pairs[:, 0] != pairs[:, 1]]
    both_ways = np.concatenate([apart, apart[:, ::-1]])
    chosen = both_ways if ends is None else both_ways[ends[both_ways[:, 1]]]
    mass = train_counts.astype(np.float64)
    end_mass = mass if ends is None else mass * ends
    if not len(chosen) or not end_mass.any():
        return None
    w, v = mass / mass.sum(), end_mass / end_mass.sum()
    same = float(w @ v)
    if same >= 1:
        return None
    adjacent, by_chance = [], []
    for ids, have in parts(codes, ordered):
        left, right = chosen[:, 0], chosen[:, 1]
        adjacent.append(float(((ids[left] == ids[right]) & have[left] & have[right]).mean()))
        w_part, v_part = (np.bincount(ids[have], weights=m[have], minlength=int(ids.max()) + 1) for m in (w, v))
        match = float(w_part @ v_part) - float(w[have] @ v[have])
        by_chance.append(max(match, 0.0) / (1 - same) if _shared(ids, have) else 0.0)
    return Matches(np.array(adjacent), np.array(by_chance), len(chosen) if ends is not None else len(apart))


def _shared(ids: np.ndarray, have: np.ndarray) -> bool:
    """Whether two items have one part; otherwise the difference of two sums is rounding noise."""
    return bool((np.bincount(ids[have], minlength=1) > 1).any())


# -- neighbourhoods ----------------------------------------------------------------------------------------------------
def query_sample(n_items: int) -> np.ndarray:
    """Sorted int64 indices of at most ``QUERIES`` items; the same for every run and seed on a catalogue."""
    if n_items <= QUERIES:
        return np.arange(n_items)
    return np.sort(Rng(0).child("metrics", "neighbours").numpy().choice(n_items, QUERIES, replace=False))


def code_similarity(codes: np.ndarray, queries: np.ndarray, ordered: bool) -> np.ndarray:
    """int16 ``[Q, M]`` between rows ``queries`` ``[Q, L]`` and ``codes`` ``[M, L]``.

    Ordered: length of the longest common prefix (PAD equals PAD). Unordered: positions with the same code (L minus the
    Hamming distance; PAD equals nothing).
    """
    similarity = np.zeros((len(queries), len(codes)), np.int16)
    together = np.ones_like(similarity, dtype=bool)
    for p in range(codes.shape[1]):
        same = queries[:, p, None] == codes[None, :, p]
        if ordered:
            together &= same
            similarity += together
        else:
            similarity += same & (queries[:, p, None] >= 0)
    return similarity


def neighbour_shares(score: np.ndarray, k: int, tolerance: np.ndarray | float = 0.0) -> np.ndarray:
    """float32 ``[Q, M]`` probability of each column to be among the k largest of its row, ties in random order.

    Columns clearly above the k-th largest value have 1; those within ``tolerance`` of it share the places left.
    ``-inf`` excludes a column.
    """
    edge = np.partition(score, -k, axis=1)[:, -k, None]
    above, tied = score > edge + tolerance, np.abs(score - edge) <= tolerance
    places = k - above.sum(axis=1, keepdims=True)
    return np.where(above, np.float32(1), tied * (places / tied.sum(axis=1, keepdims=True)).astype(np.float32))


def level_shares(similarity: np.ndarray, k: int) -> np.ndarray:
    """The same for few distinct values: float64 ``[Q, V]`` probability of a column with value v to be among the k
    largest, from integers ``[Q, M]`` in 0..V-1 (negative = excluded)."""
    n_rows, values = len(similarity), int(similarity.max()) + 1
    flat = (similarity.astype(np.int64) + 1 + (values + 1) * np.arange(n_rows)[:, None]).ravel()
    counts = np.bincount(flat, minlength=n_rows * (values + 1)).reshape(n_rows, values + 1)[:, 1:]
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts  # columns with a larger value
    return np.clip((k - above) / np.maximum(counts, 1), 0.0, 1.0)


def neighbour_overlap(
    codes: np.ndarray, embeddings: np.ndarray, ordered: bool, queries: np.ndarray, k: int = NEIGHBOURS
) -> np.ndarray | None:
    """Expected share float64 ``[Q]`` of the k nearest neighbours of an item that are also among its k nearest in code
    space, ties on both sides in independent random order (exact expectation). Euclidean distance; the item itself is no
    candidate. codes ``[M, L]`` and embeddings ``[M, D]`` hold the same items; queries: rows. Codes that say nothing give
    ``k / (M - 1)``. ``None`` when every other item would be a neighbour.
    """
    n_items = len(codes)
    if k >= n_items - 1 or not len(queries):
        return None
    e = np.ascontiguousarray(embeddings, np.float32)
    norms = np.einsum("ij,ij->i", e, e)
    shares = np.empty(len(queries))
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        inside = np.arange(len(block))
        nearness = 2 * (e[block] @ e.T) - norms[None, :]  # minus the squared distance, up to a constant of the row
        nearness[inside, block] = -np.inf
        likeness = code_similarity(codes, codes[block], ordered)
        likeness[inside, block] = -1
        near = neighbour_shares(nearness, k, _TIE * (norms[block][:, None] + float(norms.max())))
        row, column = np.nonzero(near)
        alike = level_shares(likeness, k)[row, likeness[row, column]]
        shares[start : start + _BLOCK] = np.bincount(row, near[row, column] * alike, minlength=len(block)) / k
    return shares


# -- activity ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Activity:
    """How many positions items use, by popularity. Quartiles of items, the rarest quarter first.

    active: float64 ``[4]`` mean number of codes. weight: float64 ``[4]`` mean weight of a code in use, ``None`` without
    weights. spearman: rank correlation of the number of codes with training counts, ``None`` where one is constant.
    dead: share of positions that no item uses.
    """

    active: np.ndarray
    weight: np.ndarray | None
    spearman: float | None
    dead: float


def activity(codes: np.ndarray, weights: np.ndarray | None, train_counts: np.ndarray) -> Activity | None:
    """Activity of SIDs with PAD; ``None`` when every item uses every position, or there are fewer than four items."""
    used = codes >= 0
    if used.all() or len(codes) < 4:
        return None
    n_active = used.sum(axis=1)
    order = np.argsort(np.asarray(train_counts, np.float64), kind="stable")
    quarters = np.array_split(order, 4)
    strength = None
    if weights is not None:
        strength = np.array([float(weights[q][used[q]].mean()) if used[q].any() else 0.0 for q in quarters])
    varies = np.ptp(n_active) > 0 and np.ptp(train_counts) > 0
    return Activity(
        np.array([float(n_active[q].mean()) for q in quarters]),
        strength,
        float(spearmanr(n_active, train_counts).statistic) if varies else None,
        float((~used.any(axis=0)).mean()),
    )
