"""Embeddings of one's own as the ``ItemFeatures`` that every tokenizer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sidbench.datasets.features.assemble import assemble_features
from sidbench.datasets.features.base import MODALITIES, ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.splits.base import Sequences

NOT_GIVEN = "not given to features_from_arrays"


def features_from_arrays(
    *,
    text: Any = None,
    vision: Any = None,
    behaviour: Any = None,
    counts: Any = None,
    sequences: Sequences | Sequence[Any] | None = None,
    available: Mapping[str, Any] | None = None,
    categories: Sequence[str | Sequence[str]] | None = None,
    item_text: Sequence[str] | None = None,
    item_keys: Sequence[str] | None = None,
    richness: str = "auto",
) -> ItemFeatures:
    """Item features from arrays, checked and scaled as the pipeline does it: one scalar a modality.

    Parameters
    ----------
    text, vision, behaviour: numbers ``[N, D_m]`` (array, tensor or frame), at least one of the three; row ``i`` of each
        is the same item. NaN and infinite values are refused, except in rows that are not available.
    counts: whole numbers ``[N]``, training interactions of each item. Left out, they are counted from ``sequences``;
        without both every item counts as never seen in training, so that tokenizers need ``fit_items="all"``.
    sequences: training sequences, one per user, oldest event first: item numbers ``0..N-1``. Behaviour-tuned tokenizers
        and the co-occurrence metrics read them.
    available: modality -> bool ``[N]``, ``False`` where an item has no such embedding. By default every item has its
        content embeddings, and those with training interactions their behaviour embedding.
    categories: per item the path from root to leaf; a single string is a path of one step.
    item_text, item_keys: per item its text, and its key in the raw data.
    richness: proxy of how much behaviour an item has: "auto", "norm", "log_count", ...

    Returns ``ItemFeatures`` with float32 embeddings of mean squared norm 1. Raises ``InputError`` for wrong shapes and
    types, NaN, unequal numbers of items, item numbers out of range and constant embeddings.
    """
    given = {name: array for name, array in zip(MODALITIES, (text, vision, behaviour), strict=True) if array is not None}
    if not given:
        raise InputError("features_from_arrays", got="no embeddings", wanted=f"one of {', '.join(MODALITIES)}")
    raw = {name: _matrix(name, array) for name, array in given.items()}
    sizes = {name: len(rows) for name, rows in raw.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(
            "embeddings",
            got=", ".join(f"{n:,} rows of {name}" for name, n in sizes.items()),
            wanted="the same items, in the same order, in each",
            do="mark items without an embedding in available= instead of leaving them out",
        )
    n_items = next(iter(sizes.values()))
    histories = _sequences(sequences, n_items)
    return assemble_features(
        raw=raw,
        available={name: _mask(name, mask, raw, n_items) for name, mask in (available or {}).items()},
        absent={name: NOT_GIVEN for name in MODALITIES if name not in raw},
        train_counts=_counts(counts, sequences is not None, histories, n_items, "behaviour" in raw),
        sequences=histories,
        richness=richness,
        categories=None if categories is None else tuple(_path(i, path) for i, path in enumerate(categories)),
        item_text=_strings("item_text", item_text),
        item_keys=_strings("item_keys", item_keys),
    )


def factors(own: Mapping[str, float], wanted: Mapping[str, float]) -> dict[str, float]:
    """Modality -> what turns embeddings scaled by ``own`` into those scaled by ``wanted``, where the two differ."""
    return {m: own[m] / wanted[m] for m in own if m in wanted and own[m] != wanted[m]}


def rescaled(embeddings: Mapping[str, np.ndarray], factor: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Embeddings float32 ``[N, D_m]`` by modality, multiplied by ``factor`` where it has one."""
    return {m: (rows * np.float64(factor[m])).astype(np.float32) if m in factor else rows for m, rows in embeddings.items()}


def _matrix(name: str, array: Any) -> np.ndarray:
    """float ``[N, D]``. Narrow floats and whole numbers become float32, as large files of embeddings are kept."""
    rows = np.asarray(array)
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or 0 in rows.shape:
        raise InputError(
            f"{name} embeddings",
            got=f"{rows.dtype} of shape {rows.shape}",
            wanted="numbers of shape (items, dimensions)",
            do="give one row of numbers per item",
        )
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)


def _mask(name: str, mask: Any, raw: Mapping[str, np.ndarray], n_items: int) -> np.ndarray:
    if name not in raw:
        raise InputError("available", got=repr(name), wanted=f"one of {', '.join(raw)}", do="give its embeddings, too")
    marks = np.asarray(mask)
    if marks.dtype != np.bool_ or marks.shape != (n_items,):
        raise InputError(f"available[{name!r}]", got=f"{marks.dtype} of shape {marks.shape}", wanted=f"bool ({n_items},)")
    return marks


def _sequences(sequences: Sequences | Sequence[Any] | None, n_items: int) -> Sequences:
    """Checked sequences; empty ones of no user where none are given."""
    if isinstance(sequences, Sequences):
        parts = [np.asarray(sequences.of(user)) for user in range(sequences.n_users)]
    else:
        parts = [np.asarray(sequence) for sequence in sequences or ()]
    for user, part in enumerate(parts):
        if part.ndim != 1 or (part.size and part.dtype.kind not in "iu"):
            raise InputError(
                f"sequences[{user}]", got=f"{part.dtype} of shape {part.shape}", wanted="item numbers, oldest first"
            )
        if part.size and (part.min() < 0 or part.max() >= n_items):
            raise InputError(f"sequences[{user}]", got=f"items {part.min()}..{part.max()}", wanted=f"0..{n_items - 1}")
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return Sequences(indptr, np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32))


def _counts(counts: Any, told: bool, sequences: Sequences, n_items: int, behaviour: bool) -> np.ndarray:
    seen = np.bincount(sequences.items, minlength=n_items).astype(np.int64)
    if counts is None:
        if behaviour and not told:
            raise InputError(
                "counts",
                got="none, beside behaviour embeddings",
                wanted="training interactions of each item, which say whose behaviour embedding was learned",
                do="give counts= or sequences=",
            )
        return seen
    numbers = np.asarray(counts)
    if numbers.dtype.kind == "f" and np.isfinite(numbers).all() and (numbers == np.round(numbers)).all():
        numbers = numbers.astype(np.int64)
    if numbers.dtype.kind not in "iu" or numbers.shape != (n_items,) or numbers.min(initial=0) < 0:
        raise InputError(
            "counts",
            got=f"{numbers.dtype} of shape {numbers.shape}, smallest {numbers.min() if numbers.size else 'none'}",
            wanted=f"whole numbers from 0 of shape ({n_items},)",
        )
    if told and (numbers != seen).any():
        item = int(np.flatnonzero(numbers != seen)[0])
        raise InputError(
            "counts and sequences",
            got=f"item {item} {numbers[item]} times in counts and {seen[item]} times in sequences",
            wanted="the same training interactions in both",
            do="leave counts out: they are counted from the sequences",
        )
    return numbers.astype(np.int64)


def _path(item: int, path: str | Sequence[str]) -> tuple[str, ...]:
    steps = (path,) if isinstance(path, str) else path
    if not isinstance(steps, (list, tuple)) or not all(isinstance(step, str) for step in steps):
        raise InputError(f"categories[{item}]", got=repr(path)[:80], wanted="a string, or a path of strings")
    return tuple(steps)


def _strings(name: str, values: Sequence[str] | None) -> tuple[str, ...] | None:
    for item, value in enumerate(values if values is not None else ()):
        if not isinstance(value, str):
            raise InputError(f"{name}[{item}]", got=repr(value)[:80], wanted="a string", do="use '' where there is none")
    return None if values is None else tuple(values)
