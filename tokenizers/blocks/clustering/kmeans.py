"""k-means in plain torch: Lloyd with k-means++ seeding, spherical and capacity-balanced variants.

Device-clean, bounded in memory, the same result for the same seed on CPU. Lloyd 1982; greedy k-means++ (Arthur and
Vassilvitskii 2007); balanced: the capacity algorithm of OneRec (arXiv 2502.18965, Algorithm 1). Prices that turn a
balanced partition into a rule for single items: Aurenhammer, Hoffmann and Aronov 1998 (least-squares clustering with
prescribed sizes is a power diagram).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng

BLOCK_ELEMENTS = 1 << 20  # a distance block of 4 MB: stays in cache, so that it is not written out before the minimum
GRAM_ROWS = 4096
COARSE_WIDTH = 64  # wide rows are seeded, and clustered for the start, in this many leading directions
COARSE_ITERATIONS = 8
SEEDING_ROWS_PER_CENTRE = 12  # k-means++ looks at this many rows per centre (3,072 for K = 256)


@dataclass(frozen=True)
class KMeansResult:
    """A clustering of ``N`` rows.

    centres: float32 ``[K, D]``; codes: int64 ``[N]``, the cluster of each row; inertia: sum of squared distances of the
    rows to their centre; iterations: Lloyd iterations (or passes) run.
    """

    centres: Tensor
    codes: Tensor
    inertia: float
    iterations: int


def row_argmin(scores: Tensor) -> Tensor:
    """First index of the smallest entry of each row, int64 ``[N]`` of scores ``[N, K]`` (without gradient).

    numpy's vectorised argmin is about 4 times faster than torch's on CPU, and this is half the cost of narrow k-means.
    """
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmin(1))
    return scores.argmin(1)


def assign(
    x: Tensor, centres: Tensor, chunk: int | None = None, prices: Tensor | None = None, squares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Nearest centre of each row in squared L2, plus ``prices[k]`` for entering cluster ``k`` if given.

    x ``[N, D]``, centres ``[K, D]``, prices ``[K]``; ``chunk`` rows are treated at once (default: 4 MB of distances);
    ``squares`` ``[N]`` are the squared lengths of the rows where they are known.
    Returns (codes int64 ``[N]``, squared distance + price float32 ``[N]``). Ties go to one code, always the same.
    """
    offset = (centres * centres).sum(1)
    if prices is not None:
        offset = offset + prices
    rows = chunk or max(1, BLOCK_ELEMENTS // max(1, len(centres)))
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    cost = torch.empty(len(x), dtype=x.dtype, device=x.device)
    block = torch.empty(min(rows, len(x)), len(centres), dtype=x.dtype, device=x.device)
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        scores = torch.addmm(offset, part, centres.t(), alpha=-2, out=block[: len(part)])
        codes[start : start + rows] = row_argmin(scores)
        torch.amin(scores, 1, out=cost[start : start + rows])
    cost += _squares(x) if squares is None else squares
    return codes, cost.clamp_(min=0) if prices is None else cost


def kmeans(
    x: Tensor,
    k: int,
    rng: Rng,
    runtime: Runtime,
    *,
    iterations: int = 100,
    tolerance: float = 1e-4,
    init: str | Tensor = "kmeans++",
    spherical: bool = False,
) -> KMeansResult:
    """Lloyd's algorithm on the rows of ``x`` float32 ``[N, D]``.

    Stops after ``iterations`` or when an iteration lowers the inertia by less than ``tolerance`` of its value. Clusters
    that lose all rows restart at the rows of largest error. ``init``: "kmeans++" (greedy, on at most
    max(3072, 12 K) random rows), "random" (distinct rows) or the starting centres ``[K, D]``. Rows of at least 128
    dimensions are seeded by "kmeans++" in their 64 leading directions and start from the means of a clustering there:
    such iterations cost a fraction and leave few to be done on whole rows. ``spherical``: rows and centres are
    normalised to length 1 (rows of zeros stay), so that squared L2 orders as cosine does.

    Raises ``InputError`` when there are fewer rows than clusters, or values that are not finite.
    """
    _check(x, k)
    x = torch.nn.functional.normalize(x, dim=1) if spherical else x
    centres = _start(x, k, rng, runtime, init)
    return _lloyd(x, centres, iterations, tolerance, spherical)


def _lloyd(x: Tensor, centres: Tensor, iterations: int, tolerance: float, spherical: bool = False) -> KMeansResult:
    squares = _squares(x)
    if spherical:
        centres = torch.nn.functional.normalize(centres, dim=1)
    codes, error = assign(x, centres, squares=squares)
    inertia, done = float(error.sum(dtype=torch.float64)), 0
    while done < iterations:
        done += 1
        before = inertia
        centres = update_centres(x, codes, centres, error)
        if spherical:
            centres = torch.nn.functional.normalize(centres, dim=1)
        codes, error = assign(x, centres, squares=squares)
        inertia = float(error.sum(dtype=torch.float64))
        if before - inertia <= tolerance * before:
            break
    return KMeansResult(centres, codes, inertia, done)


def update_centres(x: Tensor, codes: Tensor, centres: Tensor, error: Tensor | None = None) -> Tensor:
    """Means of the clusters ``[K, D]``; clusters without rows move to the rows of largest ``error`` ``[N]``, the
    squared distance to their centre (found here when not given)."""
    counts = torch.bincount(codes, minlength=len(centres))
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        error = _squares(x - centres[codes]) if error is None else error
        worst = error.topk(min(len(empty), len(x))).indices
        worst = worst[error[worst] > 0]
        empty = empty[: len(worst)]
        codes = codes.clone()
        codes[worst[: len(empty)]] = empty
        counts = torch.bincount(codes, minlength=len(centres))
    sums = torch.zeros_like(centres).index_add_(0, codes, x)
    means = sums / counts.clamp(min=1).to(x.dtype)[:, None]
    return torch.where((counts > 0)[:, None], means, centres)


def balanced_kmeans(
    x: Tensor,
    k: int,
    rng: Rng,
    runtime: Runtime,
    *,
    passes: int = 100,
    tolerance: float = 1e-6,
) -> KMeansResult:
    """Clusters whose sizes differ by at most one (``N mod K`` of them hold ``ceil(N / K)`` rows, the others ``floor``).

    A pass visits the clusters in random order; each takes its nearest rows among those not yet taken and moves to their
    mean. Starts from the means of random equal groups. Stops after ``passes`` or when the squared shift of all centres
    is below ``tolerance``; the pass of least inertia is returned, since passes need not converge.

    Raises ``InputError`` as ``kmeans`` does.
    """
    _check(x, k)
    capacities = balanced_capacities(len(x), k)
    shuffled = torch.as_tensor(rng.child("groups").numpy().permutation(len(x)), device=x.device)
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    codes[shuffled] = torch.as_tensor(np.repeat(np.arange(k), capacities), device=x.device)
    centres = cluster_means(x, codes, k)
    best: KMeansResult | None = None
    for step in range(1, passes + 1):
        order = rng.child("pass", step).numpy().permutation(k)
        codes = _fill_to_capacity(x, centres, capacities, order)
        moved = cluster_means(x, codes, k)
        shift = float(((moved - centres) ** 2).sum())
        centres = moved
        inertia = float(((x - centres[codes]) ** 2).sum(dtype=torch.float64))
        if best is None or inertia < best.inertia:
            best = KMeansResult(centres, codes, inertia, step)
        if shift < tolerance:
            break
    if best is None:
        return KMeansResult(centres, codes, float(((x - centres[codes]) ** 2).sum(dtype=torch.float64)), 0)
    return best


def balanced_capacities(n: int, k: int) -> np.ndarray:
    """int64 ``[K]`` sizes that differ by at most one and sum to ``n``; the first ``n mod k`` are the larger ones."""
    return n // k + (np.arange(k) < n % k).astype(np.int64)


def balancing_prices(x: Tensor, centres: Tensor, *, steps: int = 120, tolerance: float = 2e-4) -> Tensor:
    """Prices ``[K]`` under which ``assign(x, centres, prices=...)`` fills all clusters (almost) equally.

    The least-squares partition with prescribed sizes is a power diagram: one additive price per centre reproduces it
    for single rows, so that encoding an item needs neither the other items nor anything stored per item. The prices
    maximise a concave dual whose gradient is (size - N / K); sign steps with one adaptive length per price (Rprop)
    reach it in about 60 assignments. Stops when the entropy of the cluster sizes is within ``tolerance`` nats of ln K;
    the best prices seen are returned. Rows that are equal stay together, so duplicates can keep sizes apart.
    """
    k = len(centres)
    prices = torch.zeros(k, dtype=x.dtype, device=x.device)
    best, least = prices, math.inf
    last = torch.zeros_like(prices)
    length = torch.full_like(prices, 0.03 * float(assign(x, centres)[1].mean()))
    for _ in range(steps):
        counts = torch.bincount(assign(x, centres, prices=prices)[0], minlength=k).to(torch.float64)
        share = counts / len(x)
        gap = math.log(k) + float(torch.special.xlogy(share, share).sum())
        if gap < least:
            best, least = prices, gap
        if least <= tolerance:
            break
        direction = torch.sign(counts - len(x) / k).to(x.dtype)
        agreement = direction * last
        length = length * torch.where(agreement > 0, 1.2, torch.where(agreement < 0, 0.5, 1.0))
        prices = prices + direction * length
        last = direction
    return best - best.mean()


def _check(x: Tensor, k: int) -> None:
    if k < 1 or k > len(x):
        raise InputError(
            "k-means: number of clusters",
            got=k,
            wanted=f"1 to the {len(x)} rows given",
            do="set a smaller tokenizer.codebook_size",
        )
    if not math.isfinite(float(x.sum(dtype=torch.float64))):  # a sum is several times cheaper than a test of each value
        raise InputError(
            "k-means: input rows",
            got="NaN or infinite values",
            wanted="finite numbers",
            do="check the features or the training that made them",
        )


def _start(x: Tensor, k: int, rng: Rng, runtime: Runtime, init: str | Tensor) -> Tensor:
    if isinstance(init, Tensor):
        return init.clone()
    if init not in ("kmeans++", "random"):
        raise InputError("k-means: init", got=repr(init), wanted="kmeans++, random or a tensor of centres")
    limit = k if init == "random" else max(3072, SEEDING_ROWS_PER_CENTRE * k)
    rows = rng.child("rows").numpy().choice(len(x), size=min(limit, len(x)), replace=False)
    chosen = torch.as_tensor(rows, device=x.device)
    if init == "random":
        return x[chosen]
    generator = runtime.generator(rng.child("seeding"))
    if x.shape[1] < 2 * COARSE_WIDTH or len(x) < 2 * k:
        return _greedy_seeding(x[chosen], k, generator)
    reduced = x @ _leading_directions(x[chosen], COARSE_WIDTH, generator)
    seeds = _greedy_seeding(reduced[chosen], k, generator)
    coarse = _lloyd(reduced, seeds, COARSE_ITERATIONS, 1e-3)
    return update_centres(x, coarse.codes, x[chosen[:k]])


def _leading_directions(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Orthonormal ``[D, width]`` that (almost) spans the leading right singular vectors of ``x`` (Halko et al. 2011)."""
    basis = torch.randn(x.shape[1], width, generator=generator, device=x.device)
    for _ in range(2):
        basis = torch.linalg.qr(x.t() @ (x @ basis))[0]
    return basis


def _squares(x: Tensor) -> Tensor:
    """Squared length of each row, ``[N]``."""
    return torch.linalg.vector_norm(x, dim=1).square_()


def _greedy_seeding(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ that draws 2 + ln K candidates per centre and keeps the one that lowers the inertia most."""
    trials = 2 + int(math.log(k))
    norms = (x * x).sum(1)
    table = _distances(x, norms, x, norms) if len(x) <= GRAM_ROWS else None  # its rows are cheaper than thin products
    draws = torch.rand(k, trials, generator=generator, device=x.device, dtype=torch.float64)
    chosen = torch.empty(k, dtype=torch.int64, device=x.device)
    chosen[0] = (draws[0, 0] * len(x)).long()
    nearest = _distances(x[chosen[:1]], norms[chosen[:1]], x, norms)[0]
    for step in range(1, k):
        cumulative = nearest.cumsum(0, dtype=torch.float64)
        candidates = torch.searchsorted(cumulative, draws[step] * cumulative[-1], right=True).clamp_(max=len(x) - 1)
        distances = _distances(x[candidates], norms[candidates], x, norms) if table is None else table[candidates]
        distances = torch.minimum(distances, nearest)
        winner = distances.sum(1).argmin()
        nearest, chosen[step] = distances[winner], candidates[winner]
    return x[chosen]


def _distances(a: Tensor, a_squares: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    """Squared distances ``[A, B]``."""
    return torch.addmm(b_squares, a, b.t(), alpha=-2).add_(a_squares[:, None]).clamp_(min=0)


def cluster_means(x: Tensor, codes: Tensor, k: int) -> Tensor:
    """Means ``[K, D]`` of rows ``[N, D]`` by code int64 ``[N]``; zeros for codes without rows."""
    sums = torch.zeros(k, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, codes, x)
    return sums / torch.bincount(codes, minlength=k).clamp(min=1).to(x.dtype)[:, None]


def _fill_to_capacity(x: Tensor, centres: Tensor, capacities: np.ndarray, order: np.ndarray) -> Tensor:
    """Codes ``[N]``: clusters in ``order`` take their nearest free rows. A centre moves only after its own visit, so
    distances to a block of the next clusters can be computed together."""
    codes = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    norms = (x * x).sum(1)
    width = max(1, BLOCK_ELEMENTS // len(x))
    for start in range(0, len(order), width):
        block = order[start : start + width]
        distances = torch.addmm(norms, centres[torch.as_tensor(block, device=x.device)], x.t(), alpha=-2)
        for row, cluster in zip(distances, block, strict=True):
            nearest = row.masked_fill_(taken, torch.inf).topk(int(capacities[cluster]), largest=False).indices
            codes[nearest] = int(cluster)
            taken[nearest] = True
    return codes
