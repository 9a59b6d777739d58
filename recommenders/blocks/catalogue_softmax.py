"""Softmax over a catalogue of items: exact, or over shared negatives with the correction that keeps it unbiased.

Items of one SID have one score, so the classes are distinct SIDs and a class weighs as many items as share it. With
``s`` the scores of one row, ``t`` its target and ``G_t`` the items that share the target's SID, the loss is

    -log P(t) = log( G_t exp(s_t) + sum_{j in S, sid(j) != sid(t)} exp(s_j) / pi_j ) - s_t

where ``S`` is a set of drawn items without repetition and ``pi_j`` the probability that ``j`` is in it (Horvitz-Thompson;
``-log pi_j`` is the "logQ" correction of sampled softmax, Bengio and Senecal 2008). The sum in the logarithm is therefore
that of the whole catalogue in expectation, the target's own SID is never its own negative, and with every item drawn
(``pi = 1``) the loss is the full softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.blocks.exact import CELLS

UNIFORM, POPULARITY, IN_BATCH = "uniform", "popularity", "in_batch"
DISTRIBUTIONS = (UNIFORM, POPULARITY, IN_BATCH)


@dataclass(frozen=True)
class Negatives:
    """Classes that a batch is normalised over: classes int64 ``[M]``, log_weight float32 ``[M]``, to be added to their
    scores (items that share a class, or ``-log pi`` of one drawn item)."""

    classes: np.ndarray
    log_weight: np.ndarray


class NegativeSampler:
    """Negatives shared by the rows of a batch.

    Parameters
    ----------
    of_item: int64 ``[N]`` class (distinct SID) of each item.
    clicks: int64 ``[N]`` how often each item is a target in training.
    draws: negatives drawn for a batch; 0, or as many as there are items, for the whole catalogue.
    distribution: "uniform", without replacement; "popularity", with probabilities in proportion to ``clicks + 1``, so that
        items without clicks are pushed down too; "in_batch", the targets of the batch itself, whatever ``draws`` is.
    """

    def __init__(self, of_item: np.ndarray, clicks: np.ndarray, draws: int, distribution: str) -> None:
        self._of_item, self._n_draws = of_item, draws
        self._group = np.bincount(of_item)
        self.log_group = np.log(self._group).astype(np.float32)
        n_items = len(of_item)
        whole = distribution != IN_BATCH and (draws == 0 or draws >= n_items)
        self._distribution = "" if whole else distribution
        seen = clicks if distribution == IN_BATCH else clicks + 1
        self._share = seen / seen.sum()
        self._cumulative = np.cumsum(self._share)

    def sample(self, targets: np.ndarray, rng: Rng) -> Negatives:
        """Negatives of a batch with ``targets`` int64 ``[P]`` items; a pure function of its arguments."""
        n_items = len(self._of_item)
        if not self._distribution:
            return Negatives(np.arange(len(self._group)), self.log_group)
        if self._distribution == UNIFORM:
            drawn = np.sort(rng.numpy().choice(n_items, self._n_draws, replace=False, shuffle=False))
            log_kept = np.full(len(drawn), np.log(self._n_draws / n_items))
        else:
            # Drawn with replacement, kept once: 1 - (1 - q)^draws is the probability to be there at all.
            if self._distribution == IN_BATCH:
                drawn, draws = np.unique(targets), len(targets)
            else:
                places = np.searchsorted(self._cumulative, rng.numpy().random(self._n_draws), side="right")
                drawn, draws = np.unique(np.minimum(places, n_items - 1)), self._n_draws
            with np.errstate(divide="ignore"):  # q = 1, the only item: log(0) twice, and log_kept = 0
                log_kept = np.log(-np.expm1(draws * np.log1p(-self._share[drawn])))
        return Negatives(self._of_item[drawn], -log_kept.astype(np.float32))


class _CatalogueLoss(torch.autograd.Function):
    """The loss of the module's equation in row pieces that stay in cache; gradients are made on the way."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        own: Tensor,
        negative: Tensor,
        log_own: Tensor,
        log_weight: Tensor,
        same: tuple[Tensor, Tensor],
    ) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            n_rows, n_negatives = len(query), len(negative)
            piece = max(1, min(n_rows, CELLS // n_negatives))
            buffer = torch.empty(piece, n_negatives, device=query.device)
            loss = torch.zeros((), device=query.device)
            query_grad, own_grad = torch.empty_like(query), torch.empty_like(own)
            negative_grad = torch.zeros_like(negative)
            for start in range(0, n_rows, piece):
                rows = slice(start, start + piece)
                q, e = query[rows], own[rows]
                part = torch.addmm(log_weight, q, negative.T, out=buffer[: len(q)])
                part.masked_fill_(same[0][rows, None] == same[1], -torch.inf)
                score = (q * e).sum(1)
                weighed = score + log_own[rows]
                top = torch.maximum(part.amax(1), weighed)
                part.sub_(top[:, None]).exp_()
                mine = (weighed - top).exp()
                total = part.sum(1) + mine
                loss += (total.log() + top - score).sum()
                part.div_(total[:, None])
                pull = (mine / total - 1)[:, None]
                torch.mm(part, negative, out=query_grad[rows])
                query_grad[rows].addcmul_(pull, e)
                torch.mul(pull, q, out=own_grad[rows])
                negative_grad.addmm_(part.T, q)
            ctx.save_for_backward(*(g.div_(n_rows) for g in (query_grad, own_grad, negative_grad)))
            return loss / n_rows

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, own_grad, negative_grad = ctx.saved_tensors  # type: ignore[attr-defined]
        return query_grad * grads[0], own_grad * grads[0], negative_grad * grads[0], None, None, None


def catalogue_loss(
    query: Tensor,
    own: Tensor,
    negative: Tensor,
    log_own: Tensor,
    log_weight: Tensor,
    own_class: Tensor,
    negative_class: Tensor,
) -> Tensor:
    """Mean ``-log P(t)`` of the module's equation; at most ``CELLS`` scores, or those of one row, are held at once.

    query ``[P, d]``, own ``[P, d]`` vectors of the targets, negative ``[M, d]``: scores are inner products. log_own ``[P]``
    log of the items that share the target's class, log_weight ``[M]`` as of ``Negatives``. own_class int64 ``[P]`` and
    negative_class int64 ``[M]``: a row leaves out negatives of its target's class.
    """
    loss: Tensor = _CatalogueLoss.apply(
        query.float(), own.float(), negative.float(), log_own, log_weight, (own_class, negative_class)
    )
    return loss


@dataclass(frozen=True)
class ClassBatch:
    """What a batch reads of the catalogue: every class once, and where in them its inputs, targets and negatives are.

    classes: int64 ``[C]`` distinct classes. inputs int64 ``[B, T]``, own int64 ``[P]`` and negative int64 ``[M]`` are
    places in ``classes``.
    """

    classes: np.ndarray
    inputs: np.ndarray
    own: np.ndarray
    negative: np.ndarray

    @staticmethod
    def of(inputs: np.ndarray, own: np.ndarray, negative: np.ndarray) -> ClassBatch:
        """Of classes int64 ``[B, T]``, ``[P]`` and ``[M]``."""
        classes, place = np.unique(np.concatenate([inputs.reshape(-1), own, negative]), return_inverse=True)
        cuts = np.cumsum([inputs.size, len(own)])
        first, second, third = np.split(place.reshape(-1), cuts)
        return ClassBatch(classes, first.reshape(inputs.shape), second, third)

    def tensors(self, runtime: Runtime) -> dict[str, Tensor]:
        """The arrays on the runtime's device, by name."""
        return {name: runtime.tensor(array) for name, array in vars(self).items()}
