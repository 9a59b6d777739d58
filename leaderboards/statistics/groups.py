"""Which rows of a column can be told apart, and the ranks and marks that follow.

The rule: rank = 1 + the number of rows that are significantly better, at 5 % after Holm's correction over all pairs of
rows of the column. Rows without a significant difference to any better row share rank 1, and all of them are bold; the
next rank is underlined. So a tie is never bolded apart, and a rank says how many rows are known to be better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr, stdtr

from sidbench.leaderboards.statistics.holm import LEVEL, holm
from sidbench.leaderboards.statistics.welch import Part, combined, of_seeds

BEST, SECOND = "best", "second"


@dataclass(frozen=True)
class Evidence:
    """What is known of one row in one column.

    value: mean over seeds. seeds: the value of each seed. half_width: of the 95 % interval over users, when there is
    one. influence: float64 ``[U]``, what each user of the table adds to the value to first order (mean over seeds),
    when per-user results exist; the same users in the same order for every row. n: units averaged. low, high: the ends
    of the interval to print, which ``interval`` names (see ``values.Cell``).
    """

    value: float
    seeds: tuple[float, ...]
    half_width: float | None = None
    influence: np.ndarray | None = None
    n: int = 0
    low: float | None = None
    high: float | None = None
    interval: str = "unknown"


def p_value(left: Evidence, right: Evidence) -> float:
    """Two-sided p-value of "no difference", from the best evidence both rows have.

    Two kinds of doubt add up (``welch``): users, with the trained models held fixed, and the seeds of rows that have
    several, since another training of the same row gives another number for the same users. Users by per-user results:
    paired, the variance of a bootstrap with ever more draws (infinitesimal jackknife; DeLong's for AUC). By intervals
    only: as if independent, which is the careful side for rows that share users. Without users: a pooled t-test over
    seeds. One seed each and no interval: the numbers are exact, so they differ or they do not.
    """
    difference = left.value - right.value
    users = _users(left, right)
    if users is not None:
        return _student(difference, *combined((users, *of_seeds(left.seeds), *of_seeds(right.seeds))))
    freedom = len(left.seeds) + len(right.seeds) - 2
    if freedom == 0:
        return _exact(difference)
    squares = sum(float(np.sum((np.array(row.seeds) - np.mean(row.seeds)) ** 2)) for row in (left, right))
    return _student(difference, float(np.sqrt(squares / freedom * (1 / len(left.seeds) + 1 / len(right.seeds)))), freedom)


def _users(left: Evidence, right: Evidence) -> Part | None:
    """The doubt over users of a difference; ``None`` for numbers without users."""
    if left.influence is not None and right.influence is not None:
        each = left.influence - right.influence
        n = len(each)
        return Part(float((each**2).sum()) * n / (n - 1), n - 1) if n > 1 else Part(float("nan"), 1)
    if left.half_width is not None and right.half_width is not None:
        return Part((left.half_width**2 + right.half_width**2) / 1.96**2, float("inf"))
    return None


def _exact(difference: float) -> float:
    return 1.0 if difference == 0 else 0.0


def _student(difference: float, error: float, freedom: float) -> float:
    if not np.isfinite(error):  # one user, or a metric undefined for one side: nothing can be said
        return 1.0
    # Without spread the rows agree for every user, or differ by the same amount for every user.
    if not error:
        return _exact(difference)
    ratio = -abs(difference) / error
    return float(2 * (stdtr(freedom, ratio) if np.isfinite(freedom) else ndtr(ratio)))


def ranks(rows: Sequence[Evidence], higher_is_better: bool, digits: int = 12) -> list[int]:
    """Rank of each row by the module's rule. Numbers that print alike with ``digits`` digits are equal."""
    pairs = list(combinations(range(len(rows)), 2))
    shown = [round(row.value if higher_is_better else -row.value, digits) for row in rows]
    p = holm([1.0 if shown[i] == shown[j] else p_value(rows[i], rows[j]) for i, j in pairs])
    found = [1] * len(rows)
    for (i, j), adjusted in zip(pairs, p, strict=True):
        if adjusted <= LEVEL:
            found[i if shown[i] < shown[j] else j] += 1
    return found


def marks(found: Sequence[int]) -> list[str]:
    """A mark per row from the ranks of a column: "best" for rank 1, "second" for the next rank, "" for the rest.

    A column of fewer than two rows has no marks.
    """
    if len(found) < 2:
        return [""] * len(found)
    following = min((rank for rank in found if rank > 1), default=0)
    return [BEST if rank == 1 else SECOND if rank == following else "" for rank in found]
