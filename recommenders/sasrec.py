"""SASRec with full-softmax cross-entropy: the item-ID baseline, and the source of behaviour embeddings.

Paper: arXiv 1808.09781. Model (sec. 3): item table scaled by sqrt(d), learned positions, dropout, blocks that
normalise the query side only, final LayerNorm; ``score(i) = <h_t, e_i>`` with the shared item table.

Positions count back from the end of the window, so the newest item always has position 0, as with left padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import RecommenderInfo
from sidbench.recommenders.blocks.item_retrieval import ItemNetwork, ItemRetriever, item_plan, rank_items
from sidbench.recommenders.blocks.transformer import Dropout, SasrecBlock, initialise
from sidbench.recommenders.blocks.windows import TrainingWindows, check_histories, take_sequences

INFO = RecommenderInfo(
    title="SASRec with full-softmax cross-entropy (item-ID baseline)",
    version=1,
    paper="arXiv 1808.09781",
    year=2018,
    url="https://arxiv.org/abs/1808.09781",
    bibtex="@misc{sasrec2018,\n"
    "  title={Self-Attentive Sequential Recommendation}, year={2018}, eprint={1808.09781},\n"
    "  archivePrefix={arXiv}, url={https://arxiv.org/abs/1808.09781}}",
    task="retrieval",
    needs_sids=False,
    deviations=("full-softmax cross-entropy instead of binary cross-entropy with one sampled negative",),
)


@dataclass(frozen=True)
class SasrecConfig:
    """Settings of the SASRec baseline."""

    width: int = setting(64, "width of the item table", unit="dimensions", low=4, high=1024, paper=50)
    layers: int = setting(2, "blocks", low=1, high=12, paper=2)
    heads: int = setting(2, "attention heads", low=1, high=32, paper=1)
    dropout: float = setting(
        0.5, "dropout on items, attention and feed-forward", low=0, high=0.9, paper=0.5, sweep=(0.2, 0.5)
    )
    max_length: int = setting(50, "history the model sees", unit="items", low=1, high=1024, paper=50)
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
                f"setting {type(self).__name__}.width",
                got=self.width,
                wanted=f"a multiple of heads={self.heads}",
                do="change width or heads",
            )


@dataclass(frozen=True)
class BehaviourConfig(SasrecConfig):
    """Settings of the behaviour encoder. Strong decoupled decay and early stopping are what lets the norm of an
    embedding carry popularity at all (spec recommenders 17); the signs are on the record with every run."""

    item_decay: float = setting(1.0, "decoupled weight decay of the item table", low=0, high=10, sweep=(0.5, 1.0, 2.0))
    holdout: float = setting(0.1, "users whose last training item selects the epoch", unit="share", low=0.001, high=0.5)
    recall_share: float = setting(
        0.98, "stop at the earliest epoch that reaches this share of the best recall@10", low=0.5, high=1
    )
    epochs: int = setting(100, "passes over the training targets at most", low=1, high=1000)
    patience: int = setting(10, "validations without improvement before stopping", low=0, high=1000)


BEHAVIOUR_BUDGETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"width": 16, "epochs": 3, "patience": 0, "batch_positions": 512},
    "quick": {"learning_rate": 3e-3, "epochs": 14, "patience": 3},
    "standard": {},
    "paper": {"epochs": 200, "patience": 20},
}


class _Network(ItemNetwork):
    def __init__(self, config: SasrecConfig, n_items: int) -> None:
        super().__init__()
        self.item_table = nn.Parameter(torch.zeros(n_items, config.width))
        self.position_table = nn.Parameter(torch.zeros(config.max_length, config.width))
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(SasrecBlock(config.width, config.heads, config.dropout) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        initialise(self, generator)
        for table in (self.item_table, self.position_table):
            table.normal_(0.0, math.sqrt(2.0 / sum(table.shape)), generator=generator)

    def forward(self, items: Tensor, length: Tensor) -> Tensor:
        """Context vectors ``[B, T, width]`` of windows ``items`` int64 ``[B, T]`` with ``length`` int64 ``[B]``."""
        back = (length[:, None] - 1 - torch.arange(items.shape[1], device=items.device)).clamp_min(0)
        x = F.embedding(items, self.item_table) * math.sqrt(self.item_table.shape[1])
        x = self.dropout(x + F.embedding(back, self.position_table))
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)


class Sasrec(ItemRetriever[_Network]):
    """Self-attentive sequential recommendation over item IDs."""

    info = INFO
    config_class = SasrecConfig
    budgets = {
        "smoke": {"width": 16, "epochs": 3, "batch_positions": 512, "validation_users": 100},
        "quick": {"learning_rate": 3e-3, "epochs": 25, "patience": 4},
        "standard": {},
        "paper": {"width": 50, "heads": 1, "validation_users": 1 << 30},
    }

    config: SasrecConfig

    def _make_network(self, n_items: int) -> _Network:
        return _Network(self.config, n_items)


@dataclass
class _EarliestGood:
    """Item tables of the epochs that can still be "the earliest to reach ``share`` of the best recall".

    Such an epoch beats every epoch before it, so only record values are kept, and of these only those that reach the
    share of the present best.
    """

    share: float
    recalls: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    tables: list[Tensor] = field(default_factory=list)
    validated: int = 0

    def offer(self, recall: float, table: Tensor) -> None:
        self.validated += 1
        if self.recalls and recall <= self.recalls[-1]:
            return
        keep = [i for i, r in enumerate(self.recalls) if r >= self.share * recall]
        self.recalls = [self.recalls[i] for i in keep] + [recall]
        self.epochs = [self.epochs[i] for i in keep] + [self.validated]
        self.tables = [self.tables[i] for i in keep] + [table.detach().clone()]

    def state(self) -> dict[str, Any]:
        tables = {f"table{i}": t for i, t in enumerate(self.tables)}
        return {"recalls": self.recalls, "epochs": self.epochs, "validated": self.validated, **tables}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.recalls, self.epochs, self.validated = list(state["recalls"]), list(state["epochs"]), state["validated"]
        self.tables = [state[f"table{i}"] for i in range(len(self.recalls))]


def behaviour_embeddings(
    sequences: Sequences, n_items: int, rng: Rng, runtime: Runtime, config: BehaviourConfig
) -> np.ndarray:
    """float32 ``[N, width]`` item vectors learned from ``sequences`` (training data of every protocol) alone.

    The last item of a seeded share of the users with at least three items selects the epoch: the earliest that reaches
    ``recall_share`` of the best recall@10. Items without interactions keep a decayed random
    vector; the caller masks them.
    """
    able = np.flatnonzero(sequences.lengths >= 3)
    if not len(able):
        raise InputError(
            "behaviour sequences", got="no user with three items", wanted="at least one", do="use features.behaviour=none"
        )
    n_held = max(1, round(config.holdout * len(able)))
    held = np.sort(rng.child("holdout").numpy().permutation(able)[:n_held])
    last = sequences.indptr[held + 1] - 1
    targets = sequences.items[last]
    indptr = sequences.indptr - np.searchsorted(held, np.arange(sequences.n_users + 1))
    train = Sequences(indptr, np.delete(sequences.items, last))
    histories = take_sequences(train, held)
    check_histories(histories, targets, n_items)

    network = _Network(config, n_items).to(runtime.device)
    network.initialise(runtime.generator(rng.child("initial")))
    windows = TrainingWindows(train, config.max_length, config.batch_positions, rng.child("windows"))
    kept = _EarliestGood(config.recall_share)

    def validate() -> float:
        ranks = rank_items(network, histories, targets, config.max_length, runtime)
        recall = float(np.mean(np.clip(10 - ranks.better, 0, ranks.tied) / ranks.tied))
        kept.offer(recall, network.item_table)
        return recall

    log = runtime.train(
        item_plan(
            "behaviour",
            config,
            network,
            windows,
            rng,
            runtime,
            weight_decay=config.item_decay,
            no_decay=[name for name, _ in network.named_parameters() if name != "item_table"],
            validate=validate,
            extra_state=kept.state,
            load_extra_state=kept.restore,
        )
    )
    runtime.report(
        f"  behaviour: epoch {kept.epochs[0]} of {log.epochs}, recall@10 {kept.recalls[0]:.4f} (best {kept.recalls[-1]:.4f})"
    )
    log.best_epoch = kept.epochs[0]
    return to_numpy(kept.tables[0])
