"""HSTU over item IDs: pointwise aggregated attention instead of softmax attention, as an item-ID baseline.

Paper: arXiv 2402.17152, sec. 3.2. One layer, with X already normalised and the result added to the layer's input:

    U, V, Q, K = split(SiLU(f_1(X)))                       eq. 1
    A V        = SiLU(Q K^T + rab) V / n                   eq. 2, causal, n = window length, no softmax
    Y          = f_2(norm(A V) * U)                        eq. 3

``rab[t, s]`` is one learned number for each distance ``t - s``, shared by the heads of a layer. No absolute positions:
the distances alone order the items, so an item's score does not depend on where its window was cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.recommenders.base import RecommenderInfo, RetrievalData
from sidbench.recommenders.blocks.item_retrieval import ItemNetwork, ItemRetriever
from sidbench.recommenders.blocks.transformer import Dropout, initialise
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="HSTU with full-softmax cross-entropy (item-ID baseline)",
    version=1,
    paper="arXiv 2402.17152",
    year=2024,
    url="https://arxiv.org/abs/2402.17152",
    bibtex="@misc{hstu2024,\n"
    "  title={Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations},\n"
    "  year={2024}, eprint={2402.17152}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2402.17152}}",
    task="retrieval",
    needs_sids=False,
    deviations=(
        "no temporal bias: the protocol hands out the order of events, not their times",
        "relative positions only, no absolute position embeddings",
        "inner products and full-softmax cross-entropy instead of cosines and a sampled softmax",
    ),
)


@dataclass(frozen=True)
class HstuConfig:
    """Settings of the HSTU baseline."""

    width: int = setting(64, "width of the item table", unit="dimensions", low=4, high=1024, paper=50)
    layers: int = setting(2, "layers", low=1, high=24, paper=2, sweep=(2, 4, 8))
    heads: int = setting(2, "attention heads", low=1, high=32, paper=1)
    dropout: float = setting(
        0.5, "dropout on items and before each output layer", low=0, high=0.9, paper=0.2, sweep=(0.2, 0.5)
    )
    max_length: int = setting(50, "history the model sees", unit="items", low=1, high=1024, paper=200)
    learning_rate: float = setting(1e-3, "Adam step size", low=1e-6, high=0.1, paper=1e-3, sweep=(3e-4, 1e-3, 3e-3))
    batch_positions: int = setting(
        1536, "positions of a batch, padding included (about 256 Beauty users)", low=16, high=1 << 20
    )
    epochs: int = setting(200, "passes over the training targets at most", low=1, high=1000)
    patience: int = setting(20, "validations without improvement before stopping", low=0, high=1000)
    validation_users: int = setting(4000, "users of the validation subset", low=1, high=1 << 30)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width % self.heads:
            raise InputError(
                "setting HstuConfig.width",
                got=self.width,
                wanted=f"a multiple of heads={self.heads}",
                do="change width or heads",
            )


def pointwise_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Eq. 2: ``o_t = (1 / n) sum_{s <= t} SiLU(<q_t, k_s> + bias[t - s]) v_s``, with ``n = len(bias)``.

    query, key, value ``[B, heads, T, width]``, bias ``[n]`` with ``n >= T`` -> ``[B, heads, T, width]``.
    """
    position = torch.arange(query.shape[2], device=query.device)
    distance = position[:, None] - position
    weights = F.silu(torch.matmul(query, key.transpose(2, 3)) + bias[distance.clamp_min(0)])
    return torch.matmul(weights * ((distance >= 0) / len(bias)), value)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * width)
        self.position_bias = nn.Parameter(torch.zeros(max_length))
        # Weights divided by n are small, so the usual 1e-5 would bias the norm of short histories.
        self.mixed_norm = nn.LayerNorm(width, eps=1e-8)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``, position t sees 0..t."""
        batch, length, width = x.shape
        parts = F.silu(self.project(self.input_norm(x))).view(batch, length, 4, self.heads, -1)
        gate, value, query, key = parts.permute(2, 0, 3, 1, 4)
        mixed = pointwise_attention(query, key, value, self.position_bias)
        mixed, gate = (part.transpose(1, 2).reshape(batch, length, width) for part in (mixed, gate))
        return x + self.output(self.dropout(self.mixed_norm(mixed) * gate))


class _Network(ItemNetwork):
    def __init__(self, config: HstuConfig, n_items: int) -> None:
        super().__init__()
        self.item_table = nn.Parameter(torch.zeros(n_items, config.width))
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            _Layer(config.width, config.heads, config.dropout, config.max_length) for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        initialise(self, generator)
        self.item_table.normal_(0.0, math.sqrt(2.0 / sum(self.item_table.shape)), generator=generator)

    def forward(self, items: Tensor, length: Tensor) -> Tensor:
        """Context vectors ``[B, T, width]`` of windows ``items`` int64 ``[B, T]``; relative positions need no ``length``."""
        x = self.dropout(F.embedding(items, self.item_table) * math.sqrt(self.item_table.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.final_norm(x)


class Hstu(ItemRetriever[_Network]):
    """Hierarchical sequential transduction units over item IDs."""

    info = INFO
    config_class = HstuConfig
    budgets = {
        "smoke": {"width": 16, "epochs": 3, "batch_positions": 512, "validation_users": 100},
        "quick": {"learning_rate": 3e-3, "epochs": 25, "patience": 4},
        "standard": {},
        "paper": {"width": 50, "heads": 1, "dropout": 0.2, "max_length": 200, "validation_users": 1 << 30},
    }

    config: HstuConfig

    def _make_network(self, n_items: int) -> _Network:
        return _Network(self.config, n_items)

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        super().fit(data, sids, rng, runtime)
        self._notes["embedding_parameters"] = float(self._network().item_table.numel())
        return self
