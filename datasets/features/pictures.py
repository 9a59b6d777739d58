"""Pictures of a catalogue as RGB arrays of one size, from a folder, a zip archive or rendered arrays.

Pictures come from strangers: names may not leave the folder, sizes are bounded before anything is decoded, and a
broken picture is counted and its item not available. Nothing is ever extracted to disk.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from sidbench.datasets.base import Catalog
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.paths import leaves_folder
from sidbench.datasets.reading.archives import ZIP_DAMAGE

MAX_PIXELS = 40_000_000  # of one decoded picture
MAX_BYTES = 64 << 20  # of one encoded picture
_RESAMPLE = Image.Resampling.BILINEAR
# What Pillow and zipfile raise for damaged data; everything else is a fault of ours and must be seen.
_DAMAGE = (*ZIP_DAMAGE, SyntaxError, TypeError, AttributeError, MemoryError, struct.error, Image.DecompressionBombError)
# Pillow knows many more; one of them (EPS) starts another program on the file.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF")
_COUNTED = ("items_without_picture", "pictures_missing", "pictures_unsafe_name", "pictures_too_large", "pictures_broken")


class PictureRefused(Exception):
    """A picture that cannot be used; the argument is the count it belongs to ("pictures_broken")."""


def has_pictures(catalog: Catalog) -> bool:
    """Whether the catalogue names or holds any picture."""
    return catalog.image_arrays is not None or (catalog.images is not None and any(catalog.images))


def iterate_pictures(catalog: Catalog, size: int, counts: Counter[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (item index, uint8 ``[size, size, 3]``) of every usable picture, in item order.

    The whole picture is resized without keeping its aspect ratio; transparency is laid on white. ``counts`` receives
    ``items_without_picture`` (no reference), ``pictures_missing`` (file not there), ``pictures_unsafe_name``,
    ``pictures_too_large`` and ``pictures_broken``.

    Raises ``InputError`` when the catalogue has no pictures, or the folder or archive cannot be read at all.
    """
    counts.update(dict.fromkeys(_COUNTED, 0))
    if catalog.image_arrays is not None:
        yield from _rendered(catalog.image_arrays, len(catalog), size)
        return
    if catalog.images is None or catalog.image_root is None:
        raise InputError(
            "pictures",
            got="a catalogue without pictures",
            wanted="image_arrays, or images and image_root",
            do="use features.vision=none",
        )
    with _open_root(catalog.image_root) as read:
        for item, name in enumerate(catalog.images):
            if not name:
                counts["items_without_picture"] += 1
                continue
            try:
                picture = decode_picture(read(name), size)
            except PictureRefused as refused:
                counts[str(refused)] += 1
            else:
                yield item, picture


def decode_picture(data: bytes, size: int) -> np.ndarray:
    """Decode one encoded picture to uint8 ``[size, size, 3]``; raises ``PictureRefused`` if damaged or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about doubtful metadata; the size is checked below
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise PictureRefused("pictures_too_large")
                picture.draft("RGB", (size, size))  # JPEG: decode at a lower scale where that loses nothing
                return _to_rgb(picture, size)
    except Image.DecompressionBombError as error:
        raise PictureRefused("pictures_too_large") from error
    except _DAMAGE as error:
        raise PictureRefused("pictures_broken") from error


def _to_rgb(picture: Image.Image, size: int) -> np.ndarray:
    if "A" in picture.mode.upper() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(picture.convert("RGB").resize((size, size), _RESAMPLE))


def _rendered(arrays: np.ndarray, n_items: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    if arrays.dtype != np.uint8 or arrays.ndim != 4 or arrays.shape[0] != n_items or arrays.shape[3] != 3:
        raise InputError(
            "image_arrays",
            got=f"{arrays.dtype} {arrays.shape}",
            wanted=f"uint8 ({n_items}, H, W, 3)",
            do="repair the dataset plugin",
        )
    for item, array in enumerate(arrays):
        fits = array.shape[:2] == (size, size)
        yield item, array if fits else np.asarray(Image.fromarray(array).resize((size, size), _RESAMPLE))


Reader = Callable[[str], bytes]


def _open_root(root: Path) -> AbstractContextManager[Reader]:
    if root.is_dir():
        return nullcontext(_folder_reader(root.resolve()))
    if not root.is_file():
        raise InputError(
            f"pictures {root}",
            got="nothing there",
            wanted="a folder or a zip archive",
            do="put the pictures there or use features.vision=none",
        )
    return _zip_reader(root)


def _safe(name: str) -> PurePosixPath:
    if leaves_folder(name):
        raise PictureRefused("pictures_unsafe_name")
    return PurePosixPath(name)


def _folder_reader(root: Path) -> Reader:
    def read(name: str) -> bytes:
        try:
            path = (root / _safe(name)).resolve()
            if not path.is_relative_to(root):  # a link that leads out of the folder
                raise PictureRefused("pictures_unsafe_name")
            if not path.is_file():
                raise PictureRefused("pictures_missing")
            if path.stat().st_size > MAX_BYTES:
                raise PictureRefused("pictures_too_large")
            return path.read_bytes()
        except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
            raise PictureRefused("pictures_broken") from error

    return read


@contextmanager
def _zip_reader(archive: Path) -> Iterator[Reader]:
    try:
        bundle = zipfile.ZipFile(archive)
    except ZIP_DAMAGE as error:
        raise InputError(
            f"{archive} is no readable zip archive",
            got=str(error),
            wanted="a complete archive",
            do="copy or download it again",
        ) from error
    with bundle:
        members = {info.filename: info for info in bundle.infolist()}

        def read(name: str) -> bytes:
            info = members.get(str(_safe(name)))
            if info is None or info.is_dir():
                raise PictureRefused("pictures_missing")
            if info.file_size > MAX_BYTES:
                raise PictureRefused("pictures_too_large")
            if info.flag_bits & 0x1:  # encrypted
                raise PictureRefused("pictures_broken")
            try:
                with bundle.open(info) as member:  # never yields more than the declared file_size
                    return member.read()
            except ZIP_DAMAGE as error:
                raise PictureRefused("pictures_broken") from error

        yield read
