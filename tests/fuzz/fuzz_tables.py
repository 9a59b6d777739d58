"""The doors of embeddings made elsewhere and of SID tables."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_parser import CODES, EVENTS, ITEMS, KEYS, ROWS, Parser, as_table, npy, npz, parquets, zipped

from sidbench.datasets.features.precomputed import read_precomputed
from sidbench.datasets.reading.importing import import_custom
from sidbench.tokenizers.sid_tables.files import WRITE_FORMATS, read_table, write_table
from sidbench.tokenizers.sid_tables.matching import check_matched, match_rows


def _embeddings(path: Path) -> None:
    import_custom(path.parent / "out" / "set", path.parent / "events.csv", path.parent / "items.csv", {"text": path})


def _vectors() -> list[bytes]:
    return [npy(ROWS), npy(ROWS.astype(np.float64)), npy(np.asfortranarray(ROWS)), npy(np.arange(12).reshape(3, 4))]


def _keyed() -> list[bytes]:
    return [
        npz(keys=np.array(KEYS), embeddings=ROWS),
        npz(keys=np.array(KEYS, "S"), embeddings=ROWS, more=ROWS),
        npz(keys=np.arange(3), embeddings=ROWS),
    ]


def _in_npz(name: str) -> Callable[[bytes], bytes]:
    """An archive with right checksums around one mutated array, so that the mutation reaches the array's parser."""
    whole = {"keys": npy(np.array(KEYS)), "embeddings": npy(ROWS), "codes": npy(CODES)}

    def wrap(data: bytes) -> bytes:
        return zipped({f"{n}.npy": data if n == name else array for n, array in whole.items()}, zipfile.ZIP_STORED)

    return wrap


def _precomputed(path: Path) -> None:
    found = read_precomputed(path, KEYS, "text")
    if found.embeddings.shape[0] != 3 or not np.isfinite(found.embeddings[found.available]).all():
        raise AssertionError("embeddings that no tokenizer takes")


# -- SID tables --------------------------------------------------------------------------------------------------------
def _sids(path: Path, form: str = "auto") -> None:
    table = read_table(path, form, n_items=3)
    keys = table.keys or tuple(str(i) for i in range(table.n_items))
    matched = match_rows(table, KEYS, 3, "auto", "fuzz")
    for written in WRITE_FORMATS if table.code_length <= 26 else ("parquet",):
        target = path.parent / "out" / f"table.{written}"
        write_table(target, table, written, keys)
        if not np.array_equal(read_table(target, written).codes, table.codes):
            raise AssertionError(f"another table came back as {written}")
    check_matched(matched, table, KEYS, "fuzz", missing="share", extra="keep")


def _letter(path: Path) -> None:
    _sids(path, "letter")


def _tensor(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _tensors() -> list[bytes]:
    values = torch.from_numpy(CODES[:, :2].astype(np.int64))
    return [
        _tensor(values),
        _tensor(values.T.contiguous()),
        _tensor(values.to(torch.int16)),
        _tensor({"codes": values}),
        _tensor(values.to_sparse()),
        _tensor(torch.zeros(1, dtype=torch.int64).expand(3, 40)),
    ]


def _pickles() -> list[bytes]:
    made = []
    for data in _tensors():
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            made += [bundle.read(name) for name in bundle.namelist() if name.endswith("data.pkl")]
    return made


def _around_pickle(data: bytes) -> bytes:
    values = torch.from_numpy(CODES[:, :2].astype(np.int64))
    with zipfile.ZipFile(io.BytesIO(_tensor(values))) as bundle:
        files = {name: bundle.read(name) for name in bundle.namelist()}
    return zipped({name: data if name.endswith("data.pkl") else part for name, part in files.items()}, zipfile.ZIP_STORED)


SID_SEEDS: Mapping[str, Sequence[bytes]] = {
    "json": (
        b'{"B1": [0, 3, 1], "B2": [2, -1, 0], "B3": [1, 2]}',
        b"[[1, 2], [3], [4, 0]]",
        b'{"0": ["<a_1>", "<b_3>"], "1": ["<b_4>"]}',
    ),
    "jsonl": (b'{"item": "B1", "codes": [1, 2]}\n{"item": "B2", "codes": [3]}\n{"item": "B3", "codes": [3, 1]}\n',),
    "csv": (b'item,c0,c1\nB1,1,2\nB2,3,\n"B""3",0,0\n', b"c0,c1\n1,2\n3,4\n5,6\n"),
    "tsv": (b"\xef\xbb\xbfASIN\tx\ty\r\nB1\t5\t1\r\n\r\nB2\t1\t\r\n",),
}


def _text_seeds(form: str) -> Callable[[], Sequence[bytes]]:
    return lambda: SID_SEEDS[form]


SID_COLUMNS = {
    "item": list(KEYS),
    "codes": [[0, 3, 1], [2, -1, 0], [1, 2]],
    "weights": [[0.5, 0.5, 0.1], [0.5, 0.0, 0.1], [0.1, 0.2]],
}

_TABLES: tuple[Parser, ...] = (
    *(
        Parser(
            f"embeddings {form}",
            f"v.{form}",
            _embeddings,
            seeds,
            lambda: {"events.csv": as_table("csv", EVENTS), "items.csv": as_table("csv", ITEMS)},
            binary=True,
            share=0.5,
        )
        for form, seeds in (
            ("npy", _vectors),
            ("npz", _keyed),
            ("parquet", lambda: parquets({"item": KEYS, "embedding": ROWS.tolist()})),
        )
    ),
    Parser("precomputed npy", "e.npy", _precomputed, _vectors, binary=True),
    Parser("precomputed npz", "e.npz", _precomputed, _keyed, binary=True),
    Parser("precomputed array", "e.npz", _precomputed, _vectors, wrap=_in_npz("embeddings")),
    Parser(
        "precomputed keys",
        "e.npz",
        _precomputed,
        lambda: [npy(np.array(KEYS)), npy(np.array(KEYS, "S"))],
        wrap=_in_npz("keys"),
    ),
    Parser(
        "precomputed parquet",
        "e.parquet",
        _precomputed,
        lambda: [
            *parquets({"key": KEYS, "e": ROWS.tolist()}),
            *parquets({"key": KEYS, "a": [1, 2, 3], "b": [0.5, 1.0, 2.0]}),
        ],
        binary=True,
    ),
    *(Parser(f"sids {form}", f"s.{form}", _sids, _text_seeds(form)) for form in SID_SEEDS),
    Parser("sids jsonl.gz", "s.jsonl.gz", _sids, _text_seeds("jsonl"), wrap=gzip.compress, share=0.5),
    Parser(
        "sids letter", "s.json", _letter, lambda: [b'{"0": ["<a_1>", "<b_3>"], "1": ["<b_4>", "<a_0>"], "2": ["<a_2>"]}']
    ),
    Parser(
        "sids parquet",
        "s.parquet",
        _sids,
        lambda: [*parquets(SID_COLUMNS), *parquets({"item": KEYS, "c0": [1, 2, 3], "c1": [None, 3, 4]})],
        binary=True,
    ),
    Parser(
        "sids npz",
        "s.npz",
        _sids,
        lambda: [npz(codes=CODES, keys=np.array(KEYS), sizes=np.array([4, 5, 6]), ordered=np.array(True))],
        binary=True,
    ),
    Parser("sids npz codes", "s.npz", _sids, lambda: [npy(CODES), npy(CODES.astype(np.uint8))], wrap=_in_npz("codes")),
    Parser("sids torch", "s.pt", _sids, _tensors, binary=True, share=0.5),
    Parser("sids torch pickle", "s.pt", _sids, _pickles, wrap=_around_pickle),
)

# A table is refused within a millisecond, where a data set takes twenty: more of them.
TABLES = tuple(
    replace(parser, share=(1 if parser.name.startswith("embeddings") else 8) * parser.share) for parser in _TABLES
)
"""The doors of embeddings and SID tables."""
