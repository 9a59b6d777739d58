"""Prefix instances for encoder-decoder models: every position of a sequence after its first is one example.

An instance is (items before the position, the item at it). Instances of all lengths are shuffled together, as
independent examples should be; only inside a batch are they sorted by length and cut into parts of equally many rows,
each padded to one of a few widths. So a batch wastes little on padding (prefixes hold 6.7 items on average on Beauty,
20 at most), tensor shapes stay few, and the batch is never held at once (``in_parts``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.blocks.windows import gather_windows

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 50)
PART_ROWS = 32


def prefix_widths(max_length: int) -> np.ndarray:
    """int64, ascending: the fixed widths in items below ``max_length``, then ``max_length`` itself."""
    return np.array([w for w in WIDTHS if w < max_length] + [max_length], np.int64)


@dataclass(frozen=True)
class PrefixPart:
    """``R`` instances of similar length.

    items: int64 ``[R, T]``, oldest first, left-aligned, -1 behind the end. length: int64 ``[R]`` in items, at least 1.
    targets: int64 ``[R]``, the item that follows.
    """

    items: np.ndarray
    length: np.ndarray
    targets: np.ndarray


class PrefixInstances:
    """Batches of all prefix instances of a training set as a pure function of (epoch, index).

    Instances come from one endless stream of seeded permutations, each cut into batches of ``batch_size`` (the last of
    a permutation may be smaller). An epoch is the next ``steps_per_epoch`` batches of the stream: one whole permutation
    by default, so that every target occurs once an epoch, else a share of it, so that nothing repeats before all else
    was seen.

    Parameters
    ----------
    sequences: one per user; those of fewer than two items hold no instance (``n_without_target``).
    max_length: items of an instance at most, the newest ones; ``n_truncated`` counts users with longer prefixes.
    batch_size: instances of an optimiser step.
    rng: seeds the permutations.
    instances_per_epoch: 0 for all, else rounded to whole batches, at least one and at most a whole permutation.

    Raises ``InputError`` if there is no instance.
    """

    def __init__(
        self, sequences: Sequences, max_length: int, batch_size: int, rng: Rng, instances_per_epoch: int = 0
    ) -> None:
        n_targets = np.maximum(sequences.lengths - 1, 0)
        self.n_targets = int(n_targets.sum())
        self.n_without_target = int((n_targets == 0).sum())
        self.n_truncated = int((n_targets > max_length).sum())
        if self.n_targets == 0:
            raise InputError(
                "training sequences",
                got=f"{sequences.n_users} users, none with two items",
                wanted="at least one pair of consecutive items",
                do="check the split",
            )
        user = np.repeat(np.arange(sequences.n_users), n_targets)
        before = np.arange(self.n_targets) - np.repeat(np.cumsum(n_targets) - n_targets, n_targets) + 1
        self._end = sequences.indptr[:-1][user] + before
        self._length = np.minimum(before, max_length)
        self._items, self._rng, self._batch_size = sequences.items, rng, batch_size
        self._widths = prefix_widths(max_length)
        self._steps_per_pass = -(-self.n_targets // batch_size)
        wanted = round(instances_per_epoch / batch_size) if instances_per_epoch else self._steps_per_pass
        self.steps_per_epoch = min(max(wanted, 1), self._steps_per_pass)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def batch(self, epoch: int, index: int) -> tuple[PrefixPart, ...]:
        """Batch ``index`` of ``epoch``, shortest instances first, in parts of ``PART_ROWS`` rows."""
        passed, step = divmod(epoch * self.steps_per_epoch + index, self._steps_per_pass)
        if self._order[0] != passed:
            self._order = (passed, self._rng.child("pass", passed).numpy().permutation(self.n_targets))
        chosen = self._order[1][step * self._batch_size : (step + 1) * self._batch_size]
        chosen = chosen[np.argsort(self._length[chosen], kind="stable")]
        return tuple(self._part(chosen[i : i + PART_ROWS]) for i in range(0, len(chosen), PART_ROWS))

    def _part(self, chosen: np.ndarray) -> PrefixPart:
        length, end = self._length[chosen], self._end[chosen]
        width = int(self._widths[np.searchsorted(self._widths, length.max())])
        return PrefixPart(
            gather_windows(self._items, end - length, length, width), length, self._items[end].astype(np.int64)
        )


def prefix_windows(histories: Sequences, rows: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The newest ``max_length`` items of the histories ``rows`` int64 ``[B]``: items int64 ``[B, T]`` (left-aligned, -1
    behind the end, ``T`` one of the fixed widths) and their length int64 ``[B]``."""
    end = histories.indptr[1:][rows]
    length = np.minimum(end - histories.indptr[:-1][rows], max_length)
    widths = prefix_widths(max_length)
    width = int(widths[np.searchsorted(widths, length.max())])
    return gather_windows(histories.items, end - length, length, width), length


def similar_rows(histories: Sequences, max_length: int, rows: int) -> Iterator[np.ndarray]:
    """Yield int64 ``[B]`` row numbers of histories that fit one width, at most ``rows`` each, covering all once."""
    length = np.minimum(histories.lengths, max_length)
    bucket = np.searchsorted(prefix_widths(max_length), length)
    for b in np.unique(bucket):
        members = np.flatnonzero(bucket == b)
        for i in range(0, len(members), rows):
            yield members[i : i + rows]


class _KnownGradients(torch.autograd.Function):
    """A scalar whose gradients by the parameters are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if g is None else g.mul_(grad) for g in ctx.gradients)


def in_parts(part_loss: Callable[[int], Tensor], n_parts: int, parameters: Sequence[Tensor]) -> Tensor:
    """``sum_i part_loss(i)``, differentiable once by ``parameters``, while only one part's activations are held.

    Each part's gradients are taken at once and added up, so memory and caches see a part instead of a batch; the value
    and the gradients equal those of the plain sum up to rounding.
    """
    if not torch.is_grad_enabled():
        return torch.stack([part_loss(i) for i in range(n_parts)]).sum()
    parameters = [p for p in parameters if p.requires_grad]
    total: Tensor | None = None
    gradients: list[Tensor | None] = [None] * len(parameters)
    for i in range(n_parts):
        loss = part_loss(i)
        total = loss.detach() if total is None else total + loss.detach()
        for j, grad in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            known = gradients[j]
            gradients[j] = grad if known is None or grad is None else known.add_(grad)
            if grad is None:
                gradients[j] = known
    if total is None:
        raise InputError("training batch", got="no part", wanted="at least one instance")
    result: Tensor = _KnownGradients.apply(total, gradients, *parameters)
    return result
