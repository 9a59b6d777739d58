"""Graph-constrained decoding (RPG, arXiv 2506.05781): a walk over similar SIDs instead of scores of all of them.

    offline  sim(i, j) = mean_p (1 + cos(E_p[c_ip], E_p[c_jp])) / 2     each SID keeps its n_edges best, itself included
    online   start at b random SIDs; q times: gather all neighbours, drop doubles, score, keep the best b

A SID is its own neighbour, so the final beam holds the best b of everything scored, at most ``b * n_edges * q`` SIDs.
The walk is a heuristic: what it never touches is never returned, and nothing it returns is proven to be the true best.
The graph belongs to one table ``E`` and must be built again after every update of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import MEAN, MIN, SAME
from sidbench.recommenders.blocks.exact import CELLS
from sidbench.recommenders.blocks.hashing import HASH_STEP, mix
from sidbench.recommenders.decoding.beam import Beam
from sidbench.recommenders.decoding.trie import SidTrie


@dataclass(frozen=True)
class SidGraph:
    """Each SID's most similar SIDs.

    trie: the ``U`` distinct SIDs. rows: int64 ``[L, U]`` their fused rows (see ``CodeLayout``). neighbours: int32
    ``[U, n_edges]``, in no particular order.
    """

    trie: SidTrie
    rows: Tensor
    neighbours: Tensor

    @staticmethod
    @torch.no_grad()
    def build(trie: SidTrie, directions: Tensor, n_edges: int) -> SidGraph:
        """The graph of unit class vectors ``directions`` float ``[rows, d]``; ``min(n_edges, U)`` neighbours each.

        Costs ``U^2 L`` gathers and ``U rows d`` multiplications, in pieces of ``CELLS`` similarities.
        """
        if n_edges < 1:
            raise InputError("graph of SIDs: edges", got=n_edges, wanted="at least 1")
        offsets = torch.as_tensor(trie.layout.offsets[:-1], device=directions.device)
        rows = (trie.classes + offsets).T.contiguous()
        n_sids, tables = trie.n_sids, directions.split(trie.layout.classes.tolist())
        edges, piece = min(n_edges, n_sids), max(1, CELLS // n_sids)
        neighbours = torch.empty(n_sids, edges, dtype=torch.int32, device=directions.device)
        for start in range(0, n_sids, piece):
            own = rows[:, start : start + piece]
            cosine = [table @ directions[row].T for table, row in zip(tables, own, strict=True)]
            # The sum of cosines orders like sim, so neither the mean nor the shift to 0..1 is computed.
            similar = _sum_of_codes(rows, torch.cat(cosine))
            column = torch.arange(own.shape[1], device=rows.device)
            similar[start + column, column] = torch.inf
            found = torch.topk(similar.T.contiguous(), edges, dim=1, sorted=False).indices
            neighbours[start : start + piece] = found.to(torch.int32)
        return SidGraph(trie, rows, neighbours)

    def orphans(self) -> Tensor:
        """bool ``[U]``: SIDs in no other SID's list, which only the random start can return. Exact, for any ``q``."""
        own = torch.arange(len(self.neighbours), device=self.rows.device)[:, None]
        linked = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        linked[self.neighbours[self.neighbours != own].long()] = True
        return ~linked

    @torch.no_grad()
    def search(self, log_probs: Tensor, start: Tensor, n_steps: int, visited: Tensor) -> tuple[Beam, Tensor]:
        """Walk ``n_steps`` times from ``start`` int64 ``[B, b]`` under ``log_probs`` float32 ``[rows, B]``.

        Returns the best ``b`` SIDs scored, with the exact ``sum_p log P_p(c_ip)``, and the number of SIDs scored for
        each user int64 ``[B]``; sets ``visited`` bool ``[U]`` where a SID was scored.
        """
        batch, width = start.shape
        n_sids, n_rows, n_reached = len(self.neighbours), len(log_probs), width * self.neighbours.shape[1]
        values = log_probs.T.contiguous()  # a user's values lie together, so that they stay in cache
        piece = min(batch, max(1, CELLS // max(n_reached, n_sids)))
        # The last writer of a cell is the one occurrence that counts; numbers grow, so nothing is ever cleared.
        stamp = torch.zeros(piece, n_sids, dtype=torch.int64, device=start.device)
        number = torch.arange(1, n_reached + 1, device=start.device)
        scored = torch.zeros(batch, dtype=torch.int64, device=start.device)
        parts = []
        for first in range(0, batch, piece):
            sid, begin = start[first : first + piece], int(number[0])
            mine, flat = stamp[: len(sid)], values[first : first + piece].view(-1)
            score = torch.full(sid.shape, -torch.inf, device=sid.device)
            for _ in range(n_steps):
                reached = self.neighbours[sid].flatten(1).long()
                before = mine.gather(1, reached)
                mine.scatter_(1, reached, number.expand_as(reached))
                user, column = ((mine.gather(1, reached) == number) & (before < begin)).nonzero(as_tuple=True)
                new = reached[user, column]
                everything = torch.full((len(sid), width + n_reached), -torch.inf, device=sid.device)
                everything[:, :width] = score
                everything[user, width + column] = self._scores(flat, user * n_rows, new)
                best = torch.topk(everything, width + 1, dim=1)
                score, cut = best.values[:, :width], best.values[:, width] == best.values[:, width - 1]
                sid = torch.cat([sid, reached], 1).gather(1, best.indices[:, :width])
                visited[new] = True
                scored[first : first + piece] += torch.bincount(user, minlength=len(sid))
                number += n_reached
            parts.append((sid, score, cut))
        return _ordered(*map(torch.cat, zip(*parts, strict=True))), scored

    def _scores(self, values: Tensor, base: Tensor, sid: Tensor) -> Tensor:
        """float32 ``[M]`` sums in the order of positions, the same floats as exact scoring gives."""
        score = values[self.rows[0][sid] + base]
        for row in self.rows[1:]:
            score += values[row[sid] + base]
        return score


def _sum_of_codes(rows: Tensor, table: Tensor) -> Tensor:
    """``[U, B]``: for each SID of ``rows`` int64 ``[L, U]`` the sum of its rows of ``table`` ``[rows, B]``."""
    total = table.index_select(0, rows[0])
    term = torch.empty_like(total)
    for row in rows[1:]:
        total += torch.index_select(table, 0, row, out=term)
    return total


def _ordered(sid: Tensor, score: Tensor, cut: Tensor) -> Beam:
    """Best first, ties by SID; -1 where fewer than ``b`` SIDs were reached. Nothing is proven: the bound is infinite."""
    sid, order = torch.sort(sid, dim=1)
    score, best = torch.sort(score.gather(1, order), dim=1, descending=True, stable=True)
    reached = torch.isfinite(score)
    return Beam(
        torch.where(reached, sid.gather(1, best), -1), score, torch.full_like(score[:, 0], torch.inf), cut & reached[:, -1]
    )


def walk_seeds(histories: Sequences, max_length: int, rng: Rng) -> np.ndarray:
    """uint64 ``[n_users]``: a hash of each user's newest ``max_length`` items, in their order, and of ``rng``.

    Seeds from row numbers would give a user other starts, and other ranks, when his rows are dealt out to several
    processes. Every history needs an item.
    """
    back = np.repeat(histories.indptr[1:], histories.lengths) - np.arange(len(histories.items))  # 1 for the newest
    word = mix(mix(histories.items.astype(np.uint64)) + HASH_STEP * back.astype(np.uint64))
    total = np.add.reduceat(np.where(back > max_length, np.uint64(0), word), histories.indptr[:-1])
    return mix(total + np.uint64(rng.integer()))


# The figures of ``GraphWalks.notes`` where several processes walk, each for its users. Others reach other items, so the
# fewest items that one of them left unreached bound those that all left unreached from above.
WALK_COMBINE = {"graph_orphan_items": SAME, "graph_unreached_items": MIN, "graph_scored_sids": MEAN}


class GraphWalks:
    """Walks of ``n_users`` users as a search for ``ranks.rank_by_search``.

    predict: rows int64 ``[B]`` -> their log-probabilities float32 ``[rows, B]``. seeds: uint64 ``[n_users]`` of each
    user's starts, drawn with replacement (see ``walk_seeds``); so what a user finds depends neither on the batches nor on
    the users beside him. A beam as wide as the catalogue starts at every SID instead, which makes it exact.
    """

    def __init__(
        self, graph: SidGraph, predict: Callable[[np.ndarray], Tensor], seeds: np.ndarray, n_steps: int, runtime: Runtime
    ) -> None:
        self._graph, self._predict, self._seeds, self._n_steps = graph, predict, seeds, n_steps
        self._runtime = runtime
        self._visited = torch.zeros(graph.trie.n_sids, dtype=torch.bool, device=runtime.device)
        self._scored, self._walks = 0, 0

    def __call__(self, users: np.ndarray, width: int) -> Beam:
        """The beam of ``width`` SIDs of each of ``users`` int64 ``[B]``."""
        start = self._runtime.tensor(self._start(users, width))
        beam, scored = self._graph.search(self._predict(users), start, self._n_steps, self._visited)
        self._scored += int(scored.sum())
        self._walks += len(users)
        return beam

    def _start(self, users: np.ndarray, width: int) -> np.ndarray:
        """int64 ``[B, min(width, U)]`` SIDs to start at."""
        n_sids = self._graph.trie.n_sids
        if width >= n_sids:
            return np.tile(np.arange(n_sids), (len(users), 1))
        drawn = mix(self._seeds[users, None] + HASH_STEP * np.arange(1, width + 1, dtype=np.uint64))
        return (drawn % np.uint64(n_sids)).astype(np.int64)

    def notes(self) -> dict[str, float]:
        """Figures of all walks so far.

        graph_orphan_items: items no other SID links to, returned only when drawn as a start (exact, for any ``q``).
        graph_unreached_items: items never scored in any walk (union over the users ranked). graph_scored_sids: mean
        number of distinct SIDs scored in a walk.
        """
        group = self._graph.trie.group
        return {
            "graph_orphan_items": float(group[self._graph.orphans()].double().sum()),
            "graph_unreached_items": float(group[~self._visited].double().sum()),
            "graph_scored_sids": self._scored / max(self._walks, 1),
        }
