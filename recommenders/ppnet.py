"""PPNet ranking: a gated tower over user, context, history and the item as its SID or its ID.

Paper: PEPNet, arXiv 2302.01115, sec. 3.3 (parameter personalised network); EPNet is left out.

    x    = [user; item; side fields; day; month; mean(history); attention(history | item)]
    g    = [sg(x); user prior; item prior]               priors have their own tables
    Gate_l(g) = 2 sigmoid(W2 relu(W1 g))
    h_0 = x;  h_l = relu(W_l h_{l-1}) * Gate_l(g);  logit = w^T h_3

One representation serves target, history and prior alike, so that SIDs replace item IDs in every place:
``item_id`` one row an item; ``sid_concat`` one row a code, concatenated, linear to the item width; ``sid_sum`` one row
a code, summed; ``sid+id`` the sum of ``sid_concat`` and the item's row. PAD is the zero vector.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.recommenders.base import Ranker, RankingData, RankingRows, RecommenderInfo
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable, fused_rows
from sidbench.recommenders.blocks.states import load_into, numpy_state
from sidbench.recommenders.blocks.transformer import initialise
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.runtime import Runtime, TrainingPlan, to_numpy

INFO = RecommenderInfo(
    title="PPNet: gated ranking with SID features",
    paper="arXiv 2302.01115",
    year=2023,
    task="ranking",
    deviations=(
        "single task, without EPNet and without author features",
        "history pooled by mean and by dot-product target attention",
        "a share of the training rows uses the out-of-vocabulary user, so that unseen users meet a trained row",
    ),
)

INITIAL_STD = 0.01  # rows never trained stay near zero, so unseen items add next to nothing
INFERENCE_ROWS = 8192


@dataclass(frozen=True)
class PpnetConfig:
    """Settings of PPNet, the same for every tokenizer."""

    representation: str = setting("sid_concat", "what stands for an item",
                                  choices=("item_id", "sid_concat", "sid_sum", "sid+id"))
    item_width: int = setting(32, "width of item and user representations", unit="dimensions", low=1, high=512,
                              paper=10)
    code_width: int = setting(16, "width of code tables (sid_concat) and side fields", unit="dimensions", low=1,
                              high=512)
    hidden: tuple[int, ...] = setting((64, 64, 64), "widths of the gated layers", paper=(64, 64, 64))
    learning_rate: float = setting(1e-3, "Adam step size", low=1e-6, high=0.1, paper=1e-3, sweep=(3e-4, 1e-3, 3e-3))
    batch_size: int = setting(1024, "rows of a batch", low=1, high=1 << 20)
    embedding_decay: float = setting(1e-6, "L2 penalty on the embedding rows a batch uses", low=0, high=1)
    unknown_user_rate: float = setting(0.1, "training rows whose user is replaced by the unseen user", unit="share",
                                       low=0, high=1)
    epochs: int = setting(20, "passes over the training rows at most", low=1, high=1000)
    patience: int = setting(2, "validations without a better AUC before stopping", low=0, high=1000)

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.hidden or min(self.hidden) < 1:
            raise InputError("setting PpnetConfig.hidden", got=self.hidden, wanted="at least one positive width")


class _ItemRepresentation(nn.Module):
    """Items to float ``[M, item_width]``, by ID, by SID, or both."""

    def __init__(self, config: PpnetConfig, n_items: int, layout: CodeLayout | None) -> None:
        super().__init__()
        self.kind, self.width = config.representation, config.item_width
        by_id = self.kind in ("item_id", "sid+id")
        self.item_table = nn.Parameter(torch.zeros(n_items, self.width)) if by_id else None
        self.codes: CodeTable | None = None
        self.project: nn.Linear | None = None
        if layout is not None and self.kind != "item_id":
            concat = self.kind != "sid_sum"
            self.codes = CodeTable(layout, config.code_width if concat else config.item_width)
            self.project = nn.Linear(layout.length * config.code_width, config.item_width) if concat else None

    def forward(self, items: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of ``items`` int64 ``[M]`` with fused code rows int64 ``[M, L]``; squared norm of the rows used."""
        total = rows.new_zeros(len(items), self.width, dtype=torch.float32)
        penalty = total.new_zeros(())
        if self.item_table is not None:
            total = F.embedding(items, self.item_table)
            penalty = total.square().sum()
        if self.codes is not None:
            codes = F.embedding(rows, self.codes.inputs())
            penalty = penalty + codes.square().sum()
            total = total + (codes.sum(dim=1) if self.project is None else self.project(codes.flatten(1)))
        return total, penalty


class _Network(nn.Module):
    def __init__(self, config: PpnetConfig, n_users: int, n_items: int, fields: Mapping[str, int],
                 layout: CodeLayout | None) -> None:
        super().__init__()
        width, side = config.item_width, config.code_width
        self.field_names = sorted(fields)
        self.user_table = nn.Parameter(torch.zeros(n_users + 1, width))
        self.user_prior_table = nn.Parameter(torch.zeros(n_users + 1, width))
        self.items = _ItemRepresentation(config, n_items, layout)
        self.item_prior = _ItemRepresentation(config, n_items, layout)
        self.field_tables = nn.ParameterDict({f: nn.Parameter(torch.zeros(fields[f], side)) for f in self.field_names})
        self.day_table, self.month_table = (nn.Parameter(torch.zeros(n, side)) for n in (7, 12))
        self.attention_query = nn.Linear(width, width)
        x_width = 4 * width + side * (len(fields) + 2)
        widths = [x_width, *config.hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, config.hidden, strict=False))
        self.gates = nn.ModuleList(nn.Sequential(nn.Linear(x_width + 2 * width, 64), nn.ReLU(), nn.Linear(64, h))
                                   for h in config.hidden)
        self.out = nn.Linear(config.hidden[-1], 1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        initialise(self, generator)
        for name, parameter in self.named_parameters():
            if "table" in name:
                parameter.normal_(0.0, INITIAL_STD, generator=generator)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[B]`` and the batch's embedding penalty (mean squared norm per row)."""
        vectors, penalty = self.items(batch["unique_items"], batch["unique_rows"])
        # F.embedding instead of indexing: its gradient is summed in a fixed order, so runs repeat bit for bit.
        target = F.embedding(batch["item"], vectors)
        present = batch["history_present"]
        history = F.embedding(batch["history"], vectors) * present[..., None]
        count = present.sum(dim=1, keepdim=True)
        mean = history.sum(dim=1) / count.clamp_min(1.0)
        match = torch.einsum("bhd,bd->bh", history, self.attention_query(target)) * target.shape[1] ** -0.5
        # A finite mask keeps rows without history finite; their pooled vector is zero because every entry is.
        attention = torch.softmax(match.masked_fill(present == 0, -1e9), dim=1)
        attended = torch.einsum("bh,bhd->bd", attention, history)
        user = F.embedding(batch["user"], self.user_table)
        fields = [F.embedding(batch[f"field_{f}"], self.field_tables[f]) for f in self.field_names]
        times = [F.embedding(batch["day"], self.day_table), F.embedding(batch["month"], self.month_table)]
        x = torch.cat([user, target, mean, attended, *fields, *times], dim=1)
        prior_vectors, prior_penalty = self.item_prior(batch["target_items"], batch["target_rows"])
        user_prior = F.embedding(batch["user"], self.user_prior_table)
        g = torch.cat([x.detach(), user_prior, F.embedding(batch["prior_item"], prior_vectors)], dim=1)
        h = x
        for layer, gate in zip(self.layers, self.gates, strict=True):
            h = torch.relu(layer(h)) * (2.0 * torch.sigmoid(gate(g)))
        penalty = penalty + prior_penalty + user.square().sum() + user_prior.square().sum()
        penalty = penalty + sum(f.square().sum() for f in (*fields, *times))
        return self.out(h).squeeze(1), penalty / len(x)

    def embedding_parameters(self) -> int:
        """Scalars that stand for items: tables and projections of both representations."""
        return sum(p.numel() for part in (self.items, self.item_prior) for p in part.parameters())


class _Batches:
    """Rows as tensors; item representations are computed once per distinct item of a batch."""

    def __init__(self, data: RankingData, item_rows: np.ndarray, runtime: Runtime) -> None:
        self.data, self.item_rows, self.runtime = data, item_rows, runtime

    def make(self, rows: RankingRows, index: np.ndarray, user: np.ndarray | None = None) -> dict[str, Tensor]:
        """The rows ``index`` int ``[B]``; ``user`` replaces their user column."""
        item, history = rows.item[index].astype(np.int64), rows.history[index].astype(np.int64)
        present = history >= 0
        unique, inverse = np.unique(np.concatenate([item, np.where(present, history, item[:, None]).ravel()]),
                                    return_inverse=True)
        targets, prior = np.unique(item, return_inverse=True)
        arrays = {
            "label": rows.label[index].astype(np.float32), "item": inverse[:len(item)], "unique_items": unique,
            "history": inverse[len(item):].reshape(history.shape), "history_present": present.astype(np.float32),
            "unique_rows": self.item_rows[unique], "prior_item": prior, "target_items": targets,
            "target_rows": self.item_rows[targets], "day": rows.day_of_week[index].astype(np.int64),
            "month": rows.month[index].astype(np.int64),
            "user": (rows.user[index] if user is None else user).astype(np.int64),
        }
        arrays |= {f"field_{name}": values[item].astype(np.int64) for name, values in self.data.item_fields.items()}
        return {name: self.runtime.tensor(array) for name, array in arrays.items()}


class Ppnet(Ranker):
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

    def __init__(self, config: PpnetConfig) -> None:
        super().__init__(config)
        self.network_: _Network | None = None
        self._notes: dict[str, float] = {}

    @property
    def reads_sids(self) -> bool:
        return self.config.representation != "item_id"

    def _item_rows(self, layout: CodeLayout | None, sids: SemanticIds | None, n_items: int) -> np.ndarray:
        if layout is None:
            return np.zeros((n_items, 0), np.int64)
        if sids is None:
            raise InputError(f"ppnet with representation={self.config.representation}: semantic IDs", got="none",
                             wanted="SIDs of the whole catalogue", do="name a tokenizer or set representation=item_id")
        return fused_rows(layout, sids, n_items, "ppnet")

    def fit(self, data: RankingData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config, rows, held = self.config, data.rows["train"], data.rows["validation"]
        _check_rows(data, "train")
        _check_rows(data, "validation")
        layout = None if config.representation == "item_id" or sids is None else CodeLayout.of(sids)
        if layout is None and config.representation != "item_id":
            self._item_rows(CodeLayout(np.ones(1, np.int32), np.zeros(1, bool)), sids, data.n_items)
        batches = _Batches(data, self._item_rows(layout, sids, data.n_items), runtime)
        network = self.network_ = _Network(config, data.n_users, data.n_items, data.item_field_sizes, layout)
        network.to(runtime.device).initialise(runtime.generator(rng.child("initial")))
        size = min(config.batch_size, len(rows))

        @lru_cache(maxsize=1)
        def permutation(epoch: int) -> np.ndarray:
            return rng.child("epoch", epoch).numpy().permutation(len(rows))

        def batch(epoch: int, index: int) -> dict[str, Tensor]:
            order = permutation(epoch)[index * size:(index + 1) * size]
            unknown = rng.child("unknown", epoch, index).numpy().random(len(order)) < config.unknown_user_rate
            return batches.make(rows, order, np.where(unknown, data.n_users, rows.user[order]))

        def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
            logits, penalty = network(made)
            return F.binary_cross_entropy_with_logits(logits, made["label"]) + config.embedding_decay * penalty

        log = runtime.train(TrainingPlan(
            "ppnet", network, -(-len(rows) // size), config.epochs, batch, loss, rng.child("training"),
            learning_rate=config.learning_rate, clip_norm=0.0, patience=config.patience,
            validate=lambda: area_under_curve(self._scores(batches, held), held.label)))
        self._notes = {
            "examples_per_second": log.examples_per_second, "best_epoch": float(log.best_epoch),
            "epochs": float(log.epochs), "training_seconds": log.wall_seconds, "validation_auc": max(log.validations),
            "item_embedding_parameters": float(network.embedding_parameters()),
        }
        return self

    def predict(self, data: RankingData, split: str, sids: SemanticIds | None, runtime: Runtime) -> np.ndarray:
        network = self._network()
        _check_rows(data, split)
        layout = None if network.items.codes is None else network.items.codes.layout
        network.to(runtime.device).eval()
        batches = _Batches(data, self._item_rows(layout, sids, data.n_items), runtime)
        start = time.perf_counter()
        scores = self._scores(batches, data.rows[split])
        self._notes["ms_per_row"] = 1e3 * (time.perf_counter() - start) / max(len(scores), 1)
        return scores

    @torch.no_grad()
    def _scores(self, batches: _Batches, rows: RankingRows) -> np.ndarray:
        network, scores = self._network(), np.zeros(len(rows), np.float32)
        for start in range(0, len(rows), INFERENCE_ROWS):
            index = np.arange(start, min(start + INFERENCE_ROWS, len(rows)))
            scores[index] = to_numpy(torch.sigmoid(network(batches.make(rows, index))[0]))
        return scores

    def _network(self) -> _Network:
        if self.network_ is None:
            raise InputError("ppnet: model", got="not fitted", wanted="fit or load_state_dict first")
        return self.network_

    def state_dict(self) -> dict[str, np.ndarray]:
        network = self._network()
        state = numpy_state(network)
        if network.items.codes is not None:
            layout = network.items.codes.layout
            state |= {"layout.sizes": layout.sizes, "layout.has_pad": layout.has_pad}
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        layout = None
        if self.config.representation != "item_id":
            if "layout.sizes" not in state or "layout.has_pad" not in state:
                raise InputError("ppnet: saved state", got="no entry layout.sizes",
                                 wanted=f"a state with representation={self.config.representation}",
                                 do="use the config it was trained with")
            layout = CodeLayout(state["layout.sizes"], state["layout.has_pad"].astype(bool))
        if "user_table" not in state:
            raise InputError("ppnet: saved state", got="no entry user_table", wanted="a state of ppnet")
        fields = {k.removeprefix("field_tables."): len(v) for k, v in state.items() if k.startswith("field_tables.")}
        n_users, n_items = len(state["user_table"]) - 1, len(state.get("items.item_table", ()))
        self.network_ = _Network(self.config, n_users, n_items, fields, layout)
        load_into(self.network_, {k: v for k, v in state.items() if not k.startswith("layout.")}, "ppnet")

    def diagnostics(self) -> dict[str, float]:
        return dict(self._notes)

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self._network().parameters())


def _check_rows(data: RankingData, split: str) -> None:
    """Raise ``InputError`` for an absent or empty split, or indices out of range."""
    if split not in data.rows or not len(data.rows[split]):
        raise InputError(f"ranking rows {split!r}", got="none", wanted="at least one row", do="check the split")
    rows = data.rows[split]
    for name, values, low, high in (("user", rows.user, 0, data.n_users), ("item", rows.item, 0, data.n_items - 1),
                                    ("history", rows.history, -1, data.n_items - 1),
                                    ("day_of_week", rows.day_of_week, 0, 6), ("month", rows.month, 0, 11)):
        if values.size and (values.min() < low or values.max() > high):
            raise InputError(f"ranking rows {split!r}: {name}", got=f"{values.min()}..{values.max()}",
                             wanted=f"{low}..{high}")


def area_under_curve(score: np.ndarray, label: np.ndarray) -> float:
    """Mann-Whitney AUC with mid-ranks (ties count one half); 0.5 when one class is missing."""
    positive = label > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return 0.5
    rank_sum = float(rankdata(score)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
