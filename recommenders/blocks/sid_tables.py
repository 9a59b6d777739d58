"""Code embeddings of every position in one fused table, so that one lookup serves all positions.

Row layout: the classes of position 0, then those of position 1, and so on. A position where some item has PAD owns
one more class, ``K_p``, for it (spec A31): as an input it is the zero vector, as an output it is a class like others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.base import PAD, SemanticIds


@dataclass(frozen=True)
class CodeLayout:
    """Where the classes of each position lie in the fused table.

    sizes: int32 ``[L]`` codebook sizes. has_pad: bool ``[L]`` positions with a PAD class.
    """

    sizes: np.ndarray
    has_pad: np.ndarray

    @staticmethod
    def of(sids: SemanticIds) -> CodeLayout:
        """The layout that fits ``sids``."""
        return CodeLayout(np.asarray(sids.sizes, np.int32), np.asarray(sids.has_pad, bool))

    @property
    def length(self) -> int:
        return len(self.sizes)

    @property
    def classes(self) -> np.ndarray:
        """int64 ``[L]`` classes of each position, PAD included."""
        return self.sizes.astype(np.int64) + self.has_pad

    @property
    def offsets(self) -> np.ndarray:
        """int64 ``[L + 1]`` first row of each position; the last entry is the number of rows."""
        return np.concatenate([[0], np.cumsum(self.classes)]).astype(np.int64)

    @cached_property
    def runs(self) -> tuple[tuple[slice, slice, int], ...]:
        """Neighbouring positions with equally many classes: (positions, their rows, classes of each), so that one
        batched product serves them all."""
        classes, offsets = self.classes, self.offsets
        bounds = np.flatnonzero(np.diff(classes, prepend=-1, append=-1)).tolist()
        return tuple(
            (slice(a, b), slice(int(offsets[a]), int(offsets[b])), int(classes[a]))
            for a, b in zip(bounds, bounds[1:], strict=False)
        )

    @property
    def pad_rows(self) -> np.ndarray:
        """int64: rows of the PAD classes."""
        return (self.offsets[:-1] + self.sizes)[self.has_pad]

    def rows(self, codes: np.ndarray) -> np.ndarray:
        """int64 ``[M, L]`` fused rows of ``codes`` int32 ``[M, L]``.

        Raises ``InputError`` when the codes do not fit the layout (another length, larger codes, PAD without class).
        """
        if codes.ndim != 2 or codes.shape[1] != self.length:
            raise InputError(
                "semantic IDs",
                got=f"codes of shape {codes.shape}",
                wanted=f"{self.length} positions",
                do="use the SIDs the model was fitted on",
            )
        filled = np.where(codes == PAD, self.sizes, codes).astype(np.int64)
        bad = np.argwhere((filled < 0) | (filled >= self.classes))
        if len(bad):
            item, position = bad[0]
            raise InputError(
                f"semantic ID of item {item}",
                got=f"code {codes[item, position]} at position {position}",
                wanted=f"0..{self.sizes[position] - 1}{' or PAD' if self.has_pad[position] else ''}",
                do="use the SIDs the model was fitted on",
            )
        return filled + self.offsets[:-1]

    def check_same(self, sids: SemanticIds, who: str) -> None:
        """Raise ``InputError`` unless ``sids`` have this layout. Decoding along a trie of them needs it: a PAD class at
        another place would shift or swap classes without any code being out of range."""
        other = CodeLayout.of(sids)
        if not (np.array_equal(self.sizes, other.sizes) and np.array_equal(self.has_pad, other.has_pad)):
            raise InputError(
                f"{who}: semantic IDs", got=other._words(), wanted=self._words(), do="use the SIDs the model was fitted on"
            )

    def _words(self) -> str:
        return f"sizes {self.sizes.tolist()}, PAD at {np.flatnonzero(self.has_pad).tolist()}"


def fused_rows(layout: CodeLayout, sids: SemanticIds, n_items: int, who: str) -> np.ndarray:
    """int64 ``[N, L]`` fused rows of a catalogue's SIDs. Raises ``InputError`` for another number of items."""
    if sids.n_items != n_items:
        raise InputError(
            f"{who}: semantic IDs",
            got=f"{sids.n_items} items",
            wanted=f"{n_items}, as in the data",
            do="encode the whole catalogue",
        )
    return layout.rows(sids.codes)


class CodeTable(nn.Module):
    """Fused embedding table float32 ``[rows, width]`` of a ``CodeLayout``; PAD rows are zero as inputs."""

    keep: Tensor

    def __init__(self, layout: CodeLayout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.table = nn.Parameter(torch.zeros(int(layout.offsets[-1]), width))
        keep = torch.ones(len(self.table), 1)
        keep[torch.as_tensor(layout.pad_rows)] = 0.0
        self.register_buffer("keep", keep, persistent=False)

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Draw the table from N(0, std^2)."""
        self.table.normal_(0.0, std, generator=generator)

    def inputs(self) -> Tensor:
        """The table with PAD rows set to zero, ``[rows, width]``."""
        return self.table * self.keep if self.layout.has_pad.any() else self.table

    def directions(self) -> Tensor:
        """Unit-length class vectors of all positions, ``[rows, width]``."""
        return F.normalize(self.table, dim=-1)

    def outputs(self) -> tuple[Tensor, ...]:
        """Per position its unit-length class vectors, PAD class last, ``[classes_p, width]``."""
        return self.directions().split(self.layout.classes.tolist())


def weights_of_codes(sids: SemanticIds, who: str) -> np.ndarray:
    """float32 ``[N, L]`` weights of the codes, 0 at PAD."""
    if sids.weights is None:
        raise InputError(
            f"{who} with code_weights=true: weights of the semantic IDs",
            got="a tokenizer that gives none",
            wanted="SIDs with weights, as adasid and mmq give them",
            do="set code_weights=false; a collision policy that moves items drops weights",
        )
    if sids.weights.shape != sids.codes.shape:
        raise InputError(
            f"{who}: weights of the semantic IDs",
            got=f"shape {sids.weights.shape}",
            wanted=f"{sids.codes.shape}, one a code",
        )
    return np.where(sids.codes == PAD, 0.0, sids.weights).astype(np.float32)
