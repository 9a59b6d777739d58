"""The processes of one command: who leads, how values and arrays are shared, and how a failure ends all of them.

``torchrun`` or ``accelerate launch`` starts W equal processes. All walk through the same run in step; rank 0, the
leader, alone prints and writes. Before every exchange the processes *meet*: each says that it is well or what went wrong
with it, so a process that failed is heard by the others wherever they are, and nobody waits for it. Values travel as
JSON and safetensors, never as pickles. A process that dies closes its connections, which the others see as an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors.numpy import load, save
from torch import Tensor

from sidbench.datasets.foundation.errors import StageError

# Others may wait for hours: while the leader parses raw files, or while another command computes the same stage.
PATIENCE = timedelta(days=7)
T = TypeVar("T")


class PeerFailure(StageError):
    """Another process of this command failed; the message names it and tells why."""


class ProcessGroup:
    """All processes of a command, as one of them sees it; a group of one exchanges nothing.

    rank: number of this process, 0 for the leader. size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._all = (rank, size)
        # Control messages live in host memory, whatever the backend of the tensors is.
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None
        self._told: BaseException | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this process prints and writes."""
        return self._all[0] == 0

    @contextmanager
    def solo(self) -> Iterator[None]:
        """Inside, this process works for itself: everything it starts behaves as in a group of one."""
        before = self.rank, self.size
        self.rank, self.size = 0, 1
        try:
            yield
        finally:
            self.rank, self.size = before

    # -- exchange ------------------------------------------------------------------------------------------------
    def broadcast(self, value: Any, source: int = 0) -> Any:
        """The JSON-able ``value`` of process ``source``, to all."""
        if self.size == 1:
            return value
        return json.loads(self._bytes(json.dumps(value).encode() if self.rank == source else b"")[source])

    def gather(self, value: Any) -> list[Any]:
        """The JSON-able values of all processes, by rank."""
        return [value] if self.size == 1 else [json.loads(text) for text in self._bytes(json.dumps(value).encode())]

    def gather_arrays(self, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The named arrays of all processes, by rank; shapes may differ."""
        if self.size == 1:
            return [dict(arrays)]
        own = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
        return [load(data) for data in self._bytes(own)]

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes, the same bits on each."""
        if self.size > 1:
            self._meet()
            with self._alive():
                dist.all_reduce(tensor)

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite ``tensors`` by the leader's, in place."""
        if self.size == 1 or not tensors:
            return
        self._meet()
        flat = torch.cat([t.detach().reshape(-1).view(torch.uint8) for t in tensors.values()])
        with self._alive():
            dist.broadcast(flat, 0)
        start = 0
        for tensor in tensors.values():
            n = tensor.numel() * tensor.element_size()
            # A clone is aligned, which a view as a wider type needs.
            tensor.detach().copy_(flat[start : start + n].clone().view(tensor.dtype).view(tensor.shape))
            start += n

    # -- failures ------------------------------------------------------------------------------------------------
    def together(self, work: Callable[[], T]) -> T:
        """``work()`` on every process, over only when all are through.

        Raises this process's own error where it failed, else ``PeerFailure`` when another did.
        """
        if self.size == 1:
            return work()
        try:
            value = work()
        except Exception as error:
            if not self._known(error):
                self._tell(error)
            raise
        self._meet()
        return value

    def _known(self, error: BaseException | None) -> bool:
        """Whether the others know of this error: it came from a meeting, or was told at one."""
        while error is not None:
            if isinstance(error, PeerFailure) or error is self._told:
                return True
            error = error.__cause__ or error.__context__
        return False

    def _tell(self, error: BaseException) -> None:
        try:
            self._meet(str(error) or type(error).__name__)
        except PeerFailure:
            self._told = error

    def _meet(self, trouble: str = "") -> None:
        """Wait for all; raises ``PeerFailure`` on all of them when one has trouble."""
        lengths = self._lengths(len(trouble.encode()))
        if any(lengths):
            said = [data.decode() for data in self._padded(trouble.encode(), lengths)]
            raise PeerFailure(
                "; ".join(
                    dict.fromkeys(
                        text if text == trouble else f"process {rank}: {text}" for rank, text in enumerate(said) if text
                    )
                )
            )

    def _bytes(self, data: bytes) -> list[bytes]:
        self._meet()
        return self._padded(data, self._lengths(len(data)))

    def _lengths(self, own: int) -> list[int]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._alive():
            dist.all_gather(lengths, torch.tensor([own]), group=self._control)
        return [int(n) for n in lengths]

    def _padded(self, data: bytes, lengths: list[int]) -> list[bytes]:
        width = max(lengths)
        own = torch.zeros(width, dtype=torch.uint8)
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else own[:0]
        rows = [torch.zeros(width, dtype=torch.uint8) for _ in range(self.size)]
        with self._alive():
            dist.all_gather(rows, own, group=self._control)
        return [row[:n].numpy().tobytes() for row, n in zip(rows, lengths, strict=True)]

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """A lost connection to another process, as our own error."""
        try:
            yield
        except RuntimeError as error:
            raise PeerFailure(
                f"another process of this command ended without a word ({str(error)[:120]}). To do: see "
                "its own output above, then start the same command again; finished stages and "
                "checkpoints are kept."
            ) from error

    def close(self) -> None:
        """Leave the process group; nothing may be exchanged after this."""
        if self._control is not None and dist.is_initialized():
            dist.destroy_process_group()
        self.size = 1
