"""The original visual features: ``image_features_<category>.b``, one record an item, 10-byte ASIN + 4,096 float32.

He and McAuley, AAAI 2016 (VBPR): activations of the second fully connected layer of a Caffe network. A category file
is gigabytes, so records stream and only those of the catalogue are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sidbench.datasets.foundation.errors import InputError

ASIN_BYTES = 10
WIDTH = 4096
_RECORD_BYTES = ASIN_BYTES + 4 * WIDTH


def iterate_image_features(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (ASIN, float32 ``[4096]``) of every record, in file order; little-endian as published.

    Raises ``InputError`` with record number and byte position for a truncated record or a key that is not ASCII.
    """
    try:
        with open(path, "rb") as handle:
            number = 0
            while record := handle.read(_RECORD_BYTES):
                where = f"{path}, record {number + 1} at byte {number * _RECORD_BYTES:,}"
                if len(record) < _RECORD_BYTES:
                    raise InputError(
                        f"{where}: truncated",
                        got=f"{len(record):,} bytes",
                        wanted=f"{_RECORD_BYTES:,} bytes",
                        do="download the file again",
                    )
                if not (record[:ASIN_BYTES].isascii() and record[:ASIN_BYTES].isalnum()):
                    raise InputError(
                        f"{where}: no ASIN",
                        got=repr(record[:ASIN_BYTES]),
                        wanted="10 letters and digits",
                        do="check that the file is the original image_features file, unpacked",
                    )
                features = np.frombuffer(record, "<f4", WIDTH, ASIN_BYTES)
                yield record[:ASIN_BYTES].decode("ascii"), features.astype(np.float32)
                number += 1
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error.strerror or str(error), wanted="a readable file") from error


def read_image_features(path: Path, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features of the items ``keys``: float32 ``[N, 4096]`` (zero where absent) and the mask bool ``[N]``.

    Of a repeated item the first record counts. Raises ``InputError`` for a damaged file or non-finite features.
    """
    index = {key: i for i, key in enumerate(keys)}
    features, available = np.zeros((len(keys), WIDTH), np.float32), np.zeros(len(keys), bool)
    for asin, vector in iterate_image_features(path):
        position = index.get(asin)
        if position is None or available[position]:
            continue
        if not np.isfinite(vector).all():
            raise InputError(f"{path}: features of {asin}", got="NaN or infinite values", wanted="finite numbers")
        features[position], available[position] = vector, True
    return features, available
