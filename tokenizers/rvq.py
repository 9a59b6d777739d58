"""R-VQ: residual vector quantisation whose codebooks are learned by gradient steps, one level after another.

GRID (arXiv 2507.22224). An RQ-VAE whose encoder and decoder are the identity: with frozen inputs only
``||sg[r_{p-1}] - C_p[c_p]||^2`` acts. Levels are trained one after another, each from k-means++ on a buffer of rows.

``optimiser="count_sgd"``: stochastic gradient descent of rate 1/2 on the loss above, each code's squared error weighted by
``n_k / N_k`` over batch mean (``n_k`` rows of the batch, ``N_k`` rows so far chose code ``k``). One step is

    C_k <- C_k - (n_k / N_k) (C_k - mean of the batch's rows of k),

the update of mini-batch k-means (Sculley 2010). ``optimiser="adamw"``: the plain mean squared error by AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.clustering.kmeans import assign, kmeans
from sidbench.tokenizers.blocks.quantisers.residual_kmeans import Level, ResidualCodebooks
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches

INFO = TokenizerInfo(
    title="R-VQ: residual vector quantisation by gradient steps (GRID)",
    version=1,
    paper="GRID, arXiv 2507.22224",
    year=2025,
    url="https://arxiv.org/abs/2507.22224",
    bibtex="@misc{grid2025,\n"
    "  title={Generative Recommendation with Semantic IDs: A Practitioner's Handbook}, year={2025},\n"
    "  eprint={2507.22224}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2507.22224}}",
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "The released configuration names no optimiser: the default is SGD 0.5 with count weights (mini-batch k-means); "
        "optimiser=adamw is the other reading, with AdamW 1e-2 and cosine on residuals of unit scale for the "
        "Adagrad 1e-3 of GRID's RQ-VAE.",
        "Six levels of 100 codes by default instead of three of 256; the steps are divided evenly among the levels.",
        "The k-means++ seeding is the greedy kind, with 2 + ln K candidates per centre.",
    ),
)
BUFFER_ROWS = 3072


@dataclass(frozen=True)
class RvqConfig(TokenizerConfig):
    """Settings of R-VQ."""

    optimiser: str = setting(
        "count_sgd", "SGD 0.5 with count weights, or AdamW", choices=("count_sgd", "adamw"), sweep=("count_sgd", "adamw")
    )
    steps: int = setting(3000, "steps of all levels together", unit="steps", low=1, high=10_000_000, paper=3000)
    batch_size: int = setting(2048, "items a step", unit="items", low=1, high=1_000_000, paper=2048)
    learning_rate: float = setting(1e-2, "of AdamW; count_sgd has none", low=1e-8, high=1, paper=1e-3, sweep=(1e-3, 1e-1))


class Rvq(ResidualCodebooks):
    """R-VQ; ``centres_ [L, K, D]``, ``prices_ [L, K]`` (zeros)."""

    info = INFO
    config_class = RvqConfig
    budgets = {
        "smoke": {"steps": 60},
        "quick": {"steps": 3000},
        "standard": {"steps": 3000},
        "paper": {"steps": 3000, "code_length": 3, "codebook_size": 256},
    }

    def fit_level(self, residual: Tensor, rng: Rng, runtime: Runtime) -> Level:
        c: RvqConfig = self.config
        buffer = rng.child("buffer").numpy().permutation(len(residual))[: max(BUFFER_ROWS, c.codebook_size)]
        rows = residual[torch.as_tensor(buffer, device=residual.device)]
        start = kmeans(rows, c.codebook_size, rng.child("start"), runtime, iterations=0).centres
        batches = ShuffledBatches(len(residual), c.batch_size, rng.child("batches"), runtime)
        steps = -(-c.steps // c.code_length)
        if c.optimiser == "adamw":
            centres = self._by_adamw(residual, start, batches, steps, rng, runtime)
        else:
            centres, counts = start, torch.zeros(len(start), device=start.device)
            for step in range(steps):
                centres, counts = count_step(residual[batches(0, step)], centres, counts)
        return Level(centres, assign(residual, centres)[0])

    def _by_adamw(
        self, x: Tensor, start: Tensor, batches: ShuffledBatches, steps: int, rng: Rng, runtime: Runtime
    ) -> Tensor:
        """Codebook ``[K, D]`` trained on ``||sg[x] - c||^2``, mean over batch and dimensions, of rows x ``[N, D]``.

        Rows are brought to a mean square entry of 1 first, so that the learning rate means the same on every level.
        """
        scale = 1 / max(float(x.square().mean().sqrt()), 1e-12)
        model = nn.Module()
        model.codebook = nn.Parameter(start * scale)

        def loss(rows: Tensor, step: int) -> Tensor:
            batch, codebook = x[rows] * scale, model.get_parameter("codebook")
            return F.mse_loss(F.embedding(assign(batch, codebook.detach())[0], codebook), batch)

        runtime.train(
            TrainingPlan(
                name=f"{self.name}.{rng.path[-1]}",
                model=model,
                steps_per_epoch=steps,
                epochs=1,
                batch=batches,
                loss=loss,
                rng=rng.child("noise"),
                learning_rate=self.config.learning_rate,
                schedule="cosine",
                batch_setting=("batch_size", self.config.batch_size),
            )
        )
        return model.get_parameter("codebook").detach() / scale


def count_step(batch: Tensor, centres: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """One step of count-weighted SGD: rows ``[B, D]``, centres ``[K, D]``, rows so far ``[K]`` -> new centres, counts."""
    codes = assign(batch, centres)[0]
    now = torch.bincount(codes, minlength=len(centres)).to(counts.dtype)
    sums = torch.zeros_like(centres).index_add_(0, codes, batch)
    total = counts + now
    step = (sums - now[:, None] * centres) / total.clamp(min=1)[:, None]  # (n / N) (mean - C)
    return centres + step, total
