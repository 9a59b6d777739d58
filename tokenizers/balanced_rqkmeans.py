"""Balanced RQ-KMeans: residual k-means whose clusters are equally large at every level.

OneRec (arXiv 2502.18965, Algorithm 1). Levels as in RQ-KMeans: ``C_p`` from the residuals ``r_{p-1}``,
``c_p = argmin_k ||r_{p-1} - C_p[k]||^2 + price_p[k]``, ``r_p = r_{p-1} - C_p[c_p]``, ``e_hat = sum_p C_p[c_p]``.

``balance="capacity"`` is OneRec's algorithm: with capacity ``w = N / K``, clusters take turns; each takes its ``w``
nearest rows that are still free and moves to their mean, until nothing changes. ``balance="constrained"`` is the variant
of MiniOneRec (arXiv 2510.24431): Lloyd with the cheapest assignment whose sizes lie in ``[N // K - 1, N // K + 1]``.

Both partitions only exist for the fitted items. One price per centre turns them into a rule for single items (see
``blocks/clustering/kmeans.py``): nothing is stored per item and any item is encoded alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.clustering.bounded_kmeans import bounded_assignment, bounded_kmeans
from sidbench.tokenizers.blocks.clustering.kmeans import assign, balanced_kmeans, balancing_prices
from sidbench.tokenizers.blocks.quantisers.behaviour_tuning import TunedCodebooks, TuningConfig
from sidbench.tokenizers.blocks.quantisers.residual_kmeans import Level
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS

INFO = TokenizerInfo(
    title="Balanced RQ-KMeans: residual k-means with equal clusters (OneRec)",
    version=1,
    paper="OneRec, arXiv 2502.18965, Algorithm 1; MiniOneRec, arXiv 2510.24431",
    year=2025,
    url="https://arxiv.org/abs/2502.18965",
    bibtex="@misc{onerec2025,\n"
    "  title={OneRec: Unifying Retrieve and Rank with Generative Recommender and Iterative Preference Alignment},\n"
    "  year={2025}, eprint={2502.18965}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2502.18965}}",
    modalities=("text", "vision", "sequences"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "Default inputs are the raw content embeddings; inputs=behaviour_tuned tunes them on behaviour first.",
        "Capacities differ by at most one where N is no multiple of K; clusters take turns in random order; the pass of "
        "least error is kept, since passes need not converge.",
        "Items are encoded by distance plus a price per centre: after balance=capacity sizes are equal up to a few "
        "items, after balance=constrained they keep their bounds, except that equal items stay together.",
        "balance=constrained starts from one k-means run instead of three; above 2,000 items the sizes of iterations "
        "before the last are within the bounds up to a few items.",
        "With behaviour-tuned inputs there is no reconstruction, since the codes approximate the tuned embedding.",
    ),
)


@dataclass(frozen=True)
class BalancedRqKMeansConfig(TuningConfig):
    """Settings of balanced RQ-KMeans."""

    balance: str = setting(
        "capacity",
        "OneRec's capacity passes, or the cheapest assignment within size bounds",
        choices=("capacity", "constrained"),
        paper="capacity",
        sweep=("capacity", "constrained"),
    )
    iterations: int = setting(
        100,
        "most passes (capacity) or bounded Lloyd iterations (constrained) per level",
        unit="iterations",
        low=1,
        high=10_000,
        paper=100,
    )


class BalancedRqKMeans(TunedCodebooks):
    """Balanced RQ-KMeans; ``centres_ [L, K, D]``, ``prices_ [L, K]``, ``tuned_`` the projection."""

    info = INFO
    config_class = BalancedRqKMeansConfig
    budgets = {
        "smoke": {**NEURAL_BUDGETS["smoke"], "iterations": 5},
        "quick": {**NEURAL_BUDGETS["quick"], "iterations": 10},
        "standard": {**NEURAL_BUDGETS["standard"], "iterations": 100},
        "paper": {**NEURAL_BUDGETS["paper"], "iterations": 100, "inputs": "behaviour_tuned"},
    }

    def fit_level(self, residual: Tensor, rng: Rng, runtime: Runtime) -> Level:
        c: BalancedRqKMeansConfig = self.config
        k, n = c.codebook_size, len(residual)
        if c.balance == "capacity":
            centres = balanced_kmeans(residual, k, rng, runtime, passes=c.iterations).centres
            prices = balancing_prices(residual, centres)
        else:
            low, high = max(n // k - 1, 0), n // k + 1
            centres = bounded_kmeans(residual, k, low, high, rng, runtime, iterations=c.iterations).centres
            prices = bounded_assignment(residual, centres, low, high)[1]
        codes = assign(residual, centres, prices=prices)[0]
        share = torch.bincount(codes, minlength=k).double() / n
        gap = math.log(k) + float(torch.special.xlogy(share, share).sum())
        self._diagnostics["largest_entropy_gap"] = max(self._diagnostics.get("largest_entropy_gap", 0.0), gap)
        return Level(centres, codes, prices)
