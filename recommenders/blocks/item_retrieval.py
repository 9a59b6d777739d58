"""What item-ID baselines share: a table of items, the full softmax over it, and the rank of every item.

A baseline is a network from windows of items to context vectors; ``score(i) = <h_t, e_i>`` with the table it reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import RetrievalData, TargetRanks
from sidbench.recommenders.blocks.exact import Candidates, RankCollector, expected_ndcg, rank_scores, softmax_loss
from sidbench.recommenders.blocks.retrieval import NeuralRetriever
from sidbench.recommenders.blocks.states import load_into, training_notes
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import TrainingWindows, check_histories, history_batches
from sidbench.tokenizers.base import SemanticIds

INFERENCE_POSITIONS = 8192


class ItemNetwork(nn.Module):
    """Base of the networks: one row of ``item_table`` float32 ``[N, width]`` an item."""

    item_table: nn.Parameter

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter from ``generator``, which lives on the network's device."""

    @abstractmethod
    def forward(self, items: Tensor, length: Tensor) -> Tensor:
        """Context vectors ``[B, T, width]`` of left-aligned windows ``items`` int64 ``[B, T]``, ``length`` int64 ``[B]``."""


def item_plan(
    name: str, config: Any, network: ItemNetwork, windows: TrainingWindows, rng: Rng, runtime: Runtime, **more: Any
) -> TrainingPlan:
    """Cross-entropy over all items at every labelled position; ``more`` goes to the plan."""

    def batch(epoch: int, index: int) -> dict[str, Tensor]:
        made = windows.batch(epoch, index)
        return {**made.tensors(runtime), "length": runtime.tensor(made.length)}

    def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
        hidden = network(made["items"], made["length"]).flatten(0, 1).index_select(0, made["labelled"])
        return softmax_loss(hidden, network.item_table, made["targets"])

    return TrainingPlan(
        name,
        network,
        windows.steps_per_epoch,
        config.epochs,
        batch,
        loss,
        rng.child("training"),
        learning_rate=config.learning_rate,
        betas=(0.9, 0.98),
        clip_norm=0.0,
        patience=config.patience,
        batch_setting=("batch_positions", config.batch_positions),
        **more,
    )


@torch.no_grad()
def rank_items(
    network: ItemNetwork, histories: Sequences, targets: np.ndarray, max_length: int, runtime: Runtime
) -> TargetRanks:
    """Exact rank intervals of ``targets`` by the inner products of the newest context vector with all items."""
    network = network.to(runtime.device).eval()
    candidates = Candidates(histories, targets, len(network.item_table))
    collector = RankCollector(len(targets))
    for users, items, length in history_batches(histories, max_length, INFERENCE_POSITIONS):
        length_t = runtime.tensor(length)
        hidden = network(runtime.tensor(np.maximum(items, 0)), length_t)
        last = hidden[torch.arange(len(users), device=hidden.device), length_t - 1]
        collector.add(users, rank_scores(last @ network.item_table.T, users, candidates, runtime))
    return collector.result()


Net = TypeVar("Net", bound=ItemNetwork)


class ItemRetriever(NeuralRetriever[Net]):
    """A retriever over item IDs, which reads no SIDs. A plugin defines ``_make_network``.

    Its config has ``max_length``, ``learning_rate``, ``batch_positions``, ``epochs``, ``patience``, ``validation_users``.
    """

    @abstractmethod
    def _make_network(self, n_items: int) -> Net:
        """The network for a catalogue of ``n_items``."""

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config = self.config
        network = self.network_ = self._make_network(data.n_items).to(runtime.device)
        network.initialise(runtime.generator(rng.child("initial")))
        windows = TrainingWindows(data.train, config.max_length, config.batch_positions, rng.child("windows"))
        histories, targets = validation_subset(data, config.validation_users, rng)
        log = runtime.train(
            item_plan(
                self.name,
                config,
                network,
                windows,
                rng,
                runtime,
                validate=lambda: expected_ndcg(self._ranks(histories, targets, runtime), 10),
            )
        )
        self._notes = training_notes(log, windows)
        return self

    def rank_targets(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds | None, runtime: Runtime
    ) -> TargetRanks:
        check_histories(histories, targets, len(self._network().item_table))
        return self._measured(histories, lambda: (self._ranks(histories, targets, runtime), {}))

    def _ranks(self, histories: Sequences, targets: np.ndarray, runtime: Runtime) -> TargetRanks:
        return rank_items(self._network(), histories, targets, self.config.max_length, runtime)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        if "item_table" not in state:
            raise InputError(f"{self.name}: saved state", got="no entry item_table", wanted=f"a state of {self.name}")
        network = self._make_network(len(state["item_table"]))
        load_into(network, state, self.name)
        self.network_ = network
