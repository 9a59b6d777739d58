"""Exact work over the whole catalogue: rank intervals of targets, and the full-softmax loss.

Scores are computed once per *distinct* SID, so items that share a SID tie exactly; ranks come out as intervals
(``TargetRanks``) instead of a broken tie. Work is cut into pieces of at most ``CELLS`` scores, so memory does not
grow with users times items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import TargetRanks
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.tokenizers.base import SemanticIds

CELLS = 1 << 21


class Candidates:
    """Targets and history of the users to rank.

    The masked ranks leave out each user's distinct history items, except the target itself: it stays a candidate when
    it was seen before.
    """

    def __init__(self, histories: Sequences, targets: np.ndarray, n_items: int) -> None:
        self.targets = np.asarray(targets, np.int64)
        owner = np.repeat(np.arange(histories.n_users), histories.lengths)
        keys = np.unique(owner * n_items + histories.items)
        owner, item = keys // n_items, keys % n_items
        other = item != self.targets[owner]
        count = np.bincount(owner[other], minlength=len(self.targets))
        self._masked = Sequences(np.concatenate([[0], np.cumsum(count)]).astype(np.int64), item[other].astype(np.int32))

    def masked(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[M]`` column in ``users`` and int64 ``[M]`` item of everything to leave out for these users."""
        taken = take_sequences(self._masked, users)
        return np.repeat(np.arange(len(users)), taken.lengths), taken.items.astype(np.int64)


class RankCollector:
    """Assembles ``TargetRanks`` of all users from batches in any order."""

    def __init__(self, n_users: int) -> None:
        self._columns = {
            f.name: np.zeros(n_users, np.float32 if f.name == "score" else np.int64) for f in fields(TargetRanks)
        }

    def add(self, users: np.ndarray, ranks: TargetRanks) -> None:
        """Store the ranks of ``users`` int ``[B]``."""
        for name, column in self._columns.items():
            column[users] = getattr(ranks, name)

    def result(self) -> TargetRanks:
        """All ranks; users never added would hold zeros."""
        return TargetRanks(**self._columns)


@dataclass(frozen=True)
class DistinctSids:
    """The catalogue by distinct SID, on the device.

    rows: int64 ``[L, U]`` fused rows (see ``CodeLayout``) of each distinct SID. group: float32 ``[U]`` items that share
    it. of_item: int64 ``[N]`` (host) distinct SID of each item.
    """

    rows: Tensor
    group: Tensor
    of_item: np.ndarray

    @staticmethod
    def of(sids: SemanticIds, item_rows: np.ndarray, runtime: Runtime) -> DistinctSids:
        """Group items by SID; ``item_rows`` int64 ``[N, L]`` are their fused rows."""
        _, of_item = sids.distinct()
        count = np.bincount(of_item)
        first = np.zeros(len(count), np.int64)
        first[of_item] = np.arange(len(of_item))
        return DistinctSids(runtime.tensor(item_rows[first].T), runtime.tensor(count.astype(np.float32)), of_item)

    def pair_scores(self, log_probs: Tensor, sid: Tensor, column: Tensor) -> Tensor:
        """float32 ``[M]`` scores of single (SID, user) pairs, added in the same order as in ``rank``."""
        score = log_probs[self.rows[0][sid], column]
        for row in self.rows[1:]:
            score = score + log_probs[row[sid], column]
        return score

    def rank(self, log_probs: Tensor, users: np.ndarray, candidates: Candidates, runtime: Runtime) -> TargetRanks:
        """Rank intervals from the additive score ``score(i) = sum_p log P_p(c_ip)``.

        ``log_probs`` float32 ``[rows, B]``, code-major: one gather fetches a code's value for all ``B`` users.
        """
        log_probs = log_probs.contiguous()
        batch, n_sids = log_probs.shape[1], self.rows.shape[1]
        target_sid = runtime.tensor(self.of_item[candidates.targets[users]])
        target = self.pair_scores(log_probs, target_sid, torch.arange(batch, device=log_probs.device))
        weight = torch.stack([torch.ones_like(self.group), self.group])  # (sid or item, U)
        above = torch.zeros(2, batch, dtype=torch.int64, device=log_probs.device)
        tied = torch.zeros_like(above)
        piece = max(1, CELLS // batch)
        buffer, term = (torch.empty(min(piece, n_sids), batch, device=log_probs.device) for _ in range(2))
        for start in range(0, n_sids, piece):
            rows = self.rows[:, start : start + piece]
            score, extra = buffer[: rows.shape[1]], term[: rows.shape[1]]
            torch.index_select(log_probs, 0, rows[0], out=score)
            for row in rows[1:]:
                torch.index_select(log_probs, 0, row, out=extra)
                score += extra
            # Counts are exact in float32 up to 2^24 items a piece.
            part = weight[:, start : start + piece]
            above += (part @ torch.gt(score, target, out=extra)).long()
            tied += (part @ torch.eq(score, target, out=extra)).long()
        column, item = candidates.masked(users)
        column_t = runtime.tensor(column)
        seen = self.pair_scores(log_probs, runtime.tensor(self.of_item[item]), column_t)
        return rank_interval(above, tied, target, seen, column_t, len(self.of_item), n_sids)


def rank_scores(scores: Tensor, users: np.ndarray, candidates: Candidates, runtime: Runtime) -> TargetRanks:
    """Rank intervals from item scores float32 ``[B, N]``; every item is its own SID, exactly equal floats tie."""
    index = torch.arange(len(users), device=scores.device)
    target = scores[index, runtime.tensor(candidates.targets[users])]
    above = torch.count_nonzero(scores > target[:, None], dim=1).expand(2, -1)
    tied = torch.count_nonzero(scores == target[:, None], dim=1).expand(2, -1)
    column, item = candidates.masked(users)
    column_t = runtime.tensor(column)
    n_items = scores.shape[1]
    return rank_interval(above, tied, target, scores[column_t, runtime.tensor(item)], column_t, n_items, n_items)


def rank_interval(
    above: Tensor, tied: Tensor, target: Tensor, seen: Tensor, column: Tensor, n_items: int, n_sids: int
) -> TargetRanks:
    """Exact counts int64 ``[2, B]`` (SIDs, items) and the scores ``seen`` ``[M]`` of items to leave out, each of user
    ``column`` int64 ``[M]``, against ``target`` ``[B]`` -> ``TargetRanks``."""
    size, against = len(target), target[column]
    gone_above = torch.bincount(column[seen > against], minlength=size)
    gone_tied = torch.bincount(column[seen == against], minlength=size)
    return TargetRanks(
        better=to_numpy(above[1]),
        tied=to_numpy(tied[1]),
        sid_better=to_numpy(above[0]),
        sid_tied=to_numpy(tied[0]),
        masked_better=to_numpy(above[1] - gone_above),
        masked_tied=to_numpy(tied[1] - gone_tied),
        score=to_numpy(target.float()),
        depth=np.full(size, n_items, np.int64),
        sid_depth=np.full(size, n_sids, np.int64),
    )


def expected_ndcg(ranks: TargetRanks, k: int) -> float:
    """Mean item-level NDCG@k, exact expectation over uniformly random order inside ties.

    ``NDCG@k = (1/G) sum_{i=1..m} 1/log2(P + i + 1)``, ``P`` items above, ``G`` tied, ``m = min(G, max(0, k - P))``.
    """
    gain = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    first, last = np.minimum(ranks.better, k), np.minimum(ranks.better + ranks.tied, k)
    return float(np.mean((gain[last] - gain[first]) / ranks.tied))


class _SoftmaxLoss(torch.autograd.Function):
    """Cross-entropy with a linear output layer, in row pieces that stay in cache; gradients are made on the way."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: Tensor, table: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            n_rows, n_classes = len(hidden), len(table)
            piece = max(1, min(n_rows, CELLS // n_classes))
            buffer = torch.empty(piece, n_classes, device=hidden.device)
            loss = torch.zeros((), device=hidden.device)
            hidden_grad, table_grad = torch.empty_like(hidden), torch.zeros_like(table)
            for start in range(0, n_rows, piece):
                h, t = hidden[start : start + piece], target[start : start + piece, None]
                logits = buffer[: len(h)]
                torch.mm(h, table.T, out=logits)
                prob = torch.softmax(logits, dim=1, out=logits)
                # Below the smallest normal float the loss saturates at 87 nats; its gradient stays exact.
                loss -= prob.gather(1, t).clamp_min(torch.finfo(prob.dtype).tiny).log().sum()
                prob.scatter_add_(1, t, torch.full_like(t, -1.0, dtype=prob.dtype))
                torch.mm(prob, table, out=hidden_grad[start : start + piece])
                table_grad.addmm_(prob.T, h)
            ctx.save_for_backward(hidden_grad.div_(n_rows), table_grad.div_(n_rows))
            return loss / n_rows

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_grad, table_grad = ctx.saved_tensors  # type: ignore[attr-defined]
        return hidden_grad * grads[0], table_grad * grads[0], None


def softmax_loss(hidden: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of ``softmax(hidden @ table.T)``.

    hidden ``[P, d]``, table ``[classes, d]``, target int64 ``[P]``. Equals
    ``F.cross_entropy(hidden @ table.T, target)`` without ever holding ``[P, classes]``.
    """
    loss: Tensor = _SoftmaxLoss.apply(hidden.float(), table.float(), target)
    return loss


class _CosineLoss(torch.autograd.Function):
    """Cross-entropies of all positions at once; lengths of queries are divided out of the logits, not of the queries."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        queries: Tensor,
        table: Tensor,
        target: Tensor,
        runs: Sequence[tuple[slice, slice, int]],
        temperature: float,
    ) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            length, n_rows, _ = queries.shape
            piece = max(1, min(n_rows, CELLS // max((p.stop - p.start) * k for p, _, k in runs)))
            norm = torch.linalg.vector_norm(queries, dim=-1, keepdim=True).clamp_min_(1e-12)
            scale = (norm * temperature).reciprocal_()
            loss = torch.zeros((), device=queries.device)
            query_grad, table_grad = torch.empty_like(queries), torch.zeros_like(table)
            for start in range(0, n_rows, piece):
                rows = slice(start, start + piece)
                for at, of, classes in runs:
                    q, factor, pick = queries[at, rows], scale[at, rows], target[rows, at].t()[:, :, None]
                    vectors = table[of].view(len(q), classes, -1)
                    prob = torch.bmm(q, vectors.transpose(1, 2)).mul_(factor)
                    torch.softmax(prob, dim=2, out=prob)
                    # Below the smallest normal float the loss saturates at 87 nats; its gradient stays exact.
                    loss -= prob.gather(2, pick).clamp_min(torch.finfo(prob.dtype).tiny).log().sum()
                    prob.scatter_add_(2, pick, torch.full_like(pick, -1.0, dtype=prob.dtype))
                    prob.mul_(factor * (1 / (n_rows * length)))
                    torch.bmm(prob, vectors, out=query_grad[at, rows])
                    table_grad[of].view_as(vectors).baddbmm_(prob.transpose(1, 2), q)
            # Cosine: the part of the gradient along a query would change its length only.
            along = (query_grad * queries).sum(2, keepdim=True).div_(norm.square_())
            ctx.save_for_backward(query_grad.addcmul_(queries, along, value=-1), table_grad)
            return loss / (n_rows * length)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, table_grad = ctx.saved_tensors  # type: ignore[attr-defined]
        return query_grad * grads[0], table_grad * grads[0], None, None, None


def cosine_softmax_loss(
    queries: Tensor, table: Tensor, target: Tensor, runs: Sequence[tuple[slice, slice, int]], temperature: float
) -> Tensor:
    """Mean over positions and rows of the cross-entropy of ``softmax(cos(query, class) / temperature)``.

    queries ``[L, P, d]`` of any length, table ``[rows, d]`` unit class vectors of all positions, target int64 ``[P, L]``
    class within its position; ``runs`` as of ``CodeLayout``: positions, their table rows, classes of each. At most
    ``CELLS`` logits are held at once.
    """
    loss: Tensor = _CosineLoss.apply(queries.float(), table.float(), target, runs, temperature)
    return loss
