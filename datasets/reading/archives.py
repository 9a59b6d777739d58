"""Archives and numpy files of strangers: nothing is unpickled, and nothing unpacks to more than it may.

A file may unpack to ``FREE_BYTES`` whatever its size, and beyond that to ``MAX_RATIO`` times its size: embeddings and
review texts compress 2 to 20 times, decompression bombs 1,000 times and more.
"""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from sidbench.datasets.foundation.errors import InputError

FREE_BYTES = 1 << 30
MAX_RATIO = 100

ZIP_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    RuntimeError,
    OverflowError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
"""What damaged, encrypted or unknown archives make ``zipfile`` raise."""
NUMPY_DAMAGE = (
    *ZIP_DAMAGE,
    TypeError,
    AttributeError,
    SyntaxError,
    AssertionError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)
"""What damaged files make ``numpy.load`` raise: its header is a Python literal."""


def check_unpacked(what: str, unpacked: int, packed: int, free_bytes: int = FREE_BYTES) -> None:
    """Raise ``InputError`` naming ``what`` when ``unpacked`` bytes from ``packed`` ones make a decompression bomb."""
    if unpacked > max(free_bytes, MAX_RATIO * packed):
        raise InputError(
            f"{what}: too large when decompressed",
            got=f"{unpacked:,} bytes from {packed:,}",
            wanted=f"at most {free_bytes:,} bytes, or {MAX_RATIO} times the size of the file",
            do="check that this is the intended file and no decompression bomb",
        )


def check_zip(path: Path, free_bytes: int = FREE_BYTES) -> None:
    """Raise ``InputError`` unless ``path`` is a zip archive whose members together are no decompression bomb.

    The sizes are the archive's claims; ``zipfile`` never yields more of a member than its claim.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        packed = path.stat().st_size
    except ZIP_DAMAGE as error:
        raise InputError(
            f"cannot read {path}",
            got=f"no zip archive ({str(error)[:80]})",
            wanted="a complete archive",
            do="save or download it again",
        ) from error
    check_unpacked(str(path), unpacked, packed, free_bytes)


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays ``names`` of an npz (all by default); those it lacks are left out.

    Raises ``InputError`` for a damaged file, a decompression bomb and arrays that would have to be unpickled.
    """
    check_zip(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            wanted = [name for name in archive.files if names is None or name in names]
            found = {name: archive[name] for name in wanted}
    except NUMPY_DAMAGE as error:
        raise _damaged(path, error) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # a member that is no .npy comes out as its bytes
            raise _damaged(path, TypeError(f"{name} is no array"))
        check_texts(array, path)
    return found


def check_texts(array: np.ndarray, path: Path) -> None:
    """Raise ``InputError`` for an array of texts with code points that are no characters, at which numpy and Python break
    only when such a text is used."""
    if array.dtype.kind == "U" and array.dtype.itemsize and array.size:
        points = np.ravel(array).view(f"{array.dtype.byteorder}u4")
        if bool(((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any()):
            raise _damaged(path, ValueError("texts of code points that are no characters"))


def read_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array of an npy file, ``mapped``: as a read-only memory map. Raises ``InputError`` as ``read_npz`` does."""
    try:
        # A memory map can hold no objects, so nothing is unpickled on either way.
        array = np.lib.format.open_memmap(path, mode="r") if mapped else np.load(path, allow_pickle=False)
    except NUMPY_DAMAGE as error:
        raise _damaged(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise _damaged(path, TypeError("an archive of arrays, not one array"))
    check_texts(array, path)
    return array


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read {path}: it is damaged or holds pickled objects",
        got=f"{type(error).__name__}: {str(error)[:200]}",
        wanted="plain arrays saved without pickling",
        do="save it again with numpy.save or numpy.savez of numbers and texts",
    )
