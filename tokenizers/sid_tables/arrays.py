"""npz with ``codes`` (and ``keys``, ``sizes``, ``ordered``, ``weights``), and a tensor saved with ``torch.save`` (GRID).

Nothing is unpickled: npz is read with ``allow_pickle=False``, tensors with ``weights_only=True``.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # the name only: what weights_only loading raises

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.archives import check_texts
from sidbench.tokenizers.sid_tables.table import MAX_FILE_BYTES, MAX_ITEMS, MAX_POSITIONS, SidTable, from_matrix

# What damaged archives make zipfile, zlib, the npy header parser and the restricted unpickler raise.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RuntimeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    AssertionError,
    ImportError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    UnpicklingError,
)


def check_archive(path: Path) -> None:
    """Raise ``InputError`` unless ``path`` is a zip archive whose members together stay within ``MAX_FILE_BYTES``."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except _DAMAGE as error:
        raise InputError(
            f"cannot read {path}",
            got=f"no zip archive ({str(error)[:80]})",
            wanted="a file of numpy.savez or torch.save",
            do="save it again",
        ) from error
    if total > MAX_FILE_BYTES:
        raise InputError(
            f"{path}: too large when decompressed", got=f"{total:,} bytes", wanted=f"at most {MAX_FILE_BYTES:,}"
        )


def read_npz(path: Path) -> SidTable:
    """Arrays ``codes`` ``[M, L]``, and optionally ``keys`` (text or whole numbers), ``sizes``, ``ordered``, ``weights``."""
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            known = ("codes", "keys", "sizes", "ordered", "weights")
            found = {name: np.asarray(archive[name]) for name in archive.files if name in known}
            present = list(archive.files)
    except _DAMAGE as error:
        raise InputError(
            f"cannot read {path}",
            got=str(error)[:120],
            wanted="numeric arrays saved with numpy.savez",
            do="save them without pickling",
        ) from error
    if "codes" not in found:
        raise InputError(
            f"{path}: array missing",
            got=f"arrays {', '.join(present)[:120] or 'none'}",
            wanted="an array codes of shape (items, positions)",
        )
    return from_matrix(
        found["codes"],
        _keys(found.get("keys"), path),
        str(path),
        sizes=_sizes(found.get("sizes"), path),
        ordered=_flag(found.get("ordered"), path),
        weights=found.get("weights"),
    )


def _keys(array: np.ndarray | None, path: Path) -> list[str] | None:
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind not in "Uiu":
        raise InputError(
            f"{path}: keys", got=f"{array.dtype} of shape {array.shape}", wanted="one text or whole number a row"
        )
    check_texts(array, path)
    return [str(key) for key in array.tolist()]


def _sizes(array: np.ndarray | None, path: Path) -> list[int] | None:
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{path}: sizes", got=f"{array.dtype} of shape {array.shape}", wanted="one whole number a position")
    return [int(size) for size in array]


def _flag(array: np.ndarray | None, path: Path) -> bool | None:
    if array is None:
        return None
    if array.shape != () or array.dtype.kind != "b":
        raise InputError(f"{path}: ordered", got=f"{array.dtype} of shape {array.shape}", wanted="one true or false")
    return bool(array)


def write_npz(path: Path, table: SidTable, keys: Sequence[str]) -> None:
    """Everything a table holds."""
    arrays = {"codes": table.codes, "sizes": table.sizes, "keys": np.asarray(list(keys), dtype=np.str_)}
    if table.ordered is not None:
        arrays["ordered"] = np.asarray(table.ordered)
    if table.weights is not None:
        arrays["weights"] = table.weights
    with open(path, "wb") as handle:  # a path without .npz would get one more suffix
        np.savez(handle, allow_pickle=False, **arrays)


def read_tensor(path: Path, n_items: int | None, layout: str = "auto") -> SidTable:
    """One integer tensor ``[N, L]`` or ``[L, N]``; rows in catalogue order.

    n_items: size of the catalogue, by which the axes are told apart. layout: "auto", "items_first", "positions_first".
    Raises ``InputError`` for anything that is no such tensor, and when the axes cannot be told apart.
    """
    import torch  # here, so that every other format is read without it

    check_archive(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise InputError(
            f"cannot read {path}",
            got=str(error).partition("\n")[0][:120],
            wanted="one tensor saved with torch.save",
            do="save the tensor alone",
        ) from error
    if type(value) is not torch.Tensor or value.layout is not torch.strided or value.is_quantized or value.ndim != 2:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ""
        raise InputError(
            f"{path}: no table of codes",
            got=f"{type(value).__name__} {shape}".strip(),
            wanted="one dense tensor with two axes",
        )
    if value.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        raise InputError(f"{path}: codes", got=f"values of type {value.dtype}", wanted="integers", do="save tensor.long()")
    if value.numel() > MAX_ITEMS * 8 or min(value.shape) > MAX_POSITIONS:  # a view may claim any size over few bytes
        raise InputError(f"{path}: shape", got=tuple(value.shape), wanted=f"items, and at most {MAX_POSITIONS} positions")
    codes = value.contiguous().numpy()
    return from_matrix(codes if _items_first(codes.shape, n_items, layout, path) else codes.T.copy(), None, str(path))


def _items_first(shape: tuple[int, ...], n_items: int | None, layout: str, path: Path) -> bool:
    if layout != "auto":
        return layout == "items_first"
    fits = [axis for axis in (0, 1) if shape[axis] == n_items]
    if len(fits) != 1:
        catalogue = "an unknown catalogue" if n_items is None else f"a catalogue of {n_items} items"
        raise InputError(
            f"{path}: which axis holds the items is not clear",
            got=f"shape {shape} for {catalogue}",
            wanted="one axis as long as the catalogue",
            do="set layout=items_first or layout=positions_first, with `bench run` as tokenizer.layout",
        )
    return fits[0] == 0
