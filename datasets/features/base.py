"""``ItemFeatures``: what a tokenizer sees of the items, and the one scaling rule all modalities share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.mapped import forget, row_blocks
from sidbench.datasets.splits.base import Sequences

MODALITIES = ("text", "vision", "behaviour")


@dataclass(frozen=True)
class ItemFeatures:
    """Embeddings of ``N`` items and what is known about their training behaviour.

    modalities: name -> float32 ``[N, D_m]``, scaled by one scalar each so that the mean squared norm over available
        items is 1 (within-modality geometry is untouched). Only modalities that exist are present. Large ones may be
        read-only memory maps.
    available: name -> bool ``[N]``; rows that are not available are zero.
    absent: modality -> reason, for every declared but missing modality; never replaced in silence.
    train_counts: int64 ``[N]`` interactions per item that are training data in every protocol of the run.
    richness: float32 ``[N]`` in [0, 1], how much behaviour an item has (0 for items without training interactions).
    richness_proxy: name of the proxy that ``richness`` holds ("norm", "log_count", ...).
    scales: name -> the scalar divided out. notes: numbers to put on the record ("spearman_norm_count": 0.31).
    sequences: training sequences of users, for behaviour-tuned tokenizers.
    categories: per item the path from root to leaf, or ``None``.
    item_text: per item one string, or ``None``. item_keys: raw keys of the catalogue, or ``None``; they name items in
        tables from elsewhere and are no input of a method. provenance: content hash of everything above.
    """

    modalities: Mapping[str, np.ndarray]
    available: Mapping[str, np.ndarray]
    train_counts: np.ndarray
    richness: np.ndarray
    richness_proxy: str
    sequences: Sequences
    scales: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)
    categories: tuple[tuple[str, ...], ...] | None = None
    item_text: tuple[str, ...] | None = None
    provenance: str = ""
    item_keys: tuple[str, ...] | None = None

    @property
    def n_items(self) -> int:
        return len(self.train_counts)

    def dims(self) -> dict[str, int]:
        """Modality -> width, in the fixed order text, vision, behaviour, then any other by name."""
        return {m: self.modalities[m].shape[1] for m in self.ordered_names()}

    def ordered_names(self) -> list[str]:
        known = [m for m in MODALITIES if m in self.modalities]
        return known + sorted(set(self.modalities) - set(MODALITIES))

    def content_names(self) -> list[str]:
        """Every modality except behaviour."""
        return [m for m in self.ordered_names() if m != "behaviour"]

    def concatenated(self, names: Sequence[str] | None = None) -> np.ndarray:
        """float32 ``[N, sum D_m]`` of the named (default: content) modalities.

        Raises ``InputError`` when no named modality is present.
        """
        wanted = self.content_names() if names is None else [m for m in names if m in self.modalities]
        if not wanted:
            raise InputError(
                "no usable modality",
                got=f"present: {sorted(self.modalities)}, absent: {dict(self.absent)}",
                wanted=f"one of {list(names or ['text', 'vision'])}",
                do="choose an encoder with features.text=… or features.vision=…",
            )
        return np.concatenate([self.modalities[m] for m in wanted], axis=1)

    def forget(self) -> None:
        """Give the resident pages of memory-mapped modalities back to the kernel; values stay."""
        for embeddings in self.modalities.values():
            forget(embeddings)

    def fit_rows(self, fit_items: str) -> np.ndarray:
        """int64 indices of the items statistics are fitted on: ``train`` (seen in training) or ``all``.

        Raises ``InputError`` for another word, or when no item was seen in training.
        """
        if fit_items == "all":
            return np.arange(self.n_items)
        if fit_items != "train":
            raise InputError("fit_items", got=repr(fit_items), wanted="train or all")
        rows = np.flatnonzero(self.train_counts > 0)
        if not len(rows):
            raise InputError(
                "no item occurs in training interactions", wanted="at least one", do="use fit_items=all or check the split"
            )
        return rows

    def take(self, rows: np.ndarray) -> ItemFeatures:
        """The same features for the items ``rows`` only (used to encode items never seen in fit)."""
        rows = np.asarray(rows)
        keep = np.full(self.n_items, -1, np.int64)
        keep[rows] = np.arange(len(rows))
        items = keep[self.sequences.items]
        owner = np.repeat(np.arange(self.sequences.n_users), self.sequences.lengths)[items >= 0]
        counts = np.bincount(owner, minlength=self.sequences.n_users)
        return ItemFeatures(
            {m: e[rows] for m, e in self.modalities.items()},
            {m: a[rows] for m, a in self.available.items()},
            self.train_counts[rows],
            self.richness[rows],
            self.richness_proxy,
            Sequences(np.concatenate([[0], np.cumsum(counts)]), items[items >= 0].astype(np.int32)),
            self.scales,
            self.absent,
            self.notes,
            None if self.categories is None else tuple(self.categories[i] for i in rows),
            None if self.item_text is None else tuple(self.item_text[i] for i in rows),
            f"{self.provenance}[{len(rows)} rows]",
            None if self.item_keys is None else tuple(self.item_keys[i] for i in rows),
        )

    def block(self, start: int, stop: int) -> ItemFeatures:
        """Items ``start`` to ``stop`` as views without copying (a memory-mapped array stays on disk), without sequences.

        For encoding a large catalogue piece by piece; raises nothing for a ``stop`` beyond the last item.
        """
        part = slice(start, stop)
        return replace(
            self,
            modalities={m: e[part] for m, e in self.modalities.items()},
            available={m: a[part] for m, a in self.available.items()},
            train_counts=self.train_counts[part],
            richness=self.richness[part],
            sequences=Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)),
            categories=None if self.categories is None else self.categories[part],
            item_text=None if self.item_text is None else self.item_text[part],
            item_keys=None if self.item_keys is None else self.item_keys[part],
            provenance=f"{self.provenance}[{start}:{stop}]",
        )


def scale_modality(
    name: str, embeddings: np.ndarray, available: np.ndarray, n_items: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Divide by one scalar so that the mean squared norm over available rows is 1; other rows become zero.

    Parameters: embeddings float ``[N, D]``, available bool ``[N]``; memory maps are read in blocks. out: float32
    ``[N, D]`` to write to, by default new memory; may be ``embeddings``. Returns (float32 ``[N, D]``, scalar).
    Raises ``InputError`` for a wrong row count, NaN or infinite values, or constant (zero-variance) embeddings.
    """
    if embeddings.ndim != 2 or len(embeddings) != n_items:
        raise InputError(
            f"{name} embeddings",
            got=f"shape {embeddings.shape}",
            wanted=f"({n_items}, dimensions)",
            do="export one row per catalogue item, in item order",
        )
    bad, squares = [], []
    lowest, highest = np.full(embeddings.shape[1], np.inf), np.full(embeddings.shape[1], -np.inf)
    for part, block in row_blocks(embeddings):
        rows = block[available[part]]
        bad.append(part.start + np.flatnonzero(available[part])[~np.isfinite(rows).all(axis=1)])
        exact = rows.astype(np.float64)
        squares.append(np.sum(exact**2, axis=1))
        lowest = np.minimum(lowest, exact.min(axis=0, initial=np.inf))
        highest = np.maximum(highest, exact.max(axis=0, initial=-np.inf))
    broken, norms = np.concatenate([*bad, []]), np.concatenate([*squares, []])
    if len(broken):
        raise InputError(
            f"{name} embeddings",
            got=f"NaN or infinite values in {len(broken)} of {len(norms)} rows (first: item {int(broken[0])})",
            wanted="finite numbers",
            do="re-export these rows or mark the items as not available",
        )
    if len(norms) == 0:
        raise InputError(
            f"{name} embeddings",
            got="no available item",
            wanted="at least one",
            do=f"declare the modality absent: features.{name}=none",
        )
    if len(norms) > 1 and float((highest - lowest).max()) < 1e-12:
        raise InputError(
            f"{name} embeddings",
            got="the same vector for every item",
            wanted="vectors that differ",
            do="check the encoder or the export",
        )
    scale = float(np.sqrt(np.mean(norms)))
    scaled = np.empty(embeddings.shape, np.float32) if out is None else out
    for part, block in row_blocks(embeddings):
        scaled[part] = np.where(available[part, None], block / scale, 0)
        forget(scaled)
    return scaled, scale
