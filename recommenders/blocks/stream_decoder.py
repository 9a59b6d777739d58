"""An auto-regressive decoder of one stream of codes, for all targets of a sequence at once or as a decoding session."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.cross import DecoderBlock, Memory, SlotCache
from sidbench.recommenders.blocks.sid_tables import CodeLayout


class StreamDecoder(nn.Module):
    """``m`` positions of a SID from left to right, given encoded histories; each position has its own output classes.

    Input vectors of codes come from the caller's fused table (``CodeTable.inputs``), which the history shares. A slot
    reads the state of the newest item it may see, plus ``sqrt(width)`` times the vectors of its slot and of the code
    before. Without the state, cross-attention first has to learn which item is the newest, and trains far slower.
    """

    blocks: Sequence[DecoderBlock]

    def __init__(
        self, layout: CodeLayout, positions: list[int], width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.positions = positions
        self.first_row = [int(layout.offsets[p]) for p in positions]
        self.classes = [int(layout.classes[p]) for p in positions]
        self.slots = nn.Parameter(torch.zeros(len(positions) + 1, width))
        self.table = nn.Parameter(torch.zeros(sum(self.classes), width))
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            DecoderBlock(width, heads, 4 * width, dropout, rotary_base=1e4) for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(width)

    def inputs(self, table: Tensor) -> tuple[Tensor, ...]:
        """Per position the input vectors of its classes, from the fused ``table``."""
        return tuple(table[first : first + size] for first, size in zip(self.first_row, self.classes, strict=True))

    def outputs(self) -> tuple[Tensor, ...]:
        """Per position the output vectors of its classes."""
        return self.table.split(self.classes)

    def memories(self, hidden: Tensor) -> list[Memory]:
        """What each layer reads of histories ``[B, T, width]``."""
        return [block.outer.cross.memory(hidden) for block in self.blocks]

    def forward(self, hidden: Tensor, codes: Tensor, summary: bool) -> Tensor:
        """``[B * T, m + summary, width]`` for one target a place: ``hidden [B, T, width]``, ``codes [B * T, m, width]``
        input vectors of its codes. Slot ``j`` has read the codes before ``j``; the summary slot has read all."""
        slots = codes.shape[1] + summary
        x = (F.pad(codes[:, : slots - 1], (0, 0, 1, 0)) + self.slots[:slots]) * hidden.shape[2] ** 0.5
        x = x + hidden.view(-1, 1, hidden.shape[2])
        place = torch.arange(hidden.shape[1], device=hidden.device).repeat_interleave(slots)[None]
        for block, memory in zip(self.blocks, self.memories(hidden), strict=True):
            x = block(x, memory, place)
        made: Tensor = self.final_norm(x)
        return made


class StreamSession:
    """A ``DecodingSession`` of ``decoder``: ``table`` as above, ``hidden [B, T, width]`` the users' histories, whose
    newest items have ``place`` int64 ``[B]``, and their ``memories``, which sessions of the same users may share."""

    def __init__(self, decoder: StreamDecoder, table: Tensor, hidden: Tensor, place: Tensor, memories: list[Memory]) -> None:
        self._decoder, self._memories, self._place = decoder, memories, place[:, None]
        self._state = hidden.gather(1, place[:, None, None].expand(-1, 1, hidden.shape[2]))
        self._inputs, self._outputs, self._slot = decoder.inputs(table), decoder.outputs(), 0
        self._caches: list[SlotCache | None] = [None] * len(memories)

    def step(self, parent: Tensor | None, classes: Tensor | None) -> Tensor:
        slot = self._slot
        x = self._decoder.slots[slot]
        if parent is not None and classes is not None:
            x = self._inputs[slot - 1][classes] + x
            self._caches = [None if cache is None else cache.follow(parent) for cache in self._caches]
        x = x * x.shape[-1] ** 0.5 + self._state
        for i, block in enumerate(self._decoder.blocks):
            x, self._caches[i] = block.step(x, self._memories[i], self._place, self._caches[i])
        self._slot += 1
        logits = self._decoder.final_norm(x) @ self._outputs[slot].T
        return torch.log_softmax(logits.float(), dim=-1)
