"""Beam search for SIDs: along the trie, or free over all class tuples to see what a model emits that is no SID.

The score of a hypothesis is the sum of its log-probabilities, normalised over everything the model could emit
*before* the trie takes anything away, and never renormalised: dividing by the mass of the allowed children would give
every narrow subtree probability one and favour items in sparse branches (recommenders.md 12). All SIDs have full
length, so there is no length penalty.

Hypotheses of a user are kept in the order of the trie, not of their scores. So candidates come out in that order too,
and "the best W, ties by SID order" is a threshold and a running count instead of a sort.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.recommenders.decoding.session import DecodingSession
from sidbench.recommenders.decoding.trie import SidTrie

LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Beam:
    """The best SIDs of ``B`` users, best first, ties by SID order.

    sid: int64 ``[B, W]`` number in the trie; -1 where fewer than ``W`` exist (score -inf) or, in a free search, where
    the classes are no SID. score: float32 ``[B, W]`` sum of log-probabilities, at least the lowest float32.
    bound: float32 ``[B]``; nothing outside the beam scores higher, since a pruned prefix can only lose. SIDs with a
    higher score are therefore the true best, as exhaustive scoring would find them; -inf where nothing was pruned.
    cut: bool ``[B]``; the last step left out a hypothesis with exactly the score of the last one kept.
    """

    sid: Tensor
    score: Tensor
    bound: Tensor
    cut: Tensor


@torch.no_grad()
def beam_search(session: DecodingSession, trie: SidTrie, width: int, constrained: bool = True) -> Beam:
    """The ``width`` best hypotheses of each user of ``session``.

    Constrained, only children of a hypothesis's node are candidates, and ``min(width, U)`` SIDs are always found: the
    search is exact for ``width >= U``. Raises ``InputError`` for ``width < 1`` and ``StageError`` for a session that
    gives NaN or another number of classes.
    """
    if width < 1:
        raise InputError("beam width", got=width, wanted="at least 1")
    log_probs = session.step(None, None)
    batch, device = len(log_probs), log_probs.device
    node = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    score = torch.zeros(batch, 1, device=device)
    bound = torch.full((batch,), -torch.inf, device=device)
    for p in range(trie.length):
        _check_step(log_probs, batch, node.shape[1], int(trie.layout.classes[p]), p)
        grow = _grow_along_trie if constrained else _grow_freely
        grown = grow(trie, p, node, score, log_probs.float())
        at, pruned = best_columns(grown.score, width)
        parent, label, node = grown.take(at)
        score, bound = grown.score.gather(1, at), torch.maximum(bound, pruned)
        if p + 1 < trie.length:
            log_probs = session.step(parent, label)
    cut = pruned == score.amin(dim=1)
    score, order = torch.sort(score, dim=1, descending=True, stable=True)
    missing = (0, width - score.shape[1])
    return Beam(F.pad(node.gather(1, order), missing, value=-1), F.pad(score, missing, value=-torch.inf), bound, cut)


def _check_step(log_probs: Tensor, batch: int, beams: int, classes: int, position: int) -> None:
    if log_probs.shape != (batch, beams, classes):
        raise StageError(
            f"decoding position {position}: the session gave {tuple(log_probs.shape)}, wanted "
            f"{(batch, beams, classes)} (users, hypotheses, classes)."
        )
    if torch.isnan(log_probs.sum()):  # one pass; NaN, or an infinite probability beside an impossible one
        raise StageError(f"decoding position {position}: the session gave NaN log-probabilities.")


@dataclass(frozen=True)
class _Grown:
    """Candidates float32 ``[B, C]`` in trie order (-inf behind a user's last), and how to read the few that are kept:
    ``take`` turns columns int64 ``[B, W]`` into parents, classes and nodes of these."""

    score: Tensor
    take: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _grow_along_trie(trie: SidTrie, depth: int, node: Tensor, score: Tensor, log_probs: Tensor) -> _Grown:
    """The children of all hypotheses.

    Ragged: deep nodes have about one child of hundreds of classes, so ``[B, W, classes]`` would be nearly all mask.
    """
    batch, beams, classes = log_probs.shape
    start, count = trie.child_range(depth, node)
    if int(count.min()) == classes:  # the top of a large trie: every class exists
        return _grow_fully(start, score, log_probs)
    found = trie.children(depth, node.view(-1))
    value = log_probs.reshape(-1).index_select(0, found.owner * classes + found.label)
    # A probability of zero stays a candidate, behind all others: clamp, so that -inf means "no candidate".
    value = value.add_(score.view(-1).index_select(0, found.owner)).clamp_min_(LOWEST)
    # The candidates of a user stand together; give every user the columns of the one who has most.
    count = count.sum(1)
    begin = (torch.cumsum(count, 0) - count)[:, None]
    most = int(count.max())
    total = torch.full((batch, most), -torch.inf, device=node.device)
    rows = torch.arange(0, batch * most, most, device=node.device) - begin[:, 0]
    place = torch.repeat_interleave(rows, count).add_(torch.arange(len(value), device=node.device))
    total.view(-1).index_copy_(0, place, value)

    def take(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = begin + at
        return found.owner[index] % beams, found.label[index].long(), found.node[index]

    return _Grown(total, take)


def _grow_fully(start: Tensor, score: Tensor, log_probs: Tensor) -> _Grown:
    """All classes of hypotheses whose nodes have them all; ``start`` int64 ``[B, W]`` is each node's first child."""
    batch, _, classes = log_probs.shape
    total = (score[:, :, None] + log_probs).clamp_min_(LOWEST).view(batch, -1)

    def take(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parent, label = at // classes, at % classes
        return parent, label, start.gather(1, parent) + label

    return _Grown(total, take)


def _grow_freely(trie: SidTrie, depth: int, node: Tensor, score: Tensor, log_probs: Tensor) -> _Grown:
    """All classes of all hypotheses; a hypothesis that has left the trie keeps node -1."""
    batch, _, classes = log_probs.shape
    total = (score[:, :, None] + log_probs).clamp_min_(LOWEST).view(batch, -1)

    def take(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parent, label = at // classes, at % classes
        return parent, label, trie.child(depth, node.gather(1, parent), label)

    return _Grown(total, take)


def best_columns(total: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Columns int64 ``[B, W]``, ascending, of the best ``W = min(width, C)`` of each row, equal ones from the left, and
    the best value left out float32 ``[B]``."""
    batch, n_candidates = total.shape
    width = min(width, n_candidates)
    if width == n_candidates:
        everything = torch.arange(width, device=total.device).expand(batch, -1)
        return everything, torch.full_like(total[:, 0], -torch.inf)
    top, at = torch.topk(total, width + 1, dim=1)
    last, pruned = top[:, width - 1, None], top[:, width]
    if not (last[:, 0] == pruned).any():
        return torch.sort(at[:, :width], dim=1).values, pruned
    # More equal ones than places, and topk takes any of them: count them from the left instead.
    above, equal = total > last, total == last
    keep = above | (equal & (torch.cumsum(equal, 1) <= width - above.sum(1, keepdim=True)))
    return keep.nonzero()[:, 1].view(batch, width), pruned
