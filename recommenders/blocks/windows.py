"""Sequences as fixed-shape batches: windows of at most ``max_length`` items, bucketed into a few lengths.

Most sequences are short (Beauty: 5.9 targets a user), so one padded length would waste up to 89 % of the positions;
a few fixed lengths keep padding low and the number of distinct tensor shapes small, which CPU kernels and allocators
reward. Every item of a training sequence after the first is a target exactly once per epoch: a sequence longer than
the window is cut, from its end, into consecutive windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences

BUCKETS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
NO_ITEM = -1


def bucket_lengths(max_length: int) -> np.ndarray:
    """int64 ``[buckets]``, ascending: the fixed lengths below ``max_length``, then ``max_length`` itself."""
    return np.array([b for b in BUCKETS if b < max_length] + [max_length], np.int64)


def gather_windows(items: np.ndarray, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """int64 ``[B, width]``: ``items[start:start + length]`` of each window, left-aligned, then ``NO_ITEM``."""
    steps = np.arange(width)
    index = np.minimum(start[:, None] + steps, len(items) - 1)
    return np.where(steps < length[:, None], items[index], NO_ITEM).astype(np.int64)


@dataclass(frozen=True)
class WindowBatch:
    """One training batch of ``B`` windows of width ``T`` with ``P`` labelled positions.

    items: int64 ``[B, T]``, left-aligned, -1 behind the end. length: int64 ``[B]`` inputs of each window (0 for rows
    that only fill the fixed shape). labelled: int64 ``[P]`` index of each label in the flattened ``B * T`` positions.
    targets: int64 ``[P]`` next item at each labelled position.
    """

    items: np.ndarray
    length: np.ndarray
    labelled: np.ndarray
    targets: np.ndarray

    def tensors(self, runtime: Runtime) -> dict[str, Tensor]:
        """``targets``, ``labelled`` and ``items`` on the runtime's device; behind the end of a window stands item 0, which
        causal masks hide from every label."""
        return {
            "targets": runtime.tensor(self.targets),
            "labelled": runtime.tensor(self.labelled),
            "items": runtime.tensor(np.maximum(self.items, 0)),
        }


class TrainingWindows:
    """Batches of a training set as a pure function of (epoch, index).

    Parameters
    ----------
    sequences: one per user; those of fewer than two items hold no target (``n_without_target``)
    max_length: inputs a window holds at most.
    batch_positions: positions of one batch, padding included; width ``T`` has ``batch_positions // T`` rows.
    rng: seeds the order of windows in an epoch.

    ``n_truncated`` counts users whose targets see a shortened history. Raises ``InputError`` if there is no target.
    """

    def __init__(self, sequences: Sequences, max_length: int, batch_positions: int, rng: Rng) -> None:
        n_inputs = np.maximum(sequences.lengths - 1, 0)
        self.n_targets = int(n_inputs.sum())
        self.n_without_target = int((n_inputs == 0).sum())
        self.n_truncated = int((n_inputs > max_length).sum())
        if self.n_targets == 0:
            raise InputError(
                "training sequences",
                got=f"{sequences.n_users} users, none with two items",
                wanted="at least one pair of consecutive items",
                do="check the split",
            )
        self._items, self._rng = sequences.items, rng
        pieces = -(-n_inputs // max_length)
        user = np.repeat(np.arange(sequences.n_users), pieces)
        piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        # Cut from the end, so that the newest window is full and the oldest takes the remainder.
        end = n_inputs[user] - (pieces[user] - 1 - piece) * max_length
        begin = np.maximum(end - max_length, 0)
        self._start, self._length = sequences.indptr[:-1][user] + begin, end - begin
        self._widths = bucket_lengths(max_length)
        self._rows = np.maximum(batch_positions // self._widths, 1)
        bucket = np.searchsorted(self._widths, self._length)
        self._members = [np.flatnonzero(bucket == b) for b in range(len(self._widths))]
        self.steps_per_epoch = int(sum(-(-len(m) // r) for m, r in zip(self._members, self._rows, strict=True)))
        self._plan: tuple[int, list[tuple[int, np.ndarray]]] = (-1, [])

    def _epoch_plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        if self._plan[0] != epoch:
            generator = self._rng.child("epoch", epoch).numpy()
            batches = []
            for bucket, (members, rows) in enumerate(zip(self._members, self._rows, strict=True)):
                order = generator.permutation(members)
                batches += [(bucket, order[i : i + rows]) for i in range(0, len(order), int(rows))]
            self._plan = (epoch, [batches[i] for i in generator.permutation(len(batches))])
        return self._plan[1]

    def batch(self, epoch: int, index: int) -> WindowBatch:
        """Batch ``index`` of ``epoch``; the last batch of a length is filled up with empty rows to its fixed shape."""
        bucket, members = self._epoch_plan(epoch)[index]
        rows, width = int(self._rows[bucket]), int(self._widths[bucket])
        start, length = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        start[: len(members)], length[: len(members)] = self._start[members], self._length[members]
        items = gather_windows(self._items, start, length, width)
        targets = gather_windows(self._items, start + 1, length, width).reshape(-1)
        labelled = np.flatnonzero(targets != NO_ITEM)
        return WindowBatch(items, length, labelled, targets[labelled])


def check_histories(histories: Sequences, targets: np.ndarray, n_items: int) -> None:
    """Raise ``InputError`` unless every history has an item, all items exist and there is one target per history."""
    if histories.n_users != len(targets):
        raise InputError("targets", got=len(targets), wanted=f"one per history ({histories.n_users})")
    empty = np.flatnonzero(histories.lengths == 0)
    if len(empty):
        raise InputError(
            "histories",
            got=f"{len(empty)} without an item (first: row {empty[0]})",
            wanted="at least one item each",
            do="leave users without history out of the evaluation",
        )
    for name, items in (("history items", histories.items), ("targets", targets)):
        if len(items) and (items.min() < 0 or items.max() >= n_items):
            raise InputError(name, got=f"{items.min()}..{items.max()}", wanted=f"0..{n_items - 1}")


def count_truncated(histories: Sequences, max_length: int) -> int:
    """Histories longer than the window, whose oldest items the model does not see."""
    return int((histories.lengths > max_length).sum())


def history_batches(
    histories: Sequences, max_length: int, batch_positions: int, max_rows: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ``(users int64 [B], items int64 [B, T], length int64 [B])`` covering every history once.

    ``items`` are the last ``max_length`` items, left-aligned; batches hold histories of similar length.
    """
    length = np.minimum(histories.lengths, max_length)
    start = histories.indptr[1:] - length
    widths = bucket_lengths(max_length)
    bucket = np.searchsorted(widths, length)
    for b, width in enumerate(widths):
        members = np.flatnonzero(bucket == b)
        rows = min(max(batch_positions // int(width), 1), max_rows)
        for i in range(0, len(members), rows):
            users = members[i : i + rows]
            yield users, gather_windows(histories.items, start[users], length[users], int(width)), length[users]


def take_sequences(sequences: Sequences, users: np.ndarray) -> Sequences:
    """The sequences of ``users`` int ``[B]``, in that order."""
    lengths = sequences.lengths[users]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - sequences.indptr[users], lengths)
    return Sequences(indptr, sequences.items[index])
