"""Exact top-k items under additive code scores, without scoring every item.

``score(i) = sum_p s_p(c_ip)``, as RPG, MTP and every product-quantised model score. RecJPQPrune (arXiv 2505.00560):
take the classes of all positions in order of their scores, score the items on their posting lists, and stop when the
k-th best found exceeds what any other item can reach,

    bound = sum_p max { s_p(c) : class c of position p not taken yet }.

An item whose classes are all untaken scores at most the bound, also in floating point: both sums add float32 in the
order of positions, and rounding is monotone. Ties count: items at exactly the bound are still looked at, and equal
scores are ordered by item. Flat scores prune nothing, so after ``SHARE`` of the catalogue the rest is simply scanned,
and so is a catalogue of fewer than ``SMALL`` items, where a scan takes less than the lists' overhead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import to_numpy

SMALL = 1 << 16  # items
SHARE = 1 / 8
ROUNDS = 8  # at least, before the share is used up
ROUND = 1 << 13  # postings at most
SCAN = 1 << 15  # items of a piece


@dataclass(frozen=True)
class TopK:
    """item: int64 ``[B, k]``, best first, ties by item. score: float32 ``[B, k]``. examined: int64 ``[B]`` postings and
    items scored on the way; the catalogue's size is what a full scan costs."""

    item: Tensor
    score: Tensor
    examined: np.ndarray


@dataclass(frozen=True)
class PostingLists:
    """A catalogue of ``N`` items with ``L`` codes, by item and by class.

    rows: int32 ``[L, N]`` fused row of each code (see ``CodeLayout``). codes: int32 ``[N, L]``, the same by item.
    items: int32 ``[L N]`` the items of row 0 ascending, then those of row 1, and so on; list ``r`` is
    ``items[start[r]:start[r + 1]]``, ``start`` int64 ``[R + 1]`` (host). position: int64 ``[R]`` (host) of each row.
    """

    rows: Tensor
    codes: Tensor
    items: Tensor
    start: np.ndarray
    position: np.ndarray

    @staticmethod
    def of(rows: Tensor, n_rows: int) -> PostingLists:
        """Index ``rows`` int ``[L, N]``, values below ``n_rows``. Raises ``InputError`` without items, for rows out of
        range and for a row that two positions share."""
        if rows.ndim != 2 or rows.numel() == 0:
            raise InputError("posting lists", got=f"rows of shape {tuple(rows.shape)}", wanted="[L, N], both at least 1")
        if int(rows.min()) < 0 or int(rows.max()) >= n_rows:
            raise InputError("posting lists: rows", got=f"{int(rows.min())}..{int(rows.max())}", wanted=f"0..{n_rows - 1}")
        length, n_items = rows.shape
        count = torch.stack([torch.bincount(row.long(), minlength=n_rows) for row in rows])
        if int((count > 0).sum(0).max()) > 1:
            raise InputError(
                "posting lists: rows",
                got="a row used by two positions",
                wanted="rows of one position each",
                do="offset the codes of each position (CodeLayout.rows)",
            )
        items = torch.sort(rows.reshape(-1), stable=True).indices % n_items
        start = np.concatenate([[0], np.cumsum(to_numpy(count.sum(0)))]).astype(np.int64)
        return PostingLists(
            rows.to(torch.int32).contiguous(),
            rows.T.to(torch.int32).contiguous(),
            items.to(torch.int32),
            start,
            to_numpy(count.argmax(0)),
        )

    @torch.no_grad()
    def top_k(self, log_probs: Tensor, k: int, prune: bool = True) -> TopK:
        """The ``k`` best items of each user under ``log_probs`` float32 ``[rows, B]`` (or ``[rows]`` for one).

        ``prune=False`` scans all items; the answer is the same. Raises ``InputError`` for ``k`` outside ``1..N``,
        another number of rows, and NaN.
        """
        n_items, n_rows = self.rows.shape[1], len(self.position)
        if not 1 <= k <= n_items:
            raise InputError("top-k: k", got=k, wanted=f"1..{n_items} (the number of items)")
        if log_probs.ndim not in (1, 2) or len(log_probs) != n_rows:
            raise InputError("top-k: scores", got=f"shape {tuple(log_probs.shape)}", wanted=f"[{n_rows}] or [{n_rows}, B]")
        if bool(torch.isnan(log_probs).any()):
            raise InputError("top-k: scores", got="NaN", wanted="numbers", do="check the model's output")
        users = log_probs.float().view(n_rows, -1).T.contiguous()
        prune = prune and n_items >= SMALL
        best = [_Best(k, len(self.rows), users.device) for _ in users]
        todo = [b for b, values in enumerate(users) if not (prune and self._prune(values, best[b]))]
        self._scan(users, best, todo)
        return TopK(
            torch.stack([b.item for b in best]),
            torch.stack([b.score for b in best]),
            np.array([b.examined for b in best], np.int64),
        )

    def _prune(self, values: Tensor, best: _Best) -> bool:
        """Offer posting lists in order of their classes' ``values`` ``[rows]``; False if the bound was never met."""
        for lists, bound in self._rounds(to_numpy(values)):
            items = torch.cat([self.items[self.start[r] : self.start[r + 1]] for r in lists])
            taken = values.index_select(0, self.codes.index_select(0, items).view(-1)).view(len(items), -1)
            score = taken[:, 0].clone()
            for p in range(1, taken.shape[1]):
                score += taken[:, p]
            best.offer(score, items)
            if best.threshold > bound:
                return True
        return False

    def _rounds(self, values: np.ndarray) -> Iterator[tuple[list[int], float]]:
        """Rows whose lists together hold a round's postings, best first, and the bound once they are taken."""
        sizes, most = np.diff(self.start), SHARE * self.rows.shape[1]
        step = max(1, min(ROUND, int(most / ROUNDS)))
        order = np.flatnonzero(sizes)
        order = order[np.argsort(-values[order], kind="stable")]
        owner = self.position[order]
        heads = [np.append(values[order[owner == p]], np.float32(-np.inf)) for p in range(len(self.rows))]
        total = np.cumsum(sizes[order])
        ends = np.searchsorted(total, np.arange(step, step + most, step)) + 1
        taken, begin = np.zeros(len(heads), np.int64), 0
        for end in np.unique(np.minimum(ends, len(order))):
            taken += np.bincount(owner[begin:end], minlength=len(heads))
            bound = np.float32(0.0)
            for head, n in zip(heads, taken, strict=True):
                bound = head[n] + bound
            yield order[begin:end].tolist(), float(bound)
            begin = end

    def _scan(self, users: Tensor, best: list[_Best], todo: list[int]) -> None:
        """Offer every item to the users ``todo``; a piece of the codes stays in cache while all of them read it."""
        n_items = self.rows.shape[1]
        buffer, term = (torch.empty(min(SCAN, n_items), device=users.device) for _ in range(2))
        for begin in range(0, n_items if todo else 0, SCAN):
            rows = self.rows[:, begin : begin + SCAN]
            score, extra = buffer[: rows.shape[1]], term[: rows.shape[1]]
            for b in todo:
                torch.index_select(users[b], 0, rows[0], out=score)
                for row in rows[1:]:
                    score += torch.index_select(users[b], 0, row, out=extra)
                best[b].offer(score, None, begin)


class _Best:
    """The best ``k`` offers so far, an item offered twice counting once."""

    def __init__(self, k: int, copies: int, device: torch.device) -> None:
        self._k, self._copies = k, copies
        self.item = torch.empty(0, dtype=torch.int64, device=device)
        self.score = torch.empty(0, device=device)
        self.threshold, self.examined = -float("inf"), 0

    def offer(self, score: Tensor, items: Tensor | None, begin: int = 0) -> None:
        """``score`` float32 ``[M]`` of ``items`` int32 ``[M]``, or of the items from ``begin`` on."""
        self.examined += len(score)
        # An item comes in at most `copies` lists, so k of the best `copies * k` offers at least are distinct.
        most = self._k * (1 if items is None else self._copies)
        floor = self.threshold
        if len(score) > most:
            floor = max(floor, float(torch.topk(score, most, sorted=False).values.min()))
        at = (score >= floor).nonzero()[:, 0]
        if not len(at):
            return
        item = torch.cat([self.item, at + begin if items is None else items[at].long()])
        score = torch.cat([self.score, score[at]])
        item, order = torch.sort(item)
        new = torch.ones_like(item, dtype=torch.bool)
        new[1:] = item[1:] != item[:-1]
        item, score = item[new], score[order][new]
        score, order = torch.sort(score, descending=True, stable=True)
        self.item, self.score = item[order[: self._k]], score[: self._k]
        if len(self.score) == self._k:
            self.threshold = float(self.score[-1])
