"""Encode a catalogue of any size in blocks of items, so that memory does not grow with items times dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.mapped import forget, scratch_matrix
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.tokenizers.base import SemanticIds, Tokenizer


def encode_in_blocks(
    tokenizer: Tokenizer,
    features: ItemFeatures,
    runtime: Runtime,
    *,
    rows: int = 65_536,
    reconstruction: bool = False,
    scratch: Path | None = None,
) -> SemanticIds:
    """What ``tokenizer.encode(features, runtime)`` gives, from blocks of at most ``rows`` items.

    Beside the result (codes int32 ``[N, L]``, and weights where the method has them) only one block is held: its inputs
    on the device and what ``encode`` makes of them. Reconstructions are as large as the input, so they are left out
    unless ``reconstruction``; large ones are then maps of files in the folder ``scratch`` if one is given. Memory-mapped
    features are read block by block.

    Raises ``InputError`` for a tokenizer whose codes depend on other items (``itemwise`` is False) or ``rows < 1``.
    """
    if not tokenizer.itemwise:
        raise InputError(
            f"{type(tokenizer).__name__}: encoding in blocks",
            got="codes that depend on the whole catalogue",
            wanted="a tokenizer that treats every item by itself",
            do="call encode on the whole catalogue",
        )
    if rows < 1:
        raise InputError("encoding in blocks: rows", got=rows, wanted="1 or more")
    n = features.n_items
    first = tokenizer.encode(features.block(0, rows), runtime)
    codes = np.empty((n, first.code_length), np.int32)
    weights = None if first.weights is None else np.empty((n, first.code_length), np.float32)
    decoded = {
        m: np.empty((n, e.shape[1]), np.float32)
        if scratch is None
        else scratch_matrix(scratch, f"reconstruction.{m}", (n, e.shape[1]))
        for m, e in first.reconstruction.items()
        if reconstruction
    }
    for start in range(0, n, rows):
        sids = tokenizer.encode(features.block(start, start + rows), runtime) if start else first
        if not np.array_equal(sids.sizes, first.sizes) or (sids.weights is None) != (weights is None):
            raise StageError(
                f"{type(tokenizer).__name__}: sizes or weights differ between blocks of items, though the "
                "class declares itemwise; set itemwise = False."
            )
        part = slice(start, start + sids.n_items)
        codes[part] = sids.codes
        if weights is not None:
            weights[part] = sids.weights
        for name, array in decoded.items():
            array[part] = sids.reconstruction[name]
            forget(array)
        features.forget()
    return SemanticIds(codes, first.sizes, first.ordered, weights, decoded, first.position_names)
