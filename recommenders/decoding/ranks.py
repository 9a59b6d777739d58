"""Ranks of targets from a beam: exact down to a stated depth, an honest interval below it.

What a generative model recommends is the list its beam returns, each SID standing for all items that share it. A
target in the list has a rank interval as in exact scoring: items above it, and items with exactly its score. A target
outside has rank ``covered + 1 .. N``. ``TargetRanks.depth`` says how far the list reaches, so that no metric is read
beyond it; users whose list is too short are decoded again with a wider beam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import MAX, MEAN, MIN, SAME, SUM, TargetRanks
from sidbench.recommenders.blocks.exact import Candidates, RankCollector
from sidbench.recommenders.decoding.beam import Beam, beam_search
from sidbench.recommenders.decoding.session import DecodingSession
from sidbench.recommenders.decoding.trie import SidTrie

OpenSession = Callable[[np.ndarray], DecodingSession]
Search = Callable[[np.ndarray, int], Beam]


@torch.no_grad()
def rank_by_beam(
    batches: Iterable[np.ndarray],
    open_session: OpenSession,
    histories: Sequences,
    targets: np.ndarray,
    trie: SidTrie,
    width: int,
    cover: int,
    runtime: Runtime,
) -> tuple[TargetRanks, dict[str, float]]:
    """Rank intervals of ``targets`` int ``[B]`` given ``histories``, and figures of the search.

    batches: row numbers int64 of ``histories``, each row once, in any order. open_session: rows -> session; a row may
    be opened again, beside other rows. width: SIDs a user's beam holds at first. cover: items beyond the user's own
    history that the beam must reach; where it does not, it is doubled until it does or holds every SID. Raises
    ``InputError`` when ``width`` or ``cover`` is below 1 or the batches leave out a row.
    """
    return rank_by_search(
        batches,
        lambda users, wide: beam_search(open_session(users), trie, wide),
        histories,
        targets,
        trie,
        width,
        cover,
        runtime,
    )


# The figures of ``rank_by_search``: of a search that several processes share, each for its users.
SEARCH_COMBINE = {
    "beam_width": SAME,
    "beam_widest": MAX,
    "beam_widened_users": SUM,
    "beam_covered_items": MIN,
    **dict.fromkeys(("beam_proven_items", "beam_targets_found", "invalid_rate"), MEAN),
}


@torch.no_grad()
def rank_by_search(
    batches: Iterable[np.ndarray],
    search: Search,
    histories: Sequences,
    targets: np.ndarray,
    trie: SidTrie,
    width: int,
    cover: int,
    runtime: Runtime,
) -> tuple[TargetRanks, dict[str, float]]:
    """``rank_by_beam`` for any search: rows int64 ``[B]`` and a width -> their ``Beam``, which must hold all SIDs once
    the width reaches their number. Other arguments, results and errors as there."""
    if width < 1 or cover < 1:
        raise InputError("beam search", got=f"width {width}, cover {cover}", wanted="both at least 1")
    candidates, collector = Candidates(histories, targets, trie.n_items), RankCollector(len(targets))
    ranked, widened = np.zeros(len(targets), bool), np.zeros(len(targets), bool)
    proven, found = np.zeros(len(targets), np.int64), np.zeros(len(targets), bool)
    first_width = width = min(width, trie.n_sids)
    largest = 1
    while True:
        short = []
        for users in batches:
            beam = search(users, width)
            ranks, proven[users], found[users] = ranks_of_beam(beam, users, candidates, trie, runtime)
            collector.add(users, ranks)
            ranked[users] = True
            largest = max(largest, len(users)) if width == first_width else largest
            if width < trie.n_sids:
                short.append(users[ranks.depth < min(cover, trie.n_items)])
        pending = np.concatenate(short) if short else np.zeros(0, np.int64)
        if not len(pending):
            break
        widened[pending] = True
        width = min(2 * width, trie.n_sids)
        batches = _split(pending, max(1, largest * first_width // width))
    if not ranked.all():
        raise InputError(
            "batches of users to rank", got=f"{int(ranked.sum())} of {len(ranked)} rows", wanted="every row once"
        )
    ranks = collector.result()
    return ranks, {
        "beam_width": float(first_width),
        "beam_widest": float(width),
        "beam_widened_users": float(widened.sum()),
        "beam_covered_items": float(ranks.depth.min(initial=trie.n_items)),
        "beam_proven_items": float(proven.mean()) if len(proven) else 0.0,
        "beam_targets_found": float(found.mean()) if len(found) else 0.0,
        "invalid_rate": 0.0,
    }


@torch.no_grad()
def invalid_rate(
    batches: Iterable[np.ndarray], open_session: OpenSession, trie: SidTrie, width: int, runtime: Runtime
) -> float:
    """Share of the results of an unconstrained beam of ``width`` that are no item's SID.

    Raises ``InputError`` without any row.
    """
    counts = torch.zeros(2, dtype=torch.int64, device=runtime.device)
    for users in batches:
        beam = beam_search(open_session(users), trie, width, constrained=False)
        real = torch.isfinite(beam.score)
        counts += torch.stack([(real & (beam.sid < 0)).sum(), real.sum()])
    invalid, total = counts.tolist()
    if total == 0:
        raise InputError("invalid rate", got="no user", wanted="at least one")
    return float(invalid / total)


def _split(users: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Batches of at most ``size``, in the order given: neighbours have histories of similar length."""
    return (users[i : i + size] for i in range(0, len(users), size))


def ranks_of_beam(
    beam: Beam, users: np.ndarray, candidates: Candidates, trie: SidTrie, runtime: Runtime
) -> tuple[TargetRanks, np.ndarray, np.ndarray]:
    """Rank intervals, number of best items proven to be those of exhaustive scoring int64 ``[B]``, and whether the
    target was found bool ``[B]``."""
    batch, n_items, n_sids = len(users), trie.n_items, trie.n_sids
    # A block of equal scores that the beam cut in two is not known one by one: whom it kept is SID order, no merit.
    known = (beam.sid >= 0) & ~(beam.cut[:, None] & (beam.score == _last(beam)))
    group = torch.where(known, trie.group[beam.sid.clamp_min(0)].long(), 0)
    score_of = _Lookup(beam, known, n_sids)
    row = torch.arange(batch, device=group.device)
    target, found = score_of(row, runtime.tensor(trie.of_item[candidates.targets[users]]))
    column, item = candidates.masked(users)
    column_t = runtime.tensor(column)
    seen, reached = score_of(column_t, runtime.tensor(trie.of_item[item]))
    against = target[column_t]

    def counted(which: Tensor) -> Tensor:
        return torch.bincount(column_t[which], minlength=batch)

    above, level = known & (beam.score > target[:, None]), known & (beam.score == target[:, None])
    covered, sids, gone = group.sum(1), known.sum(1), counted(reached)

    def interval(better: Tensor, tied: Tensor, reach: Tensor, total: Tensor | int) -> tuple[np.ndarray, np.ndarray]:
        return (to_numpy(torch.where(found, better, reach)), to_numpy(torch.where(found, tied, total - reach)))

    better, tied = interval((group * above).sum(1), (group * level).sum(1), covered, n_items)
    sid_better, sid_tied = interval(above.sum(1), level.sum(1), sids, n_sids)
    masked_better, masked_tied = interval(
        (group * above).sum(1) - counted(reached & (seen > against)),
        (group * level).sum(1) - counted(reached & (seen == against)),
        covered - gone,
        n_items - torch.bincount(column_t, minlength=batch),
    )
    depth = torch.where(sids == n_sids, n_items, covered - gone)
    proven = (group * (beam.score > beam.bound[:, None])).sum(1)
    return (
        TargetRanks(
            better,
            tied,
            sid_better,
            sid_tied,
            masked_better,
            masked_tied,
            to_numpy(target),
            depth=to_numpy(depth),
            sid_depth=to_numpy(sids),
        ),
        to_numpy(proven),
        to_numpy(found),
    )


def _last(beam: Beam) -> Tensor:
    """float32 ``[B, 1]`` the lowest score of each user's hypotheses."""
    return torch.where(beam.sid >= 0, beam.score, torch.inf).amin(dim=1, keepdim=True)


class _Lookup:
    """Scores of (user, SID) pairs in a beam, by binary search."""

    def __init__(self, beam: Beam, known: Tensor, n_sids: int) -> None:
        self._n_sids = n_sids
        row, column = known.nonzero(as_tuple=True)
        self._keys, order = torch.sort(row * n_sids + beam.sid[row, column])
        self._scores = beam.score[row, column][order]

    def __call__(self, row: Tensor, sid: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``[M]`` scores, NaN where the beam lacks the SID, and bool ``[M]`` whether it holds it."""
        wanted = row * self._n_sids + sid
        if not len(self._keys):
            return torch.full_like(wanted, torch.nan, dtype=torch.float32), torch.zeros_like(wanted, dtype=torch.bool)
        at = torch.searchsorted(self._keys, wanted).clamp_max(len(self._keys) - 1)
        held = self._keys[at] == wanted
        return torch.where(held, self._scores[at], torch.nan), held
