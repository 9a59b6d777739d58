"""DIN, the deep interest network: history pooled by an activation unit that sees history and target together.

Paper: Zhou et al., KDD 2018, arXiv 1706.06978. With item vectors e_1..e_H of the history and v of the target:

    a_j = w^T f(W [e_j; v; e_j - v; e_j * v] + b) + c       activation unit, fig. 2
    u   = sum_j a_j e_j                                     eq. 3, weights not normalised
    f(s) = p s + (1 - p) alpha s,  p = sigmoid((s - E[s]) / sqrt(Var[s] + eps))     Dice, eq. 5
    logit = MLP([user; v; u; side fields; day; month])

One representation (``blocks/item_representation.py``) serves target and history, so that SIDs replace item IDs in every
place. Protocol, fields and representations are those of ``ppnet``: a claim about SIDs need not hang on one backbone.
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
    title="DIN: target attention over the history, with SID features",
    version=1,
    paper="arXiv 1706.06978",
    year=2018,
    url="https://arxiv.org/abs/1706.06978",
    bibtex="@misc{zhou2018din,\n"
    "  title={Deep Interest Network for Click-Through Rate Prediction}, author={Zhou and others},\n"
    "  year={2018}, eprint={1706.06978}, archivePrefix={arXiv}, url={https://arxiv.org/abs/1706.06978}}",
    task="ranking",
    deviations=(
        "the history holds items only, without the categories of their own that the paper pools beside them",
        "activation weights start at 1, the sum pooling of the paper's base model, since no initialisation is published",
        "Adam with a constant step size instead of SGD with decay",
        "regularisation penalises the embedding rows a batch uses, without dividing by how often a value occurs in the data",
        "a share of the training rows uses the out-of-vocabulary user, so that unseen users meet a trained row",
    ),
)

DICE_EPSILON = 1e-8
SLOWEST_RATE = 0.01  # share of a new batch in the running statistics of Dice


@dataclass(frozen=True)
class DinConfig(RankingConfig):
    """Settings of DIN, the same for every tokenizer."""

    item_width: int = setting(32, "width of item and user representations", unit="dimensions", low=1, high=512, paper=12)
    hidden: tuple[int, ...] = setting((200, 80), "widths of the layers", paper=(200, 80))
    attention_hidden: int = setting(36, "hidden width of the activation unit", unit="dimensions", low=1, high=1024, paper=36)
    activation: str = setting("dice", "nonlinearity of layers and activation unit", choices=("dice", "prelu"), paper="dice")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1:
            raise InputError("setting DinConfig.hidden", got=self.hidden, wanted="at least one positive width")


class _Dice(nn.Module):
    """Eq. 5 for ``[M, width]``: batch statistics in training, running ones else; ``alpha`` is learned per column."""

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, s: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training and len(s):
            variance, mean = torch.var_mean(s.float(), dim=0, correction=0)
            self._follow(mean.detach(), variance.detach())
        p = torch.sigmoid((s - mean) * torch.rsqrt(variance + DICE_EPSILON))
        return (p + (1.0 - p) * self.alpha) * s

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Plain mean over the first batches, then an exponential one, so that short trainings are not biased."""
        self.batches += 1.0
        rate = self.batches.reciprocal().clamp_min(SLOWEST_RATE)
        self.mean.lerp_(mean, rate)
        self.variance.lerp_(variance, rate)


def _activation(kind: str, width: int) -> nn.Module:
    return _Dice(width) if kind == "dice" else nn.PReLU(width)


class _ActivationUnit(nn.Module):
    """Weight of each (history item, target) pair, fig. 2."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.first = nn.Linear(4 * width, hidden)
        self.activation = _activation(activation, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, vectors: Tensor, target: Tensor, event: Tensor, row: Tensor) -> Tensor:
        """Weights ``[E]`` of pairs of a history item, ``vectors[event]``, and a target, ``target[row]``.

        vectors: ``[M, d]``. target: ``[B, d]``. event, row: int64 ``[E]``.
        """
        # W [e; v; e - v; e * v] is linear in e and in v apart from the product, so these parts are computed once per
        # item and once per row instead of once per pair.
        past, now, difference, product = self.first.weight.chunk(4, dim=1)
        of_item = F.linear(vectors, past + difference)
        of_row = F.linear(target, now - difference, self.first.bias)
        pair = F.embedding(event, vectors) * F.embedding(row, target)
        hidden = F.embedding(event, of_item) + F.embedding(row, of_row) + F.linear(pair, product)
        weights: Tensor = self.out(self.activation(hidden))
        return weights.squeeze(1)


class _Network(RankingNetwork):
    def __init__(
        self, config: DinConfig, n_users: int, table_rows: int, fields: Mapping[str, int], layout: CodeLayout | None
    ) -> None:
        super().__init__()
        width, side = config.item_width, config.code_width
        self.user_table = nn.Parameter(torch.zeros(n_users + 1, width))
        self.items = ItemRepresentation(config, table_rows, layout)
        self.make_side_tables(fields, side)
        self.unit = _ActivationUnit(width, config.attention_hidden, config.activation)
        widths = [3 * width + side * (len(fields) + 2), *config.hidden]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), _activation(config.activation, b))
            for a, b in zip(widths, config.hidden, strict=False)
        )
        self.out = nn.Linear(config.hidden[-1], 1)
        self.sharded = config.activation != "dice"  # its running statistics must be the same in every process

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.unit.out.bias.fill_(1.0)

    def pooled(self, vectors: Tensor, target: Tensor, history: Tensor, present: Tensor) -> Tensor:
        """Eq. 3: ``[B, d]`` weighted sum of the history; int64 ``history`` and ``present`` are ``[B, H]``."""
        # Three of four slots are empty on real data, so only pairs that exist pass the unit; absent ones weigh zero.
        row, slot = present.nonzero(as_tuple=True)
        weights = self.unit(vectors, target, history[row, slot], row)
        grid = weights.new_zeros(present.numel()).scatter(0, row * present.shape[1] + slot, weights)
        return torch.einsum("bh,bhd->bd", grid.view(present.shape), F.embedding(history, vectors))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[B]`` and the batch's embedding penalty (mean squared norm per row)."""
        vectors, penalty = self.items(batch["unique_items"], batch["unique_rows"], batch.get("unique_weights"))
        target = F.embedding(batch["item"], vectors)
        interest = self.pooled(vectors, target, batch["history"], batch["history_present"])
        user, side = F.embedding(batch["user"], self.user_table), self.side_vectors(batch)
        h = torch.cat([user, target, interest, *side], dim=1)
        for layer in self.layers:
            h = layer(h)
        penalty = penalty + user.square().sum() + sum(v.square().sum() for v in side)
        return self.out(h).squeeze(1), penalty / len(h)


class Din(NeuralRanker):
    """Deep interest network whose item representation is a setting."""

    info = INFO
    config_class = DinConfig
    budgets = {
        "smoke": {"epochs": 2, "batch_size": 256},
        "quick": {"epochs": 6},
        "standard": {},
        "paper": {},
    }

    config: DinConfig

    def _make_network(
        self, n_users: int, table_rows: int, fields: Mapping[str, int], layout: CodeLayout | None
    ) -> RankingNetwork:
        return _Network(self.config, n_users, table_rows, fields, layout)
