"""Files that try to run code or to fill memory and disk: each ends in the documented error.

``Evil`` leaves a file behind when it is unpickled.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import struct
import subprocess
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.plugins.registry import ROOT
from sidbench.benchmark.runtime.checkpoints import read_checkpoint
from sidbench.benchmark.store.serialization import load_arrays, load_mapped, load_state, save_json
from sidbench.datasets.base import Catalog
from sidbench.datasets.features.pictures import PictureRefused, decode_picture, iterate_pictures
from sidbench.datasets.features.precomputed import read_precomputed
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading import lines
from sidbench.datasets.reading.archives import FREE_BYTES, MAX_RATIO, check_unpacked, check_zip
from sidbench.datasets.reading.download import extract_member
from sidbench.datasets.reading.parquet import check_extent, read_parquet
from sidbench.datasets.reading.table import Problems
from sidbench.datasets.reading.vectors import read_vectors
from sidbench.tokenizers.sid_tables.files import read_table

NAMES_OUT = ("../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "..\\evil", "", "a\0b", "\\\\host\\share\\x")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "ran"))


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there at the end."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists(), "a stranger's code ran"


# -- archives and sizes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in NAMES_OUT if n and "\0" not in n])
def test_zip_slip(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("u.data", "good")
        bundle.writestr(zipfile.ZipInfo(name), "bad")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="leaves its folder"):
        extract_member(tmp_path / "a.zip", "u.data", tmp_path / "out" / "u.data")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out"]


def test_links_in_archives_and_archives_in_the_place_of_files(tmp_path: Path) -> None:
    """No tar archive is unpacked anywhere: one in the place of a data file is malformed text."""
    import tarfile

    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("u.data", "good")
        bundle.writestr(link, "/etc")
    with pytest.raises(InputError, match="leaves its folder"):
        extract_member(tmp_path / "a.zip", "u.data", tmp_path / "out")
    with tarfile.open(tmp_path / "t.csv.gz", "w:gz") as tar:
        info = tarfile.TarInfo("evil")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError):
        read_table(tmp_path / "t.csv.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "t.csv.gz"]


def test_a_gzip_bomb_is_left_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gibibyte in a megabyte: with the bound at 16 MiB (1 GiB outside this test) a tenth of it is unpacked."""
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(gzip.compress(b"\n" * (16 << 20), 6) * 64)
    assert path.stat().st_size < 1.5e6
    monkeypatch.setattr(lines, "FREE_BYTES", 16 << 20)
    number = 0
    with pytest.raises(InputError, match="decompress"):
        for first, _ in lines.read_blocks(path):
            number = first
    assert 0 < number <= 1.1 * MAX_RATIO * path.stat().st_size
    assert FREE_BYTES == 1 << 30 and MAX_RATIO == 100


def test_what_counts_as_a_bomb() -> None:
    check_unpacked("x", FREE_BYTES, 1)
    check_unpacked("x", 100 * 50_000_000, 50_000_000)
    for unpacked, packed in ((FREE_BYTES + 1, 10), (100 * 50_000_000 + 1, 50_000_000)):
        with pytest.raises(InputError, match="decompression bomb"):
            check_unpacked("x", unpacked, packed)


def _claiming(path: Path, name: str, data: bytes, claim: int) -> Path:
    """A zip archive whose directory says that its member unpacks to ``claim`` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(name, data)
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\x01\x02")
    whole[entry + 24 : entry + 28] = struct.pack("<I", claim)
    path.write_bytes(whole)
    return path


def _header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "precomputed npz": ("e.npz", lambda path: read_precomputed(path, ("a",), "text")),
    "precomputed npy": ("e.npy", lambda path: read_precomputed(path, ("a",), "text")),
    "imported npz": ("e.npz", lambda path: read_vectors(path, ["a"], {}, Problems())),
    "imported npy": ("e.npy", lambda path: read_vectors(path, ["a"], {}, Problems())),
    "SIDs": ("s.npz", read_table),
    "cached arrays": ("c.npz", load_arrays),
    "cached matrices": ("m/c.npy", lambda path: load_mapped(path.parent)),
}


@pytest.mark.parametrize("reader", READERS)
def test_an_array_that_claims_a_terabyte_takes_no_memory(reader: str, tmp_path: Path) -> None:
    import resource

    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape in ((1 << 37, 8), (1 << 62, 1 << 62), (10**30, 2)):
        data = _header(shape) + bytes(64)
        if name.endswith(".npz"):
            with zipfile.ZipFile(path, "w") as bundle:
                for member in ("keys", "embeddings", "codes"):
                    bundle.writestr(f"{member}.npy", data)
        else:
            path.write_bytes(data)
        with pytest.raises(InputError):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    if name.endswith(".npz"):
        with pytest.raises(InputError, match="too large when decompressed"):
            read(_claiming(path, "embeddings.npy", bytes(1000), 4_000_000_000))


@pytest.mark.parametrize("reader", READERS)
def test_pickled_arrays_are_never_unpickled(reader: str, tmp_path: Path, sentinel: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    objects = np.array([Evil(sentinel)], object)
    if name.endswith(".npz"):
        np.savez(path, keys=objects, embeddings=objects, codes=objects)
    else:
        np.save(path, objects, allow_pickle=True)
    with pytest.raises(InputError):
        read(path)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as bundle:  # a member that is a bare pickle
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, objects, allow_pickle=True)
        bundle.writestr("codes.npy", buffer.getvalue()[128:])
    with pytest.raises(InputError):
        read_table(tmp_path / "x.npz")


def test_zip_archives_claim_before_they_unpack(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too large when decompressed"):
        check_zip(_claiming(tmp_path / "a.zip", "x", b"x", 4_000_000_000))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_picture_bombs(tmp_path: Path) -> None:
    claimed = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", b"x")
    )
    buffer = io.BytesIO()
    Image.new("1", (8_000, 6_000)).save(buffer, "PNG")
    text = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
        + _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20 << 20)))
        + _chunk(b"IDAT", zlib.compress(bytes(4 * 13)))
        + _chunk(b"IEND", b"")
    )
    for data, why in ((claimed, "pictures_too_large"), (buffer.getvalue(), "pictures_too_large"), (text, "pictures_broken")):
        with pytest.raises(PictureRefused, match=why):
            decode_picture(data, 8)
    counts: Counter[str] = Counter()
    catalog = Catalog(keys=("a",), images=("a.png",), image_root=_claiming(tmp_path / "p.zip", "a.png", b"x", 4_000_000_000))
    assert not list(iterate_pictures(catalog, 8, counts)) and counts["pictures_too_large"] == 1


def test_no_picture_starts_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS files to Ghostscript, an interpreter."""

    def forbidden(*words: object, **options: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    with pytest.raises(PictureRefused, match="pictures_broken"):
        decode_picture(buffer.getvalue(), 8)


def test_parquet_claims(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"key": ["a"], "e": [1.0]}), path)

    def extent(rows: int, groups: list[tuple[int, int]]) -> SimpleNamespace:
        made = [SimpleNamespace(num_rows=n, total_byte_size=size) for n, size in groups]
        return SimpleNamespace(num_rows=rows, num_row_groups=len(made), num_columns=1, row_group=made.__getitem__)

    check_extent(extent(3, [(1, 10), (2, 10)]), path)
    for rows, groups in (
        (2**40, [(2**40, 10)]),
        (-1, [(-1, 1)]),
        (3, [(1, 1)]),
        (1, [(1, -5)]),
        (1, [(1, 2**40)]),
        (2**29, [(2**29, 10)]),
    ):
        with pytest.raises(InputError):
            check_extent(extent(rows, groups), path)


def test_a_parquet_file_of_endless_missing_values(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"key": pa.nulls(150_000_000)}), path, compression="none", row_group_size=150_000_000)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match="decompression bomb"):
        read_parquet(path)


# -- code that must not run -------------------------------------------------------------------------------------------
def test_a_tensor_with_a_malicious_reduce(
    tmp_path: Path, sentinel: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, value in enumerate(
        (Evil(sentinel), {"codes": Evil(sentinel)}, [torch.zeros(2, 2, dtype=torch.long), Evil(sentinel)])
    ):
        path = tmp_path / f"sids{number}.pt"
        torch.save(value, path)
        assert (
            invoke(
                [
                    "sids",
                    "import",
                    str(path),
                    "--dataset",
                    "synthetic",
                    "--out",
                    str(tmp_path / "o.parquet"),
                    "--budget",
                    "smoke",
                ]
            )
            == 2
        )
        assert "cannot read" in capsys.readouterr().err
    torch.save(Evil(sentinel), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="no torch file"):
        read_table(tmp_path / "old.pt")
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{",
        struct.pack("<Q", 2) + b"{}" + b"x" * 9,
        (lambda h: struct.pack("<Q", len(h)) + h)(
            b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}'
        )
        + bytes(4),
        (lambda h: struct.pack("<Q", len(h)) + h)(b'{"__metadata__":{"plain":"' + b"[" * 50_000 + b'"}}'),
        (lambda h: struct.pack("<Q", len(h)) + h)(b'{"__metadata__":{"plain":"[1, 2]"}}'),
        b"",
    ],
)
def test_hostile_headers_of_checkpoints(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(data)
    began = time.monotonic()
    assert read_checkpoint(tmp_path / "c.safetensors") is None
    assert time.monotonic() - began < 10
    (tmp_path / "state.safetensors").write_bytes(data)
    save_json(tmp_path / "facts.json", {})
    if b"__metadata__" not in data:  # a state has no plain values, so what stands there does no harm
        with pytest.raises(InputError, match="cannot read"):
            load_state(tmp_path)


def test_a_generator_folder_brings_no_code(tmp_path: Path, sentinel: Path) -> None:
    """``auto_map`` names a Python file of the folder, which transformers would import where remote code is trusted."""
    pytest.importorskip("transformers")
    from sidbench.benchmark.runtime.local import local_runtime
    from sidbench.tokenizers.blocks.text.phrase_generator import PhraseGenerator

    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(sentinel)!r}).write_text('ran')\n")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    auto = {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model", "AutoTokenizer": ["evil.Slow", "evil.Fast"]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto, "tokenizer_class": "Evil"}))
    with pytest.raises(InputError, match="generator"):
        PhraseGenerator(str(tmp_path), 1, 8, 8, local_runtime(threads=1))


def test_the_rooms_hold_no_call_that_runs_data() -> None:
    """No eval, exec, pickle, marshal, shelve, YAML or tar anywhere; arrays and tensors are loaded without unpickling."""
    forbidden_names, forbidden_modules = (
        {"eval", "exec", "compile", "__import__"},
        {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "tarfile"},
    )
    suspects = {
        *forbidden_names,
        "extractall",
        "unpack_archive",
        "load",
        "run",
        "Popen",
        "call",
        "check_output",
        "from_pretrained",
    }
    found: list[tuple[str, int]] = []
    n_files = 0
    for room in ("benchmark", "datasets", "tokenizers", "recommenders", "leaderboards"):
        for path in sorted((ROOT / room).rglob("*.py")):
            n_files += 1
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found += [(path.name, node.lineno) for a in node.names if a.name.split(".")[0] in forbidden_modules]
                elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in forbidden_modules:
                    found += [(path.name, node.lineno) for alias in node.names if alias.name != "UnpicklingError"]
                elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in suspects:
                    name = ast.unparse(node.func)
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    bad = (
                        name in forbidden_names
                        or name.endswith((".extractall", ".unpack_archive"))
                        or (name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False")
                        or (name == "torch.load" and given.get("weights_only") != "True")
                        or given.get("shell") == "True"
                        or given.get("trust_remote_code") == "True"
                    )
                    found += [(path.name, node.lineno)] if bad else []
    assert not found and n_files > 150
