"""k-means whose cluster sizes stay within given bounds, and the exact bounded assignment it rests on.

Constrained k-means (Bradley, Bennett and Demiriz 2000), as LETTER (arXiv 2405.07314) starts its codebooks and MiniOneRec
its residual levels. The assignment is a minimum-cost flow. It starts from a power diagram, whose partition is optimal
for the sizes it happens to have (Aurenhammer, Hoffmann and Aronov 1998), with prices brought near the bounds by sign
steps; rows then move along shortest paths of the graph whose nodes are the ``K`` clusters and whose edge ``j -> l`` costs
what the cheapest row of ``j`` pays for going to ``l``. Paths preserve optimality, so the result is exact for any ``N``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.clustering.kmeans import KMeansResult, assign, kmeans, row_argmin

SMALL_ROWS = 2000  # up to here shortest paths alone are faster than price steps
PRICE_STEPS, WARM_STEPS = 80, 30
CLOSE_SHARE = 0.002  # rows that may be left to the shortest paths
MOST_ELEMENTS = 1 << 25  # distances kept between steps; of larger problems they are computed anew
BLOCK_ELEMENTS = 1 << 22


def bounded_kmeans(
    x: Tensor, k: int, low: int, high: int, rng: Rng, runtime: Runtime, *, iterations: int = 10, tolerance: float = 1e-4
) -> KMeansResult:
    """Lloyd's algorithm on rows float32 ``[N, D]`` with every cluster size in ``[low, high]``.

    Starts from plain k-means of as many iterations. Up to 2,000 rows every assignment is the cheapest that keeps the
    bounds; above, those before the last keep them up to a few rows. Stops after ``iterations`` or when the inertia
    changes by less than ``tolerance`` of its value. The centres are the means of the returned clusters.

    Raises ``InputError`` when the bounds cannot hold, there are fewer rows than clusters, ``iterations`` is below 1, or
    values are not finite.
    """
    check_bounds(len(x), k, low, high)
    if iterations < 1:
        raise InputError("bounded k-means: iterations", got=iterations, wanted="1 or more", do="set at least 1")
    centres = kmeans(x, k, rng, runtime, iterations=iterations).centres
    small = len(x) <= SMALL_ROWS
    codes, prices, before, done = x.new_zeros(0), None, math.inf, 0
    while done < iterations:
        done += 1
        if small:
            codes, prices = bounded_assignment(x, centres, low, high, prices=prices)
        else:
            prices = _price_steps(x, centres, low, high, prices)
            codes = assign(x, centres, prices=prices)[0]
        centres = _means(x, codes, centres)
        inertia = _inertia(x, codes, centres)
        if abs(before - inertia) <= tolerance * before < math.inf:  # sizes that vary a little may raise it
            break
        before = inertia
    if not small:
        codes = bounded_assignment(x, centres, low, high, prices=prices)[0]
        centres = _means(x, codes, centres)
    return KMeansResult(centres, codes, _inertia(x, codes, centres), done)


def _means(x: Tensor, codes: Tensor, centres: Tensor) -> Tensor:
    counts = torch.bincount(codes, minlength=len(centres))[:, None]
    return torch.where(counts > 0, torch.zeros_like(centres).index_add_(0, codes, x) / counts.clamp(min=1), centres)


def _inertia(x: Tensor, codes: Tensor, centres: Tensor) -> float:
    return float((x - centres[codes]).square().sum(dtype=torch.float64))


def bounded_assignment(
    x: Tensor, centres: Tensor, low: int, high: int, *, prices: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The assignment of least total squared distance with every cluster size in ``[low, high]``.

    x ``[N, D]``, centres ``[K, D]``; ``prices`` ``[K]`` of a similar problem speed it up. Returns (codes int64 ``[N]``,
    prices ``[K]``): ``assign(x, centres, prices=prices)`` gives these codes again, up to rows that tie in float32 (equal
    rows that the bounds divide), and any other row its place without knowing the fitted ones.

    Raises ``InputError`` when the bounds cannot hold.
    """
    check_bounds(len(x), len(centres), low, high)
    if len(x) > SMALL_ROWS:
        prices = _price_steps(x, centres, low, high, prices)
    codes = to_numpy(assign(x, centres, prices=prices)[0])
    flow = _Flow(to_numpy(x).astype(np.float64), to_numpy(centres).astype(np.float64), codes)
    flow.settle(low, high)
    found = torch.as_tensor(flow.prices(), dtype=x.dtype, device=x.device)
    return torch.as_tensor(flow.codes, device=x.device), found


def check_bounds(n: int, k: int, low: int, high: int) -> None:
    """Raise ``InputError`` when ``n`` rows cannot be cut into ``k`` clusters of ``low`` to ``high`` rows."""
    if k < 1 or low < 0 or high < low or k * low > n or k * high < n:
        raise InputError(
            "bounded k-means: cluster sizes",
            got=f"{low} to {high} rows in each of {k} clusters",
            wanted=f"bounds that {n} rows can meet: {k} x low <= {n} <= {k} x high",
            do="lower the number of clusters, or widen the bounds",
        )


def _price_steps(x: Tensor, centres: Tensor, low: int, high: int, prices: Tensor | None) -> Tensor:
    """Prices ``[K]`` whose cluster sizes come near the bounds; sign steps with one adaptive length each (Rprop).

    A price is positive only where a cluster is full and negative only where it is at its least; elsewhere it goes back
    towards 0. Those that violate the bounds by the fewest rows are returned.
    """
    k, warm = len(centres), prices is not None
    distances = None
    if len(x) * k <= MOST_ELEMENTS:
        distances = torch.addmm((centres * centres).sum(1), x, centres.t(), alpha=-2)
    prices = torch.zeros(k, dtype=x.dtype, device=x.device) if prices is None else prices
    best, least = prices, math.inf
    last = torch.zeros_like(prices)
    length = torch.full_like(prices, (0.003 if warm else 0.03) * float(assign(x, centres)[1].mean()))
    for _ in range(WARM_STEPS if warm else PRICE_STEPS):
        codes = assign(x, centres, prices=prices)[0] if distances is None else row_argmin(distances + prices)
        counts = torch.bincount(codes, minlength=k)
        violation = float((counts - high).clamp(min=0).sum() + (low - counts).clamp(min=0).sum())
        if violation < least:
            best, least = prices, violation
        if violation <= CLOSE_SHARE * len(x):
            break
        crowded = (counts > high) | ((counts > low) & (prices < 0))
        empty = (counts < low) | ((counts < high) & (prices > 0))
        direction = crowded.to(x.dtype) - empty.to(x.dtype)
        agreement = direction * last
        length = length * torch.where(agreement > 0, 1.2, torch.where(agreement < 0, 0.5, 1.0))
        prices = prices + direction * length
        last = direction
    return best


class _Flow:
    """A partition, optimal for its sizes, and the cheapest move between every two clusters.

    rows float64 ``[N, D]``, centres ``[K, D]``, codes int64 ``[N]``; ``cost[j, l]`` is the least increase of the total
    by moving a row of cluster ``j`` to ``l``, ``row[j, l]`` that row.
    """

    def __init__(self, rows: np.ndarray, centres: np.ndarray, codes: np.ndarray) -> None:
        self.rows, self.centres, self.codes = rows, centres, codes.copy()
        self.k = len(centres)
        self.offset = (centres * centres).sum(1)
        self.distances = self._distances(slice(None)) if len(rows) * self.k <= MOST_ELEMENTS else None
        self.tiny = 1e-12 * max(1.0, float(self.offset.max(initial=0)), float((rows * rows).sum(1).max(initial=0)))
        order = np.argsort(codes, kind="stable")
        self.members = np.split(order, np.cumsum(np.bincount(codes, minlength=self.k))[:-1])
        self.sizes = np.array([len(m) for m in self.members])
        self.cost = np.full((self.k, self.k), np.inf)
        self.row = np.zeros((self.k, self.k), np.int64)
        for cluster in range(self.k):
            self._look(cluster)

    def _distances(self, part: slice | np.ndarray) -> np.ndarray:
        """Squared distances ``[n, K]`` less ``||x||^2``, which cancels."""
        found: np.ndarray = self.offset - 2 * self.rows[part] @ self.centres.T
        return found

    def _look(self, cluster: int) -> None:
        """Find the cheapest moves out of one cluster."""
        members = self.members[cluster]
        self.cost[cluster] = np.inf
        step = max(1, BLOCK_ELEMENTS // self.k)
        for start in range(0, len(members), step):
            part = members[start : start + step]
            distances = self._distances(part) if self.distances is None else self.distances[part]
            distances = distances - distances[:, cluster][:, None]
            best = distances.argmin(0)
            least = distances[best, np.arange(self.k)]
            better = least < self.cost[cluster]
            self.cost[cluster][better] = least[better]
            self.row[cluster][better] = part[best[better]]
        self.cost[cluster, cluster] = np.inf

    def settle(self, low: int, high: int) -> None:
        """Move rows along shortest paths until every size is in ``[low, high]`` and no move within them lowers the cost."""
        while True:
            full, short = self.sizes > high, self.sizes < low
            if full.any():
                sources, sinks = full, self.sizes < high
            elif short.any():
                sources, sinks = self.sizes > low, short
            else:
                sources, sinks = self.sizes > low, self.sizes < high
            if not sources.any() or not sinks.any():
                return
            length, before = self._paths(sources)
            end = int(np.where(sinks, length, np.inf).argmin())
            if not (full.any() or short.any()) and length[end] >= -self.tiny:
                return
            self._move(end, before)

    def _paths(self, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shortest distance ``[K]`` from any source (Bellman-Ford: costs may be negative, cycles are not), predecessors."""
        length = np.where(sources, 0.0, np.inf)
        before = np.full(self.k, -1, np.int64)
        changed = np.flatnonzero(sources)
        for _ in range(self.k):
            through = length[changed, None] + self.cost[changed]
            best = through.argmin(0)
            found = through[best, np.arange(self.k)]
            better = found < length - self.tiny
            if not better.any():
                break
            length[better], before[better] = found[better], changed[best[better]]
            changed = np.flatnonzero(better)
        return length, before

    def _move(self, end: int, before: np.ndarray) -> None:
        """Move one row along each step of the path to ``end``, or round the first cycle on it.

        A cycle lowers the cost at equal sizes. There is none in an optimal partition, but one found with float32 prices
        is optimal up to rounding only.
        """
        path = [end]
        while before[path[-1]] >= 0:
            start = int(before[path[-1]])
            if start in path:
                path = [*path[path.index(start) :], start]
                break
            path.append(start)
        moves = [(self.row[start, stop], start, stop) for stop, start in zip(path, path[1:], strict=False)]
        for row, start, stop in moves:
            self.codes[row] = stop
            self.members[start] = self.members[start][self.members[start] != row]
            self.members[stop] = np.append(self.members[stop], row)
            self.sizes[start] -= 1
            self.sizes[stop] += 1
        for cluster in dict.fromkeys(path):
            self._look(cluster)

    def prices(self) -> np.ndarray:
        """Prices ``[K]`` with ``d(i, c_i) + p[c_i] <= d(i, l) + p[l]`` for every row ``i``, strictly where that can be.

        Any shortest distances to, or negative ones from, one cluster are such prices; their mean over all clusters lies
        inside the set of solutions, so that rounding to float32 moves no row.
        """
        used = np.flatnonzero(self.sizes)
        between = self.cost[np.ix_(used, used)]
        np.fill_diagonal(between, 0.0)
        for middle in range(len(used)):  # Floyd and Warshall
            np.minimum(between, between[:, middle, None] + between[None, middle], out=between)
        found = np.zeros(self.k)
        found[used] = (between.mean(1) - between.mean(0)) / 2
        empty = np.flatnonzero(self.sizes == 0)
        if len(empty):  # no row may prefer them: a little more than the least price that keeps all away
            least = (found[used, None] - self.cost[np.ix_(used, empty)]).max(0)
            found[empty] = np.maximum(least + 1e-4 * (np.abs(least) + self.tiny * 1e12), 0.0)
        middle_price: np.ndarray = found - found.mean()
        return middle_price
