"""Matrices larger than memory: read from a memory map block by block, written into one that moves to its place.

A page of a map stays resident until the kernel needs the memory, so a pass over a 10 GB file would show 10 GB resident.
``forget`` gives the pages back after each block: a process then never holds more than a block, mapped pages included.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK_ROWS = 65_536
MAPPED_BYTES = 64 << 20  # arrays below this size are read into memory: a map would save nothing
SCRATCH = ".scratch.npy"  # ending of files made to be moved to their place by ``save_matrix``


def forget(array: np.ndarray) -> None:
    """Give the resident pages of the file behind a memory-mapped ``array`` back to the kernel; nothing for other arrays.

    Values stay: they are read again from the page cache or the file. Private (copy-on-write) maps are left alone, since
    their changes exist only in memory.
    """
    base: object = array
    mode = ""
    while isinstance(base, np.ndarray):
        mode = getattr(base, "mode", mode) or mode
        base = base.base
    if isinstance(base, mmap.mmap) and mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def row_blocks(array: np.ndarray, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, view of them) of ``array`` ``[N, ...]``, at most ``rows`` at once; each block is forgotten after its use."""
    for start in range(0, len(array), rows):
        part = slice(start, min(start + rows, len(array)))
        yield part, array[part]
        forget(array)


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``array[rows]`` in memory, for rows int ``[M]`` of 0..N-1 in any order and number.

    The array is walked block by block: the kernel maps 16 pages around each one touched, so that scattered rows of a map
    would bring most of the file in. Raises ``IndexError`` for a row outside the array.
    """
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(array):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of an array of {len(array)} rows")
    order = rows.argsort(kind="stable")
    ascending = rows[order]
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part, block in row_blocks(array):
        first, last = np.searchsorted(ascending, (part.start, part.stop))
        taken[order[first:last]] = block[ascending[first:last] - part.start]
    return taken


def scratch_matrix(folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Zeros of ``shape``: in memory when small, else a writable map of a new file in ``folder``.

    The file's blocks are reserved first, so that a full disk raises ``OSError`` (``ENOSPC``) here: writing to a map without
    them would end the process with ``SIGBUS``.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes < MAPPED_BYTES:
        return np.zeros(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{SCRATCH}"
    matrix = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return matrix


def save_matrix(path: Path, array: np.ndarray) -> None:
    """``array`` as ``.npy``; the file of a ``scratch_matrix`` is moved there (the map stays valid), others are written."""
    source = Path(str(getattr(array, "filename", None) or ""))
    whole = isinstance(array, np.memmap) and source.exists() and array.nbytes + array.offset == source.stat().st_size
    if isinstance(array, np.memmap) and whole and source.name.endswith(SCRATCH):
        array.flush()
        os.replace(source, path)
    else:
        np.save(path, np.asarray(array), allow_pickle=False)


def load_matrix(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file: a read-only map from ``MAPPED_BYTES`` on, else in memory; never a pickle."""
    return np.load(path, mmap_mode="r" if path.stat().st_size >= MAPPED_BYTES else None, allow_pickle=False)
