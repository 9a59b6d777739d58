"""Size-bounded k-means: optimal by an independent solver, exact prices, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.clustering.bounded_kmeans import bounded_assignment, bounded_kmeans
from sidbench.tokenizers.blocks.clustering.kmeans import assign, kmeans

RUNTIME = local_runtime()


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Rows of very different density, so that plain clusters differ in size."""
    draw = np.random.default_rng(seed)
    return torch.as_tensor(draw.standard_normal((n, d)) * draw.random((n, 1)) ** 3, dtype=torch.float32)


def hungarian_cost(x: torch.Tensor, centres: torch.Tensor, low: int, high: int) -> float:
    """Least total squared distance: ``low`` slots of each cluster must be filled, ``high - low`` may be."""
    distances = ((x[:, None] - centres[None]) ** 2).sum(-1).double().numpy()
    prize = 1e4
    slots = np.concatenate([np.repeat(distances, low, 1) - prize, np.repeat(distances, high - low, 1)], 1)
    i, j = linear_sum_assignment(slots)
    return float(slots[i, j].sum() + prize * low * len(centres))


def cost(x: torch.Tensor, centres: torch.Tensor, codes: torch.Tensor) -> float:
    return float((x - centres[codes]).double().square().sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 60), st.integers(1, 6), st.integers(0, 3), st.integers(0, 6), st.integers(0, 99))
def test_assignment_is_optimal_within_its_bounds(n: int, k: int, below: int, above: int, seed: int) -> None:
    k = min(k, n)
    low, high = max(0, n // k - below), -(-n // k) + above
    x = rows(n, 3, seed)
    centres = x[:k] * 1.5
    codes, prices = bounded_assignment(x, centres, low, high)
    sizes = torch.bincount(codes, minlength=k)
    assert int(sizes.min()) >= low
    assert int(sizes.max()) <= high
    assert cost(x, centres, codes) == pytest.approx(hungarian_cost(x, centres, low, high), rel=1e-5, abs=1e-6)
    priced = ((x[:, None] - centres[None]).double() ** 2).sum(-1) + prices
    own, least = priced[torch.arange(n), codes], priced.min(1).values
    assert float((own - least).max()) <= 1e-6 * float(priced.abs().max())  # the same codes, up to float32 ties


def test_price_steps_and_shortest_paths_give_the_optimum_together(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(400, 4)
    centres = kmeans(x, 12, Rng(0), RUNTIME, iterations=5).centres
    monkeypatch.setattr("sidbench.tokenizers.blocks.clustering.bounded_kmeans.SMALL_ROWS", 0)
    codes, prices = bounded_assignment(x, centres, 30, 36)
    assert cost(x, centres, codes) == pytest.approx(hungarian_cost(x, centres, 30, 36), rel=1e-6)
    torch.testing.assert_close(assign(x, centres, prices=prices)[0], codes)
    again = bounded_assignment(x, centres, 30, 36, prices=prices)[0]
    torch.testing.assert_close(again, codes)


def test_loose_bounds_change_nothing() -> None:
    x = rows(200, 3)
    centres = kmeans(x, 5, Rng(0), RUNTIME).centres
    torch.testing.assert_close(bounded_assignment(x, centres, 0, 200)[0], assign(x, centres)[0])


def test_hand_worked_line() -> None:
    """0, 1, 2, 10 and centres 0, 10, two each: 2 is the cheapest to leave (8^2 - 2^2 = 60, against 80 and 100)."""
    x = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert bounded_assignment(x, torch.tensor([[0.0], [10.0]]), 2, 2)[0].tolist() == [0, 0, 1, 1]


def test_equal_rows_are_divided_and_prices_are_finite() -> None:
    codes, prices = bounded_assignment(torch.ones(9, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]]), 3, 3)
    assert torch.bincount(codes).tolist() == [3, 3, 3]
    assert bool(torch.isfinite(prices).all())


def test_kmeans_keeps_bounds_and_centres_are_means() -> None:
    x = rows(300, 4)
    result = bounded_kmeans(x, 10, 25, 40, Rng(0), RUNTIME)
    sizes = torch.bincount(result.codes, minlength=10)
    assert 25 <= int(sizes.min()) <= int(sizes.max()) <= 40
    for cluster in range(10):
        torch.testing.assert_close(result.centres[cluster], x[result.codes == cluster].mean(0), atol=1e-5, rtol=1e-4)
    assert result.inertia == pytest.approx(cost(x, result.centres, result.codes), rel=1e-5)
    again = bounded_kmeans(x, 10, 25, 40, Rng(0), RUNTIME)
    torch.testing.assert_close(again.codes, result.codes)


@pytest.mark.parametrize(("low", "high"), [(4, 10), (0, 1), (3, 2), (-1, 9)])
def test_impossible_bounds_are_refused(low: int, high: int) -> None:
    with pytest.raises(InputError, match="wanted"):
        bounded_kmeans(rows(10, 2), 3, low, high, Rng(0), RUNTIME)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_of_the_first_assignment_is_repaired(seed: int) -> None:
    """Far from the origin float32 distances are mostly rounding: the start is not optimal and has cycles that lower it."""
    x = 300 + rows(60, 3, seed)
    centres = x[:6] + 0.01 * rows(6, 3, seed + 100)
    codes, _ = bounded_assignment(x, centres, 5, 14)
    sizes = torch.bincount(codes, minlength=6)
    assert int(sizes.min()) >= 5 and int(sizes.max()) <= 14
    assert cost(x, centres, codes) == pytest.approx(hungarian_cost(x, centres, 5, 14), rel=1e-6)
