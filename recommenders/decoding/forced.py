"""Exact scores of given SIDs from a left-to-right model: teacher forcing through a ``DecodingSession``.

The SIDs of one user are walked down the trie together, so a prefix that several share is decoded once. Nothing is
pruned; with all SIDs of the catalogue it is exhaustive scoring.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sidbench.recommenders.decoding.session import DecodingSession
from sidbench.recommenders.decoding.trie import SidTrie

ROOM = 1 << 24


@torch.no_grad()
def forced_scores(open_session: Callable[[], DecodingSession], trie: SidTrie, wanted: Tensor) -> Tensor:
    """``sum_p log P(c_p | c_<p)`` float32 ``[B, U]`` where ``wanted`` bool ``[B, U]``, -inf elsewhere.

    open_session: gives a new session of the same ``B`` users; several are opened when the wanted SIDs do not fit one
    pass of ``ROOM`` log-probabilities.
    """
    batch, n_sids = wanted.shape
    scores = torch.full((batch, n_sids + 1), -torch.inf, device=wanted.device)  # the last column takes the filling
    most = int(wanted.sum(1).max())
    if not most:
        return scores[:, :-1]
    # Wanted SIDs first, in SID order, so that equal prefixes are neighbours; behind them the first wanted one again.
    order = torch.sort(wanted.byte(), dim=1, descending=True, stable=True).indices[:, :most]
    real = wanted.gather(1, order)
    sid = torch.where(real, order, torch.where(real[:, :1], order[:, :1], 0))
    piece = max(1, ROOM // (batch * int(trie.layout.classes.max())))
    for part, filled in zip(sid.split(piece, dim=1), real.split(piece, dim=1), strict=True):
        value = _walk(open_session(), trie, part)
        scores.scatter_(1, torch.where(filled, part, n_sids), value)
    return scores[:, :-1]


def _walk(session: DecodingSession, trie: SidTrie, sid: Tensor) -> Tensor:
    """Scores float32 ``[B, M]`` of ``sid`` int64 ``[B, M]``; equal prefixes should be neighbours."""
    classes = trie.classes[sid]
    row = torch.arange(len(sid), device=sid.device)[:, None]
    slot = torch.zeros_like(sid)  # the hypothesis of each SID at the current depth
    fresh = torch.zeros_like(sid, dtype=torch.bool)
    fresh[:, 0] = True
    log_probs = session.step(None, None)
    score = log_probs[row, slot, classes[:, :, 0]].float()
    for p in range(1, trie.length):
        fresh[:, 1:] |= classes[:, 1:, p - 1] != classes[:, :-1, p - 1]
        deeper = fresh.cumsum(1) - 1
        # Users with fewer hypotheses than others repeat class 0 of hypothesis 0, which nobody reads.
        parent = torch.zeros(len(sid), int(deeper.max()) + 1, dtype=torch.int64, device=sid.device)
        label = torch.zeros_like(parent)
        log_probs = session.step(parent.scatter_(1, deeper, slot), label.scatter_(1, deeper, classes[:, :, p - 1]))
        slot = deeper
        score = score + log_probs[row, slot, classes[:, :, p]].float()
    return score
