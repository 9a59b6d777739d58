"""RQ-KMeans: residual k-means on content or on behaviour-tuned embeddings.

OneRec (arXiv 2502.18965), QARM (arXiv 2411.11739). ``r_0 = e``; for every position ``C_p = kmeans(r_{p-1}, K)``,
``c_p = argmin_k ||r_{p-1} - C_p[k]||^2``, ``r_p = r_{p-1} - C_p[c_p]``; ``e_hat = sum_p C_p[c_p]``. Levels are fitted
one after another. Equal cluster sizes are a plugin of their own, ``balanced_rqkmeans``.

``inputs="behaviour_tuned"`` first fine-tunes ``f(e) = LayerNorm(W e + b)`` with in-batch InfoNCE on items that are
neighbours in training sequences, as QARM does and as the RQ-KMeans of the MMQ-v2 paper (arXiv 2510.25622) is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.blocks.clustering.kmeans import kmeans
from sidbench.tokenizers.blocks.quantisers.behaviour_tuning import TunedCodebooks, TuningConfig
from sidbench.tokenizers.blocks.quantisers.residual_kmeans import Level
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS

INFO = TokenizerInfo(
    title="RQ-KMeans: residual k-means",
    version=1,
    paper="OneRec, arXiv 2502.18965; QARM, arXiv 2411.11739",
    year=2024,
    url="https://arxiv.org/abs/2411.11739",
    bibtex="@misc{qarm2024,\n"
    "  title={QARM: Quantitative Alignment Multi-Modal Recommendation at Kuaishou}, year={2024},\n"
    "  eprint={2411.11739}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2411.11739}}",
    modalities=("text", "vision", "sequences"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "Default inputs are the raw content embeddings; inputs=behaviour_tuned gives the variant of QARM and MMQ-v2.",
        "Behaviour tuning: LayerNorm of one linear map to 256 dimensions, InfoNCE with temperature 0.07 on pairs at "
        "most 3 steps apart in a training sequence; QARM's own pair mining is not public.",
        "With behaviour-tuned inputs there is no reconstruction, since the codes approximate the tuned embedding.",
    ),
)


@dataclass(frozen=True)
class RqKMeansConfig(TuningConfig):
    """Settings of RQ-KMeans."""

    iterations: int = setting(100, "most Lloyd iterations per level", unit="iterations", low=1, high=10_000, paper=100)


class RqKMeans(TunedCodebooks):
    """RQ-KMeans; ``centres_ [L, K, D]``, ``prices_ [L, K]`` (zeros), ``tuned_`` the projection."""

    info = INFO
    config_class = RqKMeansConfig
    budgets = {
        "smoke": {**NEURAL_BUDGETS["smoke"], "iterations": 10},
        "quick": {**NEURAL_BUDGETS["quick"], "iterations": 50},
        "standard": {**NEURAL_BUDGETS["standard"], "iterations": 100},
        "paper": {**NEURAL_BUDGETS["paper"], "iterations": 100, "inputs": "behaviour_tuned"},
    }

    def fit_level(self, residual: Tensor, rng: Rng, runtime: Runtime) -> Level:
        c: RqKMeansConfig = self.config
        found = kmeans(residual, c.codebook_size, rng, runtime, iterations=c.iterations)
        return Level(found.centres, found.codes)
