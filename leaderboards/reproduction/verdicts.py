"""Claims of papers as data, and what the statistics say of each: supported, contradicted, not separable, not testable.

Every claim gives one p-value. "each": where all differences have the claimed sign, the largest of their p-values (all
of them must hold); otherwise the smallest of the wrong ones times the number of pairs. "mean": that of one contrast.
"alike": two one-sided tests, the largest over all pairs; a pair beyond the margin contradicts. Holm's correction over
the claims that are tested together, level 5 %. Nothing here looks at the published numbers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import combinations, product
from typing import Any

from sidbench.leaderboards.reproduction.evidence import Contrast, Estimate, contrast
from sidbench.leaderboards.statistics.holm import LEVEL, holm

SUPPORTED, CONTRADICTED, NOT_SEPARABLE, NOT_TESTABLE = "supported", "contradicted", "not separable", "not testable"
EACH, MEAN, ALIKE = "each", "mean", "alike"


@dataclass(frozen=True)
class Hypothesis:
    """One claim. number: its table, or "figure 5". metric: a published column or a metric name of ours. rule, left, right,
    margin: see ``hypotheses.toml``."""

    id: str
    claim: str
    source: str
    number: str
    metric: str
    rule: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    margin: float = 0.0

    @property
    def rows(self) -> tuple[str, ...]:
        """Every row that the claim speaks of."""
        return tuple(dict.fromkeys((*self.left, *self.right)))


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim. p: adjusted, ``None`` when not testable. difference, low, high: of the weakest pair
    ("each"), the contrast ("mean") or the widest pair ("alike"). pair: which rows that is. reason: of a claim that cannot
    be tested, or a doubt that the test does not hold."""

    hypothesis: Hypothesis
    verdict: str
    p: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    pair: str = ""
    reason: str = ""


@cache
def hypotheses(paper: str) -> tuple[Hypothesis, ...]:
    """The claims on file for a paper."""
    text = (resources.files(__package__) / "hypotheses.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text).get(paper, [])
    plain: list[dict[str, Any]] = [{k: tuple(v) if isinstance(v, list) else v for k, v in e.items()} for e in entries]
    return tuple(Hypothesis(**fields) for fields in plain)


def judge(claims: Sequence[Hypothesis], known: Callable[[Hypothesis, str], Estimate | str]) -> tuple[Verdict, ...]:
    """A verdict for every claim, in order; p-values are adjusted over those that can be tested.

    known: what the records hold of a claim's metric in a row, or why there is nothing.
    """
    raw = [_judge(claim, {row: known(claim, row) for row in claim.rows}) for claim in claims]
    tested = [i for i, v in enumerate(raw) if v.p is not None]
    adjusted = dict(zip(tested, holm([raw[i].p or 0.0 for i in tested]), strict=True))
    return tuple(
        v if i not in adjusted else replace(v, p=adjusted[i], verdict=v.verdict if adjusted[i] <= LEVEL else NOT_SEPARABLE)
        for i, v in enumerate(raw)
    )


def _judge(claim: Hypothesis, found: Mapping[str, Estimate | str]) -> Verdict:
    """The verdict before adjustment: direction of the evidence and its p-value."""
    numbers = {row: k for row, k in found.items() if isinstance(k, Estimate)}
    reasons = dict.fromkeys(f"{row}: {why}" for row, why in found.items() if isinstance(why, str))
    if reasons:
        return Verdict(claim, NOT_TESTABLE, reason="; ".join(reasons))
    pairs = _pairs(claim, numbers)
    problems = dict.fromkeys(c.problem for _, c in pairs if c.problem)
    if problems:
        pair, worst = min(pairs, key=lambda p: p[1].difference)
        return Verdict(claim, NOT_TESTABLE, difference=worst.difference, pair=pair, reason="; ".join(problems))
    doubts = {
        "one seed a row: the spread over trainings is unknown and not part of the interval": any(
            c.one_seed for _, c in pairs
        ),
        "per-user results lack what this metric needs: judged as if rows shared no users": any(
            not c.paired for _, c in pairs
        ),
    }
    doubt = "; ".join(words for words, holds in doubts.items() if holds)
    if claim.rule == ALIKE:
        return _alike(claim, pairs, max(k.value for k in numbers.values()), doubt)
    wrong = [(pair, c) for pair, c in pairs if c.difference <= 0]
    if not wrong:
        pair, weakest = max(pairs, key=lambda p: p[1].p)
        return _verdict(claim, SUPPORTED, weakest.p, pair, weakest, doubt)
    pair, worst = min(wrong, key=lambda p: p[1].p)
    return _verdict(claim, CONTRADICTED, min(1.0, worst.p * len(pairs)), pair, worst, doubt)


def _pairs(claim: Hypothesis, numbers: Mapping[str, Estimate]) -> list[tuple[str, Contrast]]:
    """The contrasts of a claim, each with its rows."""
    if claim.rule == MEAN:
        words = f"mean of {', '.join(claim.left)} - mean of {', '.join(claim.right)}"
        return [(words, contrast([numbers[r] for r in claim.left], [numbers[r] for r in claim.right]))]
    pairs = combinations(claim.left, 2) if claim.rule == ALIKE else product(claim.left, claim.right)
    return [(f"{a} - {b}", contrast([numbers[a]], [numbers[b]])) for a, b in pairs]


def _alike(claim: Hypothesis, pairs: Sequence[tuple[str, Contrast]], largest: float, doubt: str) -> Verdict:
    reach = claim.margin * largest
    pair, widest = max(pairs, key=lambda p: abs(p[1].difference))
    doubt = "; ".join(p for p in (f"margin ±{reach:.4f}", doubt) if p)
    inside = max(max(c.p_above(-reach), c.p_below(reach)) for _, c in pairs)
    beyond = min(1.0, 2 * len(pairs) * min(min(c.p_above(reach), c.p_below(-reach)) for _, c in pairs))
    if beyond < inside:
        return _verdict(claim, CONTRADICTED, beyond, pair, widest, doubt)
    return _verdict(claim, SUPPORTED, inside, pair, widest, doubt)


def _verdict(claim: Hypothesis, verdict: str, p: float, pair: str, found: Contrast, doubt: str) -> Verdict:
    return Verdict(claim, verdict, p, found.difference, found.low, found.high, pair, doubt)
