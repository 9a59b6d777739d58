"""Verdicts on made-up results with planted differences, against an independent t-test and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sidbench.datasets.foundation.seeds import Rng
from sidbench.leaderboards.reproduction.evidence import Estimate, contrast
from sidbench.leaderboards.reproduction.verdicts import (
    ALIKE,
    CONTRADICTED,
    EACH,
    MEAN,
    NOT_SEPARABLE,
    NOT_TESTABLE,
    SUPPORTED,
    Hypothesis,
    judge,
)

USERS = 2_000


def _known(rates: list[float], shared: np.ndarray, name: str) -> Estimate:
    """Seeds of a row whose users hit with probability ``rate``; rows share part of the luck of each user."""
    generator = Rng(7).child(name).numpy()
    runs = [np.where(generator.random(USERS) < 0.5, shared, generator.random(USERS)) < rate for rate in rates]
    values = [float(r.mean()) for r in runs]
    influence = np.mean([(r - r.mean()) / USERS for r in runs], axis=0)
    return Estimate(float(np.mean(values)), tuple(values), USERS, 0.02, influence)


@pytest.fixture
def rows() -> dict[str, Estimate]:
    shared = Rng(1).numpy().random(USERS)
    rates = {"high": [0.40, 0.41, 0.40], "middle": [0.30, 0.30, 0.31], "like": [0.30, 0.30, 0.30], "low": [0.2, 0.21, 0.2]}
    return {name: _known(r, shared, name) for name, r in rates.items()}


def _claim(rule: str, left: tuple[str, ...], right: tuple[str, ...], margin: float = 0.0) -> Hypothesis:
    return Hypothesis("id", "claim", "source", "2", "R@100", rule, left, right, margin)


def _one(claim: Hypothesis, rows: dict[str, Estimate]) -> str:
    return judge([claim], lambda _, row: rows.get(row, "no run of ours"))[0].verdict


def test_planted_differences_are_found_and_equal_rows_are_not(rows: dict[str, Estimate]) -> None:
    assert _one(_claim(EACH, ("high",), ("middle", "low")), rows) == SUPPORTED
    assert _one(_claim(EACH, ("low",), ("middle",)), rows) == CONTRADICTED
    assert _one(_claim(EACH, ("middle",), ("like",)), rows) == NOT_SEPARABLE
    assert _one(_claim(EACH, ("high",), ("absent",)), rows) == NOT_TESTABLE


def test_one_wrong_pair_decides_a_claim_about_each(rows: dict[str, Estimate]) -> None:
    assert _one(_claim(EACH, ("middle",), ("low", "high")), rows) == CONTRADICTED
    found = judge([_claim(EACH, ("middle",), ("low", "like"))], lambda _, row: rows[row])[0]
    assert found.verdict == NOT_SEPARABLE and found.pair == "middle - like"


def test_a_claim_about_means_weighs_every_row_once(rows: dict[str, Estimate]) -> None:
    found = judge([_claim(MEAN, ("high", "low"), ("middle",))], lambda _, row: rows[row])[0]
    assert found.difference == pytest.approx((rows["high"].value + rows["low"].value) / 2 - rows["middle"].value)
    assert _one(_claim(MEAN, ("high", "middle"), ("like", "low")), rows) == SUPPORTED


def test_alike_needs_evidence_of_likeness(rows: dict[str, Estimate]) -> None:
    assert _one(_claim(ALIKE, ("middle", "like"), (), 0.3), rows) == SUPPORTED
    assert _one(_claim(ALIKE, ("middle", "like"), (), 0.0001), rows) == NOT_SEPARABLE
    assert _one(_claim(ALIKE, ("middle", "like", "high"), (), 0.05), rows) == CONTRADICTED


def test_holm_over_the_list_makes_a_borderline_claim_fail() -> None:
    """z = 2.2 has p = .028: alone significant, not beside two others without effect (.028 * 3 > .05)."""
    influence = np.tile([1.0, -1.0], 50)
    error = float(np.sqrt((influence**2).sum() * 100 / 99))
    edge = Estimate(2.2 * error, (2.2 * error,), 100, 1.0, influence)
    zero = Estimate(0.0, (0.0,), 100, 1.0, np.zeros(100))
    tiny = Estimate(0.1 * error, (0.1 * error,), 100, 1.0, influence)
    claims = [_claim(EACH, (name,), ("zero",)) for name in ("edge", "tiny", "tiny")]
    rows = {"edge": edge, "zero": zero, "tiny": tiny}
    assert judge(claims[:1], lambda _, r: rows[r])[0].verdict == SUPPORTED
    assert [v.verdict for v in judge(claims, lambda _, r: rows[r])] == [NOT_SEPARABLE] * 3


def test_seeds_alone_give_welchs_test() -> None:
    a, b = (0.51, 0.55, 0.53, 0.5), (0.42, 0.47, 0.40)
    found = contrast([Estimate(float(np.mean(a)), a, 10)], [Estimate(float(np.mean(b)), b, 10)])
    oracle = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(oracle.pvalue)
    interval = oracle.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_one_seed_of_a_sid_metric_is_not_testable() -> None:
    known = {"a": Estimate(4.4, (4.4,), 100), "b": Estimate(4.1, (4.1, 4.2), 100)}
    found = judge([_claim(EACH, ("a",), ("b",))], lambda _, r: known[r])[0]
    assert found.verdict == NOT_TESTABLE and "two seeds" in found.reason and found.difference == pytest.approx(0.3)


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    """Two rows that differ by one user in a hundred: paired the difference is exact, unpaired it drowns."""
    luck = np.tile([1.0, 0.0], 500)
    better = luck.copy()
    better[1:100:10] = 1.0
    rows = [Estimate(float(v.mean()), (float(v.mean()),), 1000, 0.031, (v - v.mean()) / 1000) for v in (better, luck)]
    paired = contrast(rows[:1], rows[1:])
    blind = contrast(*([Estimate(k.value, k.seeds, k.n, k.half_width)] for k in rows))
    assert paired.p < 0.01 < 0.4 < blind.p
    assert paired.paired and not blind.paired and blind.difference == pytest.approx(0.01)


def test_intervals_cover_at_their_level() -> None:
    """Simulated rows with users and three seeds: the 95 % interval holds the truth about as often as it says."""
    generator, inside, rounds = Rng(3).child("coverage").numpy(), 0, 400
    for _ in range(rounds):
        sides = []
        for _ in range(2):
            shift = generator.normal(0, 0.02, 3)
            users = generator.normal(0, 1, 400)
            values = tuple(float(users.mean() + s) for s in shift)
            sides.append([Estimate(float(np.mean(values)), values, 400, 0.1, (users - users.mean()) / 400)])
        found = contrast(*sides)
        inside += found.low <= 0 <= found.high
    assert 0.92 <= inside / rounds <= 0.985


def test_the_order_of_users_and_rows_does_not_matter(rows: dict[str, Estimate]) -> None:
    there, back = contrast([rows["high"]], [rows["low"]]), contrast([rows["low"]], [rows["high"]])
    assert there.p == back.p and there.difference == -back.difference and there.low == pytest.approx(-back.high)
