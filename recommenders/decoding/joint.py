"""Joint search of two streams of codes: both beams propose, both models score every proposal exactly.

Source: EAGER, arXiv 2406.14017: the union of the streams' candidates is ranked by the confidence of both streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.recommenders.decoding.beam import LOWEST, Beam, beam_search
from sidbench.recommenders.decoding.confidence import search_rows
from sidbench.recommenders.decoding.forced import forced_scores
from sidbench.recommenders.decoding.session import DecodingSession
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds


class JointSearch:
    """The tries of a catalogue's SIDs and of their streams.

    positions: of each stream, together all positions of ``sids``. trie: the whole SIDs, which results refer to.
    """

    def __init__(self, sids: SemanticIds, positions: Sequence[Sequence[int]], runtime: Runtime) -> None:
        self.trie = SidTrie.of(sids, runtime)
        self._streams: list[tuple[SidTrie, Tensor]] = []
        for at in map(list, positions):
            codes = np.ascontiguousarray(sids.codes[:, at])
            trie = SidTrie.of(SemanticIds(codes, sids.sizes[at], sids.ordered), runtime)
            self._streams.append((trie, trie.find(self.trie.classes[:, at])))  # int64 [U]: each SID's number there

    def rows(self, width: int) -> int:
        """Users that may be searched side by side."""
        return min(search_rows(trie, width) for trie in (self.trie, *(trie for trie, _ in self._streams)))

    @torch.no_grad()
    def __call__(self, openers: Sequence[Callable[[], DecodingSession]], width: int) -> Beam:
        """Candidates of ``B`` users: all SIDs whose codes are among the ``width`` best of some stream, scored by the sum
        of the streams' log-probabilities. More than ``width`` where the streams disagree or SIDs share codes; all SIDs,
        hence exact, when ``width >= U``.

        openers: per stream, gives a new session of the same users.
        """
        found, bounds = [], []
        for open_session, (trie, part) in zip(openers, self._streams, strict=True):
            beam = beam_search(open_session(), trie, min(width, trie.n_sids))
            inside = torch.zeros(len(beam.sid), trie.n_sids, dtype=torch.bool, device=beam.sid.device)
            found.append(inside.scatter_(1, beam.sid, True)[:, part])
            bounds.append(beam.bound)
        candidate = torch.stack(found).any(0)
        bound = torch.stack(bounds).sum(0)  # what no beam found scores at most its bound in each stream
        score = torch.zeros(candidate.shape, device=candidate.device)
        for open_session, (trie, part) in zip(openers, self._streams, strict=True):
            needed = torch.zeros(len(score), trie.n_sids, device=score.device).index_add_(1, part, candidate.float()) > 0
            score += forced_scores(open_session, trie, needed)[:, part]
        score = torch.where(candidate, score.clamp_min(LOWEST), -torch.inf)
        most = int(candidate.sum(1).max())
        score, sid = (part[:, :most] for part in torch.sort(score, dim=1, descending=True, stable=True))
        return Beam(
            torch.where(torch.isneginf(score), -1, sid),
            score,
            bound,
            torch.zeros(len(score), dtype=torch.bool, device=score.device),
        )
