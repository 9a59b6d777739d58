"""A parser under fuzz, and the formats that good inputs are made in.

``Parser.run`` gives one input to one parser. Whatever the bytes are, the parser either reads them or raises a
``SidbenchError`` (or what ``also`` names, which its documentation promises); anything else is a fault of ours.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sidbench.benchmark.store.serialization import load_dataset, save_dataset
from sidbench.datasets.base import Dataset
from sidbench.datasets.foundation.errors import SidbenchError

KEYS = ("B1", "B2", "B3")
CODES = np.array([[0, 3, 1], [2, -1, 0], [1, 2, -1]], np.int32)
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def _same(data: bytes) -> bytes:
    return data


@dataclass(frozen=True)
class Parser:
    """One door for a stranger's bytes.

    file: path, below the parser's folder, that the bytes are written to. read: what is called with it. seeds: good inputs.
    beside: other files of the folder. wrap: bytes of the file from the mutated ones (compressing them, say). binary: no
    mutations that only make sense in text. also: documented exceptions beside ``SidbenchError``. share: of the inputs of
    a run, against other parsers.
    """

    name: str
    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], Sequence[bytes]]
    beside: Callable[[], Mapping[str, bytes]] = dict
    wrap: Callable[[bytes], bytes] = _same
    binary: bool = False
    also: tuple[type[BaseException], ...] = ()
    share: float = 1.0
    leftovers: tuple[str, ...] = field(default=("out", "stored"))

    def prepare(self, folder: Path) -> None:
        """Write the files beside the input."""
        for name, data in self.beside().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        (folder / self.file).parent.mkdir(parents=True, exist_ok=True)

    def run(self, data: bytes, folder: Path) -> bool:
        """Whether the parser read ``data``, rather than refusing it as documented. Any other exception comes out."""
        path = folder / self.file
        path.write_bytes(self.wrap(data))
        try:
            self.read(path)
        except (SidbenchError, *self.also):
            return False
        finally:
            for name in self.leftovers:
                shutil.rmtree(folder / name, ignore_errors=True)
        return True


def stored_and_read_back(dataset: Dataset, folder: Path) -> None:
    """What every run does with a data set: hash it, write it to the cache and read it back."""
    (folder / "stored").mkdir()
    save_dataset(dataset, folder / "stored")
    if load_dataset(folder / "stored").content_hash() != dataset.content_hash():
        raise AssertionError("the cached data set is another one")


def zipped(files: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as bundle:
        for name, data in files.items():
            bundle.writestr(zipfile.ZipInfo(name), data, how)
    return buffer.getvalue()


EVENTS = {
    "user": ["a", "a", "b", "b"],
    "item": ["B1", "B2", "B3", "B1"],
    "timestamp": [1, 2, 3, 4],
    "rating": [1.0, 2.0, 3.0, 4.0],
}
ITEMS = {"item": list(KEYS), "title": ["Soap", "Oil", "Comb"], "categories": ["A > B", "A|C", ""], "price": ["1.5", "", "2"]}


def as_table(form: str, columns: Mapping[str, Sequence[Any]]) -> bytes:
    frame, buffer = pl.DataFrame(columns), io.BytesIO()
    if form == "parquet":
        frame.write_parquet(buffer)
    elif form == "jsonl":
        frame.write_ndjson(buffer)
    else:
        frame.write_csv(buffer, separator="\t" if form == "tsv" else ",")
    return buffer.getvalue()


def parquets(columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    frame, made = pl.DataFrame(columns), []
    for options in (
        {"compression": "uncompressed", "statistics": False},
        {"compression": "snappy"},
        {"compression": "zstd", "row_group_size": 2},
    ):
        buffer = io.BytesIO()
        frame.write_parquet(buffer, **options)  # type: ignore[arg-type]
        made.append(buffer.getvalue())
    import pyarrow.parquet as pq

    for how in ({"use_dictionary": False, "compression": "none"}, {"data_page_version": "2.0", "compression": "gzip"}):
        buffer = io.BytesIO()
        pq.write_table(frame.to_arrow(), buffer, **how)
        made.append(buffer.getvalue())
    return made


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
