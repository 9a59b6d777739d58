"""Shuffled batches of row indices, a pure function of (epoch, index): a resumed training sees the same ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng


class ShuffledBatches:
    """Batches of ``min(batch_size, n)`` rows; each pass over the rows is a fresh permutation.

    All batches have one shape (CPU kernels are compiled per shape): the last batch of a pass is filled from the
    beginning of the same permutation. An ``index`` beyond ``steps_per_epoch`` runs on into later permutations.

    Parameters: n rows; batch_size; rng: node of the permutations; runtime: where the indices live.
    """

    def __init__(self, n: int, batch_size: int, rng: Rng, runtime: Runtime) -> None:
        self.n, self.size = n, min(batch_size, n)
        self.steps_per_epoch = -(-n // self.size)
        self._rng, self._runtime = rng, runtime
        self._number, self._rows = -1, runtime.tensor(np.empty(0, np.int64))

    def __call__(self, epoch: int, index: int) -> Tensor:
        """Row indices int64 ``[B]`` of one step."""
        number = epoch + index // self.steps_per_epoch
        if number != self._number:
            self._rows = self._runtime.tensor(self._rng.child("epoch", number).numpy().permutation(self.n))
            self._number = number
        start = index % self.steps_per_epoch * self.size
        rows = self._rows[start : start + self.size]
        return rows if len(rows) == self.size else torch.cat([rows, self._rows[: self.size - len(rows)]])

    def epochs(self, steps: int) -> int:
        """Passes that hold at least ``steps`` steps."""
        return -(-steps // self.steps_per_epoch)
