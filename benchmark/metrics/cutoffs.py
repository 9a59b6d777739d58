"""List lengths K of Recall@K and NDCG@K: the default ones, and the one that stands for a task. Imports no numpy."""

from __future__ import annotations

from collections.abc import Iterable

CUTOFFS = (5, 10, 50, 100)  # of a run that asks for no others
USUAL_LEAD = 10  # what most papers print first


def lead_cutoff(cutoffs: Iterable[int]) -> int | None:
    """The cut-off nearest to 10, the shorter one of two equally near; ``None`` for none.

    Tables rank by it, strata are taken at it and plots show it, so that a run with ``run.cutoffs=[1,5,20]`` has
    everything that one with 10 among its cut-offs has.
    """
    return min(cutoffs, key=lambda k: (abs(k - USUAL_LEAD), k), default=None)
