"""A small next-item model over vectors of items, for tokenizers that are tuned through their recommender."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.blocks.losses.alignment import ABSENT
from sidbench.tokenizers.blocks.training.mlp import linear

SOFTMAX_TEMPERATURE = 0.07
ITEM_MULTIPLE = 256  # numbers of different items are padded to a multiple: CPU kernels are compiled per shape


@dataclass(frozen=True)
class Histories:
    """A batch of histories over its ``M`` different items.

    items: int64 ``[M]``, catalogue numbers; the last ones may be fillers, which ``real`` bool ``[M]`` marks False.
    place: int64 ``[B, T + 1]``, the row in ``items`` of each event, oldest first. valid: bool ``[B, T]``: event t + 1
    exists, so that it is a target.
    """

    items: Tensor
    real: Tensor
    place: Tensor
    valid: Tensor


class HistoryWindows:
    """Windows of ``length + 1`` events of training sequences with at least two; each call draws where they begin."""

    def __init__(self, sequences: Sequences, length: int, rng: Rng, runtime: Runtime) -> None:
        users = np.flatnonzero(sequences.lengths > 1)
        self.events = runtime.tensor(sequences.items.astype(np.int64))
        self.first = runtime.tensor(sequences.indptr[users].astype(np.int64))
        self.lengths = runtime.tensor(sequences.lengths[users].astype(np.int64))
        self.length, self.rng = length, rng

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Tensor, step: int) -> Histories:
        """Windows of the users ``rows`` int64 ``[B]``, a pure function of rows and step."""
        draw = torch.as_tensor(self.rng.child(step).numpy().random(len(rows)), device=rows.device)
        spare = (self.lengths[rows] - self.length - 1).clamp(min=0)
        begin = self.first[rows] + (draw * (spare + 1)).long()
        offset = torch.arange(self.length + 1, device=rows.device)
        exists = offset < self.lengths[rows, None].clamp(max=self.length + 1)  # [B, T + 1]
        event = self.events[torch.where(exists, begin[:, None] + offset, begin[:, None])]
        items, place = torch.unique(event, return_inverse=True)
        real = torch.arange(-(-len(items) // ITEM_MULTIPLE) * ITEM_MULTIPLE, device=rows.device) < len(items)
        items = torch.cat([items, items[:1].expand(len(real) - len(items))])
        return Histories(items, real, place, exists[:, 1:])


class NextItem(nn.Module):
    """A GRU over projected item vectors; the next item is scored by cosine against the projected items of the batch."""

    def __init__(self, inputs: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.project = linear(inputs, width, generator)
        gru = nn.GRU(width, width, batch_first=True, device=torch.device("meta"))  # its own initialisation is global
        self.gru = gru.to_empty(device=generator.device)
        for parameter in self.gru.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)

    def loss(self, vectors: Tensor, batch: Histories) -> Tensor:
        """Mean cross-entropy of the next items among the batch's items; vectors ``[M, inputs]`` of ``batch.items``."""
        projected = self.project(vectors)
        states = self.gru(projected[batch.place[:, :-1]])[0]  # [B, T, width]
        logits = F.normalize(states[batch.valid], dim=1) @ F.normalize(projected, dim=1).t() / SOFTMAX_TEMPERATURE
        return F.cross_entropy(logits.masked_fill(~batch.real, ABSENT), batch.place[:, 1:][batch.valid])
