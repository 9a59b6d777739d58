"""PPNet ranking: a gated tower over user, context, history and the item as its SID or its ID.

Paper: PEPNet, arXiv 2302.01115, sec. 3.3 (parameter personalised network); EPNet is left out.

    x    = [user; item; side fields; day; month; mean(history); attention(history | item)]
    g    = [sg(x); user prior; item prior]               priors have their own tables
    Gate_l(g) = 2 sigmoid(W2 relu(W1 g))
    h_0 = x;  h_l = relu(W_l h_{l-1}) * Gate_l(g);  logit = w^T h_3

One representation (``blocks/item_representation.py``) serves target, history and prior alike, so that SIDs replace item
IDs in every place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.settings import setting
from sidbench.recommenders.base import RecommenderInfo
from sidbench.recommenders.blocks.item_representation import ItemRepresentation
from sidbench.recommenders.blocks.ranking import NeuralRanker, RankingConfig, RankingNetwork
from sidbench.recommenders.blocks.sid_tables import CodeLayout

INFO = RecommenderInfo(
    title="PPNet: gated ranking with SID features",
    version=1,
    paper="arXiv 2302.01115",
    year=2023,
    url="https://arxiv.org/abs/2302.01115",
    bibtex="@misc{pepnet2023,\n"
    "  title={PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information},\n"
    "  year={2023}, eprint={2302.01115}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2302.01115}}",
    task="ranking",
    deviations=(
        "single task, without EPNet and without author features",
        "history pooled by mean and by dot-product target attention",
        "a share of the training rows uses the out-of-vocabulary user, so that unseen users meet a trained row",
    ),
)


@dataclass(frozen=True)
class PpnetConfig(RankingConfig):
    """Settings of PPNet, the same for every tokenizer."""

    item_width: int = setting(32, "width of item and user representations", unit="dimensions", low=1, high=512, paper=10)
    hidden: tuple[int, ...] = setting((64, 64, 64), "widths of the gated layers", paper=(64, 64, 64))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1:
            raise InputError("setting PpnetConfig.hidden", got=self.hidden, wanted="at least one positive width")


class _Network(RankingNetwork):
    def __init__(
        self, config: PpnetConfig, n_users: int, table_rows: int, fields: Mapping[str, int], layout: CodeLayout | None
    ) -> None:
        super().__init__()
        width, side = config.item_width, config.code_width
        self.user_table = nn.Parameter(torch.zeros(n_users + 1, width))
        self.user_prior_table = nn.Parameter(torch.zeros(n_users + 1, width))
        self.items = ItemRepresentation(config, table_rows, layout)
        self.item_prior = ItemRepresentation(config, table_rows, layout)
        self.make_side_tables(fields, side)
        self.attention_query = nn.Linear(width, width)
        x_width = 4 * width + side * (len(fields) + 2)
        widths = [x_width, *config.hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, config.hidden, strict=False))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(x_width + 2 * width, 64), nn.ReLU(), nn.Linear(64, h)) for h in config.hidden
        )
        self.out = nn.Linear(config.hidden[-1], 1)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[B]`` and the batch's embedding penalty (mean squared norm per row)."""
        vectors, penalty = self.items(batch["unique_items"], batch["unique_rows"], batch.get("unique_weights"))
        target = F.embedding(batch["item"], vectors)
        present = batch["history_present"]
        history = F.embedding(batch["history"], vectors) * present[..., None]
        count = present.sum(dim=1, keepdim=True)
        mean = history.sum(dim=1) / count.clamp_min(1.0)
        match = torch.einsum("bhd,bd->bh", history, self.attention_query(target)) * target.shape[1] ** -0.5
        # A finite mask keeps rows without history finite; their pooled vector is zero because every entry is.
        attention = torch.softmax(match.masked_fill(present == 0, -1e9), dim=1)
        attended = torch.einsum("bh,bhd->bd", attention, history)
        user, side = F.embedding(batch["user"], self.user_table), self.side_vectors(batch)
        x = torch.cat([user, target, mean, attended, *side], dim=1)
        prior_vectors, prior_penalty = self.item_prior(
            batch["target_items"], batch["target_rows"], batch.get("target_weights")
        )
        user_prior = F.embedding(batch["user"], self.user_prior_table)
        g = torch.cat([x.detach(), user_prior, F.embedding(batch["prior_item"], prior_vectors)], dim=1)
        h = x
        for layer, gate in zip(self.layers, self.gates, strict=True):
            h = torch.relu(layer(h)) * (2.0 * torch.sigmoid(gate(g)))
        penalty = penalty + prior_penalty + user.square().sum() + user_prior.square().sum()
        penalty = penalty + sum(v.square().sum() for v in side)
        return self.out(h).squeeze(1), penalty / len(x)


class Ppnet(NeuralRanker):
    """Gated ranking network whose item representation is a setting."""

    info = INFO
    config_class = PpnetConfig
    budgets = {
        "smoke": {"epochs": 2, "batch_size": 256},
        "quick": {"epochs": 6},
        "standard": {},
        "paper": {},
    }

    config: PpnetConfig

    def _make_network(
        self, n_users: int, table_rows: int, fields: Mapping[str, int], layout: CodeLayout | None
    ) -> RankingNetwork:
        return _Network(self.config, n_users, table_rows, fields, layout)
