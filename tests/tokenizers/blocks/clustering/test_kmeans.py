"""k-means: hand-worked cases, parity with scikit-learn and faiss, balance, prices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.clustering.kmeans import (
    assign,
    balanced_capacities,
    balanced_kmeans,
    balancing_prices,
    kmeans,
    update_centres,
)

RUNTIME = local_runtime()


def blobs(n: int = 600, width: int = 8, centres: int = 12, seed: int = 0, spread: float = 0.3) -> Tensor:
    draw = np.random.default_rng(seed)
    means = 2 * draw.standard_normal((centres, width))
    rows = means[draw.integers(centres, size=n)] + spread * draw.standard_normal((n, width))
    return torch.from_numpy(rows.astype(np.float32))


def test_two_clusters_by_hand() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    result = kmeans(x, 2, Rng(0), RUNTIME)
    assert sorted(result.centres[:, 0].tolist()) == [0.5, 11.0]
    assert result.inertia == pytest.approx(0.25 + 0.25 + 1 + 1)
    assert result.codes[0] == result.codes[1] != result.codes[2]


def test_assign_is_the_nearest_centre_whatever_the_chunk() -> None:
    x, centres = blobs(101), blobs(7, seed=1)
    distances = ((x[:, None] - centres[None]) ** 2).sum(2)
    for chunk in (1, 10, 101, None):
        codes, error = assign(x, centres, chunk)
        assert torch.equal(codes, distances.argmin(1))
        torch.testing.assert_close(error, distances.min(1).values, atol=1e-4, rtol=1e-4)


def test_price_moves_the_border() -> None:
    x, centres = torch.tensor([[0.4], [0.6]]), torch.tensor([[0.0], [1.0]])
    assert assign(x, centres)[0].tolist() == [0, 1]
    assert assign(x, centres, prices=torch.tensor([0.5, 0.0]))[0].tolist() == [1, 1]


def test_same_centres_as_scikit_learn_from_the_same_start() -> None:
    x = blobs()
    start = x[torch.from_numpy(np.random.default_rng(3).choice(len(x), 12, replace=False))]
    ours = kmeans(x, 12, Rng(0), RUNTIME, init=start, iterations=200, tolerance=0.0)
    theirs = KMeans(12, init=start.numpy(), n_init=1, max_iter=200, tol=0).fit(x.numpy())
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4)
    np.testing.assert_allclose(ours.centres.numpy(), theirs.cluster_centers_, atol=1e-4)


def test_inertia_is_no_worse_than_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32))
    theirs = faiss.Kmeans(16, 32, niter=25, seed=1, max_points_per_centroid=10**6)
    theirs.train(x.numpy())
    bound = float(assign(x, torch.from_numpy(theirs.centroids))[1].sum())
    ours = np.mean([kmeans(x, 32, Rng(seed), RUNTIME, iterations=25).inertia for seed in range(3)])
    assert ours < 1.01 * bound


def test_inertia_never_rises_over_iterations() -> None:
    x = blobs(spread=1.5)
    values = [kmeans(x, 20, Rng(1), RUNTIME, iterations=i, tolerance=0.0, init="random").inertia for i in range(8)]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in zip(values, values[1:], strict=False))
    assert values[-1] < 0.9 * values[0]


def test_same_seed_same_codes_other_seed_other_start() -> None:
    x = blobs(spread=2.0)
    first, second = kmeans(x, 20, Rng(5), RUNTIME), kmeans(x, 20, Rng(5), RUNTIME)
    assert torch.equal(first.centres, second.centres)
    assert not torch.equal(first.centres, kmeans(x, 20, Rng(6), RUNTIME).centres)


def test_empty_cluster_moves_to_the_worst_row() -> None:
    x = torch.tensor([[0.0], [1.0], [9.0]])
    centres = torch.tensor([[0.5], [100.0]])
    codes, error = assign(x, centres)
    assert codes.tolist() == [0, 0, 0]
    moved = update_centres(x, codes, centres, error)
    assert moved[:, 0].tolist() == [0.5, 9.0]


def test_every_cluster_is_used_from_a_start_on_one_spot() -> None:
    x = blobs(200, spread=1.0)
    result = kmeans(x, 16, Rng(0), RUNTIME, init=torch.zeros(16, 8), iterations=50)
    assert len(torch.unique(result.codes)) == 16


def test_spherical_ignores_length() -> None:
    draw = np.random.default_rng(0)
    angles = np.concatenate([draw.normal(a, 0.05, 50) for a in (0.0, 1.5, 3.0)])
    lengths = draw.uniform(0.1, 50, 150)
    x = torch.from_numpy((np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]).astype(np.float32))
    result = kmeans(x, 3, Rng(0), RUNTIME, spherical=True)
    assert sorted(torch.bincount(result.codes).tolist()) == [50, 50, 50]
    torch.testing.assert_close(result.centres.norm(dim=1), torch.ones(3))


def test_one_cluster_is_the_mean_and_equal_rows_are_no_trouble() -> None:
    x = blobs(50)
    torch.testing.assert_close(kmeans(x, 1, Rng(0), RUNTIME).centres[0], x.mean(0))
    same = kmeans(torch.ones(10, 3), 4, Rng(0), RUNTIME)
    assert same.inertia == pytest.approx(0)
    assert bool(torch.isfinite(same.centres).all())


def test_bad_input_is_refused() -> None:
    x = blobs(10)
    with pytest.raises(InputError, match="wanted 1 to the 10 rows"):
        kmeans(x, 11, Rng(0), RUNTIME)
    x[3, 0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        balanced_kmeans(x, 2, Rng(0), RUNTIME)
    with pytest.raises(InputError, match="init"):
        kmeans(blobs(10), 2, Rng(0), RUNTIME, init="centre")


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 12), seed=st.integers(0, 5))
def test_balanced_sizes_differ_by_at_most_one(n: int, k: int, seed: int) -> None:
    k = min(k, n)
    result = balanced_kmeans(blobs(n, 3, seed=seed), k, Rng(seed), RUNTIME, passes=3)
    sizes = torch.bincount(result.codes, minlength=k).numpy()
    assert sorted(sizes) == sorted(balanced_capacities(n, k))
    assert sizes.max() - sizes.min() <= 1


def test_balanced_keeps_its_best_pass_and_its_centres_are_means() -> None:
    x = blobs(300, spread=1.0)
    values = [balanced_kmeans(x, 10, Rng(0), RUNTIME, passes=p).inertia for p in (1, 3, 10, 30)]
    assert all(later <= earlier for earlier, later in zip(values, values[1:], strict=False))
    result = balanced_kmeans(x, 10, Rng(0), RUNTIME, passes=10)
    means = torch.stack([x[result.codes == k].mean(0) for k in range(10)])
    torch.testing.assert_close(result.centres, means)


def test_prices_balance_single_row_assignment_at_no_higher_cost() -> None:
    x = blobs(2000, 6, spread=1.0)
    balanced = balanced_kmeans(x, 20, Rng(0), RUNTIME, passes=20)
    codes = assign(x, balanced.centres, prices=balancing_prices(x, balanced.centres))[0]
    share = torch.bincount(codes, minlength=20).double() / len(x)
    assert float(-(share * share.log()).sum()) >= math.log(20) - 1e-3
    unpriced = torch.bincount(assign(x, balanced.centres)[0], minlength=20).double() / len(x)
    assert float(-(unpriced * unpriced.log()).sum()) < math.log(20) - 1e-2  # so the prices do the work
    cost = float(((x - balanced.centres[codes]) ** 2).sum())
    assert cost <= 1.02 * balanced.inertia
