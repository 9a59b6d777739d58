"""Where codebooks start: random rows, k-means, k-means on the sphere, k-means with bounded cluster sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.clustering.bounded_kmeans import bounded_kmeans
from sidbench.tokenizers.blocks.clustering.kmeans import cluster_means, kmeans

Start = Callable[[Tensor, int, Rng, Runtime], Tensor]


def random_rows(x: Tensor, size: int, rng: Rng, runtime: Runtime) -> Tensor:
    """``K`` different rows of x ``[N, d]``."""
    rows = rng.child("rows").numpy().choice(len(x), size=size, replace=False)
    return x[torch.as_tensor(rows, device=x.device)].clone()


def kmeans_centres(x: Tensor, size: int, rng: Rng, runtime: Runtime) -> Tensor:
    """k-means centres ``[K, d]`` of rows ``[N, d]``."""
    return kmeans(x, size, rng, runtime).centres


def spherical_means(x: Tensor, size: int, rng: Rng, runtime: Runtime) -> Tensor:
    """Clusters by angle; each centre is the mean of its rows, so that it also has their length."""
    codes = kmeans(x, size, rng, runtime, spherical=True).codes
    return cluster_means(x, codes, size)


def constrained_centres(x: Tensor, size: int, rng: Rng, runtime: Runtime) -> Tensor:
    """k-means whose clusters hold between half and twice the even share of the rows, as LETTER's sizes do."""
    low = len(x) // (2 * size)
    return bounded_kmeans(x, size, low, max(4 * low, -(-2 * len(x) // size)), rng, runtime).centres


STARTS: Mapping[str, Start] = {
    "random": random_rows,
    "kmeans": kmeans_centres,
    "spherical": spherical_means,
    "constrained": constrained_centres,
}
