"""What rankers share: settings, batches, the training protocol, saving. A ranker itself is a network.

Protocol: Adam on binary cross-entropy plus an L2 penalty on the embedding rows a batch uses; early stop on validation
AUC. A share of the training rows uses the unseen user's row, so that users without training rows meet a trained one.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.recommenders.base import MEAN, SAME, Ranker, RankingData, RankingRows
from sidbench.recommenders.blocks.item_representation import (
    REPRESENTATION_COMBINE,
    ItemLookup,
    ItemRepresentation,
    RepresentationConfig,
    item_table_rows,
    layout_for,
)
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.blocks.states import load_into, numpy_state
from sidbench.recommenders.blocks.transformer import initialise
from sidbench.tokenizers.base import SemanticIds

INITIAL_STD = 0.01  # rows never trained stay near zero, so unseen items add next to nothing
INFERENCE_ROWS = 8192


@dataclass(frozen=True)
class RankingConfig(RepresentationConfig):
    """Settings every ranker shares: the item representation and the training protocol."""

    learning_rate: float = setting(1e-3, "Adam step size", low=1e-6, high=0.1, paper=1e-3, sweep=(3e-4, 1e-3, 3e-3))
    batch_size: int = setting(1024, "rows of a batch", low=1, high=1 << 20)
    embedding_decay: float = setting(1e-6, "L2 penalty on the embedding rows a batch uses", low=0, high=1)
    unknown_user_rate: float = setting(
        0.1, "training rows whose user is replaced by the unseen user", unit="share", low=0, high=1
    )
    epochs: int = setting(20, "passes over the training rows at most", low=1, high=1000)
    patience: int = setting(2, "validations without a better AUC before stopping", low=0, high=1000)


class RankingNetwork(nn.Module):
    """Base of the networks: a batch of ``RankingBatches`` to logits ``[B]`` and its embedding penalty.

    ``items`` represents target and history; ``user_table`` has a row a known user and one for unseen ones; parameters
    whose name holds "table" are embeddings. ``sharded`` is what ``TrainingPlan.sharded`` says: False where a forward
    pass changes state.
    """

    items: ItemRepresentation
    user_table: nn.Parameter
    sharded: bool = True

    def make_side_tables(self, fields: Mapping[str, int], width: int) -> None:
        """Tables of item side fields (name -> values), day of week and month."""
        self.field_names = sorted(fields)
        self.field_tables = nn.ParameterDict({f: nn.Parameter(torch.zeros(fields[f], width)) for f in self.field_names})
        self.day_table, self.month_table = (nn.Parameter(torch.zeros(n, width)) for n in (7, 12))

    def side_vectors(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Vectors ``[B, width]`` of the side fields in the order of their names, then day and month."""
        # F.embedding instead of indexing: its gradient is summed in a fixed order, so runs repeat bit for bit.
        fields = [F.embedding(batch[f"field_{f}"], self.field_tables[f]) for f in self.field_names]
        return [*fields, F.embedding(batch["day"], self.day_table), F.embedding(batch["month"], self.month_table)]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw matrices, then tables, from ``generator``."""
        initialise(self, generator)
        for name, parameter in self.named_parameters():
            if "table" in name:
                parameter.normal_(0.0, INITIAL_STD, generator=generator)

    def embedding_parameters(self) -> int:
        """Scalars that stand for items, in all representations of the network."""
        return sum(part.embedding_parameters() for part in self.modules() if isinstance(part, ItemRepresentation))


class RankingBatches:
    """Rows as tensors; item representations are computed once per distinct item of a batch.

    Entries, for ``B`` rows, ``H`` history slots, ``M`` distinct items of targets and histories and ``T`` of targets:
    label float32 ``[B]``; item, history int64 ``[B]``, ``[B, H]`` in ``0..M-1``; history_present float32 ``[B, H]``;
    prior_item int64 ``[B]`` in ``0..T-1``; unique_* and target_* what ``ItemRepresentation`` reads, ``[M]``, ``[M, P]``
    and ``[T]``, ``[T, P]``; user, day, month, field_* int64 ``[B]``.
    """

    def __init__(self, data: RankingData, lookup: ItemLookup, runtime: Runtime) -> None:
        self.data, self.lookup, self.runtime = data, lookup, runtime

    def make(self, rows: RankingRows, index: np.ndarray, user: np.ndarray | None = None) -> dict[str, Tensor]:
        """The rows ``index`` int ``[B]``; ``user`` replaces their user column."""
        item, history = rows.item[index].astype(np.int64), rows.history[index].astype(np.int64)
        present = history >= 0
        unique, inverse = np.unique(
            np.concatenate([item, np.where(present, history, item[:, None]).ravel()]), return_inverse=True
        )
        targets, prior = np.unique(item, return_inverse=True)
        arrays = {
            "label": rows.label[index].astype(np.float32),
            "item": inverse[: len(item)],
            "history": inverse[len(item) :].reshape(history.shape),
            "history_present": present.astype(np.float32),
            "prior_item": prior,
            "day": rows.day_of_week[index].astype(np.int64),
            "month": rows.month[index].astype(np.int64),
            "user": (rows.user[index] if user is None else user).astype(np.int64),
        }
        for name, some in (("unique", unique), ("target", targets)):
            arrays |= {f"{name}_items": self.lookup.ids[some], f"{name}_rows": self.lookup.rows[some]}
            if self.lookup.weights is not None:
                arrays[f"{name}_weights"] = self.lookup.weights[some]
        arrays |= {f"field_{name}": values[item].astype(np.int64) for name, values in self.data.item_fields.items()}
        return {name: self.runtime.tensor(array) for name, array in arrays.items()}


class NeuralRanker(Ranker):
    """A ranker that is a network trained by the shared protocol. A plugin sets ``_make_network``."""

    config: RankingConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("examples_per_second", "training_seconds", "ms_per_row"), MEAN),
        **dict.fromkeys(("best_epoch", "epochs", "validation_auc"), SAME),
        **dict.fromkeys(("item_embedding_parameters", "train_rows_without_history"), SAME),
        **REPRESENTATION_COMBINE,
    }

    def __init__(self, config: RankingConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.network_: RankingNetwork | None = None
        self.layout_: CodeLayout | None = None
        self._notes: dict[str, float] = {}

    @abstractmethod
    def _make_network(
        self, n_users: int, table_rows: int, fields: Mapping[str, int], layout: CodeLayout | None
    ) -> RankingNetwork:
        """The network for ``n_users`` known users and one unseen, item tables of ``table_rows`` and side ``fields``."""

    @property
    def reads_sids(self) -> bool:
        """False for ``item_id`` only: ``hashed_id`` takes from the SIDs how many rows they would cost."""
        return self.config.representation != "item_id"

    def fit(self, data: RankingData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config, rows, held = self.config, data.rows["train"], data.rows["validation"]
        check_rows(data, "train")
        check_rows(data, "validation")
        layout = self.layout_ = layout_for(config, sids, self.name)
        lookup = ItemLookup.of(config, layout, sids, data.n_items, self.name)
        batches = RankingBatches(data, lookup, runtime)
        network = self.network_ = self._make_network(
            data.n_users, item_table_rows(config, data.n_items, layout), data.item_field_sizes, layout
        )
        network.to(runtime.device).initialise(runtime.generator(rng.child("initial")))
        size = min(config.batch_size, len(rows))

        @lru_cache(maxsize=1)
        def permutation(epoch: int) -> np.ndarray:
            return rng.child("epoch", epoch).numpy().permutation(len(rows))

        def batch(epoch: int, index: int) -> dict[str, Tensor]:
            order = permutation(epoch)[index * size : (index + 1) * size]
            unknown = rng.child("unknown", epoch, index).numpy().random(len(order)) < config.unknown_user_rate
            return batches.make(rows, order, np.where(unknown, data.n_users, rows.user[order]))

        def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
            logits, penalty = network(made)
            return F.binary_cross_entropy_with_logits(logits, made["label"]) + config.embedding_decay * penalty

        log = runtime.train(
            TrainingPlan(
                self.name,
                network,
                -(-len(rows) // size),
                config.epochs,
                batch,
                loss,
                rng.child("training"),
                learning_rate=config.learning_rate,
                clip_norm=0.0,
                patience=config.patience,
                sharded=network.sharded,
                batch_setting=("batch_size", config.batch_size),
                validate=lambda: area_under_curve(self._scores(batches, held), held.label),
            )
        )
        self._notes = {
            "examples_per_second": log.examples_per_second,
            "best_epoch": float(log.best_epoch),
            "epochs": float(log.epochs),
            "training_seconds": log.wall_seconds,
            "validation_auc": max(log.validations),
            "item_embedding_parameters": float(network.embedding_parameters()),
            "train_rows_without_history": float((rows.history < 0).all(axis=1).sum()),
            **lookup.notes,
        }
        return self

    def predict(self, data: RankingData, split: str, sids: SemanticIds | None, runtime: Runtime) -> np.ndarray:
        network = self._network()
        check_rows(data, split)
        lookup = ItemLookup.of(self.config, self.layout_, sids, data.n_items, self.name)
        self._check_tables(data, network)
        table = network.items.item_table
        if table is not None and len(table) != item_table_rows(self.config, data.n_items, self.layout_):
            raise InputError(
                f"{self.name}: catalogue",
                got=f"{data.n_items} items",
                wanted=f"the one it was fitted on, with an item table of {len(table)} rows",
            )
        network.to(runtime.device).eval()
        batches = RankingBatches(data, lookup, runtime)
        start = time.perf_counter()
        scores = self._scores(batches, data.rows[split])
        self._notes["ms_per_row"] = 1e3 * (time.perf_counter() - start) / max(len(scores), 1)
        return scores

    def _check_tables(self, data: RankingData, network: RankingNetwork) -> None:
        """Raise ``InputError`` unless users and side fields are those of ``fit``: with another number of users, the
        unseen one would read a known user's row."""
        known = {"users": (data.n_users, len(network.user_table) - 1)}
        for name in sorted(data.item_field_sizes.keys() | network.field_tables.keys()):
            fitted = len(network.field_tables[name]) if name in network.field_tables else 0
            known[f"values of item field {name}"] = (data.item_field_sizes.get(name, 0), fitted)
        for name, (got, wanted) in known.items():
            if got != wanted:
                raise InputError(
                    f"{self.name}: {name}",
                    got=got,
                    wanted=f"{wanted}, as when it was fitted",
                    do="predict on the data it was fitted on",
                )

    @torch.no_grad()
    def _scores(self, batches: RankingBatches, rows: RankingRows) -> np.ndarray:
        network, scores = self._network(), np.zeros(len(rows), np.float32)
        for start in range(0, len(rows), INFERENCE_ROWS):
            index = np.arange(start, min(start + INFERENCE_ROWS, len(rows)))
            scores[index] = to_numpy(torch.sigmoid(network(batches.make(rows, index))[0]))
        return scores

    def _network(self) -> RankingNetwork:
        if self.network_ is None:
            raise InputError(f"{self.name}: model", got="not fitted", wanted="fit or load_state_dict first")
        return self.network_

    def state_dict(self) -> dict[str, np.ndarray]:
        state = numpy_state(self._network())
        if self.layout_ is not None:
            state |= {"layout.sizes": self.layout_.sizes, "layout.has_pad": self.layout_.has_pad}
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        layout = None
        if self.reads_sids:
            if "layout.sizes" not in state or "layout.has_pad" not in state:
                raise InputError(
                    f"{self.name}: saved state",
                    got="no entry layout.sizes",
                    wanted=f"a state with representation={self.config.representation}",
                    do="use the config it was trained with",
                )
            layout = CodeLayout(state["layout.sizes"], state["layout.has_pad"].astype(bool))
        if "user_table" not in state:
            raise InputError(f"{self.name}: saved state", got="no entry user_table", wanted=f"a state of {self.name}")
        fields = {k.removeprefix("field_tables."): len(v) for k, v in state.items() if k.startswith("field_tables.")}
        network = self._make_network(len(state["user_table"]) - 1, len(state.get("items.item_table", ())), fields, layout)
        load_into(network, {k: v for k, v in state.items() if not k.startswith("layout.")}, self.name)
        self.network_, self.layout_ = network, layout

    def diagnostics(self) -> dict[str, float]:
        return dict(self._notes)

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self._network().parameters())


def check_rows(data: RankingData, split: str) -> None:
    """Raise ``InputError`` for an absent or empty split, or indices or item fields out of range."""
    if split not in data.rows or not len(data.rows[split]):
        raise InputError(f"ranking rows {split!r}", got="none", wanted="at least one row", do="check the split")
    rows = data.rows[split]
    for name, values, low, high in (
        ("user", rows.user, 0, data.n_users),
        ("item", rows.item, 0, data.n_items - 1),
        ("history", rows.history, -1, data.n_items - 1),
        ("day_of_week", rows.day_of_week, 0, 6),
        ("month", rows.month, 0, 11),
    ):
        if values.size and (values.min() < low or values.max() > high):
            raise InputError(
                f"ranking rows {split!r}: {name}", got=f"{values.min()}..{values.max()}", wanted=f"{low}..{high}"
            )
    for name, values in data.item_fields.items():
        high = data.item_field_sizes[name] - 1
        if len(values) != data.n_items or values.min() < 0 or values.max() > high:
            raise InputError(
                f"item field {name}",
                got=f"{len(values)} items with values up to {values.max(initial=-1)}",
                wanted=f"{data.n_items} items with values 0..{high}",
            )


def area_under_curve(score: np.ndarray, label: np.ndarray) -> float:
    """Mann-Whitney AUC with mid-ranks (ties count one half); 0.5 when one class is missing."""
    positive = label > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return 0.5
    rank_sum = float(rankdata(score)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
