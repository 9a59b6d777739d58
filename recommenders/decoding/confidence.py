"""Beam search that fixes the positions of a SID in the order of the model's confidence.

Every hypothesis assigns classes to some positions. One step looks at the model's distribution of every open position,
takes the one with the lowest entropy (of equal ones the first) and branches over its classes, as far as some SID of the
catalogue extends the hypothesis so. Source: confidence-based selection of the next step, REG4Rec, arXiv 2508.15308.

The position depends on the hypothesis alone, so a user's hypotheses form a tree: two children of one hypothesis differ
in the class of one position for good. Hence every SID has exactly one path (it cannot be reached in two orders), its
score ``sum log P(c_p | fixed before)`` is a normalised log-probability over all class tuples, and the SIDs that extend
the hypotheses of a beam are disjoint sets. One number a SID, the hypothesis that owns it, therefore replaces the trie:
memory is ``B * (U + W * K)`` cells whatever the order of the positions. ``search_rows`` keeps that bounded; a catalogue
of 10^5 SIDs leaves room for dozens of users at a time, and beyond ``ROOM`` SIDs each user is searched alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.recommenders.decoding.beam import LOWEST, Beam, best_columns
from sidbench.recommenders.decoding.trie import SidTrie

OPEN = -1
ROOM = 1 << 23


class OpenPositions(Protocol):
    """A model that predicts any position from any set of fixed ones, for a batch of users."""

    def log_probs(self, partial: Tensor) -> Iterable[Tensor]:
        """Position by position ``log P_p(. | fixed)`` float32 ``[B, W, classes_p]``, from ``partial`` int64
        ``[B, W, L]``: the class of each fixed position, ``OPEN`` elsewhere. What it gives for fixed positions is not
        read."""


def search_rows(trie: SidTrie, width: int) -> int:
    """Users that may be searched side by side."""
    return max(1, ROOM // max(trie.n_sids, min(width, trie.n_sids) * int(trie.layout.classes.max())))


@torch.no_grad()
def confidence_search(model: OpenPositions, batch: int, trie: SidTrie, width: int) -> Beam:
    """The ``width`` best SIDs of each of ``batch`` users; all of them, with exact scores, when ``width >= U``.

    Raises ``InputError`` for ``width < 1`` and ``StageError`` when the model gives NaN.
    """
    if width < 1:
        raise InputError("beam width", got=width, wanted="at least 1")
    device, length, n_sids = trie.group.device, trie.length, trie.n_sids
    classes = int(trie.layout.classes.max())
    labels = trie.classes.view(-1)
    first_label = torch.arange(n_sids, device=device) * length
    row = torch.arange(batch, device=device)[:, None]
    partial = torch.full((batch, 1, length), OPEN, dtype=torch.int64, device=device)
    owner = torch.zeros(batch, n_sids, dtype=torch.int64, device=device)  # hypothesis of each SID, -1 once pruned
    score = torch.zeros(batch, 1, device=device)
    bound = torch.full((batch,), -torch.inf, device=device)
    for _ in range(length):
        position, values = _surest(model, partial, classes)
        beams = score.shape[1]
        label = labels[first_label + position.gather(1, owner.clamp_min(0))]
        child = torch.where(owner >= 0, owner * classes + label, beams * classes)
        real = torch.zeros(batch, beams * classes + 1, dtype=torch.bool, device=device).scatter_(1, child, True)[:, :-1]
        # A probability of zero stays a candidate, behind all others: -inf means "no SID continues so".
        total = (score[:, :, None] + values).clamp_min(LOWEST).view(batch, -1).masked_fill_(~real, -torch.inf)
        at, pruned = best_columns(total, min(width, int(real.sum(1).max())))
        slot = torch.full((batch, beams * classes + 1), -1, dtype=torch.int64, device=device)
        owner = slot.scatter_(1, at, torch.arange(at.shape[1], device=device).expand_as(at)).gather(1, child)
        score = total.gather(1, at)
        parent = at // classes
        # A user with fewer candidates than others has empty hypotheses; class 0 keeps their lookups in range.
        fixed = torch.where(torch.isneginf(score), 0, at % classes)
        partial = partial[row, parent].scatter_(2, position.gather(1, parent)[:, :, None], fixed[:, :, None])
        bound = torch.maximum(bound, pruned)
    return _finished(owner, score, bound, pruned, width)


def _surest(model: OpenPositions, partial: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Open position of lowest entropy int64 ``[B, W]`` and its log-probabilities ``[B, W, classes]``; what lies
    behind its own classes means nothing."""
    lowest = torch.full(partial.shape[:2], torch.inf, device=partial.device)
    position = torch.zeros_like(partial[:, :, 0])
    values = torch.full((*position.shape, classes), -torch.inf, device=partial.device)
    for p, log_probs in enumerate(model.log_probs(partial)):
        log_probs = log_probs.float().clamp_min(LOWEST)  # zero times the log of zero is zero
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        if torch.isnan(entropy).any():
            raise StageError(f"decoding position {p}: the model gave NaN log-probabilities.")
        better = (partial[:, :, p] == OPEN) & (entropy < lowest)
        lowest = torch.where(better, entropy, lowest)
        position = torch.where(better, p, position)
        values[..., : log_probs.shape[-1]] = torch.where(better[:, :, None], log_probs, values[..., : log_probs.shape[-1]])
    return position, values


def _finished(owner: Tensor, score: Tensor, bound: Tensor, pruned: Tensor, width: int) -> Beam:
    """Complete hypotheses, which own one SID each, best first and ties by SID order."""
    batch, beams = score.shape
    found = owner >= 0
    sid = torch.full((batch, beams + 1), -1, dtype=torch.int64, device=owner.device)
    numbers = torch.arange(owner.shape[1], device=owner.device).expand_as(owner)
    sid = sid.scatter_(1, torch.where(found, owner, beams), torch.where(found, numbers, -1))[:, :beams]
    lowest = torch.where(sid >= 0, score, torch.inf).amin(dim=1)
    sid, order = torch.sort(sid, dim=1)
    score, best = torch.sort(score.gather(1, order), dim=1, descending=True, stable=True)
    missing = (0, width - beams)
    return Beam(
        F.pad(sid.gather(1, best), missing, value=-1),
        F.pad(score, missing, value=-torch.inf),
        bound,
        torch.isfinite(pruned) & (pruned == lowest),
    )
