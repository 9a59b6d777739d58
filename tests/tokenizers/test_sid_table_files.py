"""Readers and writers of SID tables: every format round-trips, every fault is named, nothing else ever comes out."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidbench.benchmark.stages.result_frames import sids_frame
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers import base
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.sid_tables import arrays, table
from sidbench.tokenizers.sid_tables.files import WRITE_FORMATS, read_table, write_table
from sidbench.tokenizers.sid_tables.matching import check_matched, match_rows
from sidbench.tokenizers.sid_tables.table import PAD, SidTable, from_matrix, looks_offset

SUFFIX = {
    "json": ".json",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "tsv": ".tsv",
    "parquet": ".parquet",
    "npz": ".npz",
    "letter": ".index.json",
    "torch": ".pt",
}
CODES = np.array([[0, 3, 1], [2, -1, 0], [1, 2, -1]], np.int32)
KEYS = ("B001", 'a,"b"', "ключ 3")


def written(folder: Path, form: str, content: str | bytes) -> Path:
    path = folder / f"table{SUFFIX[form]}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_pad_is_the_contract_s() -> None:
    assert PAD == base.PAD


@pytest.mark.parametrize("form", WRITE_FORMATS)
def test_what_is_written_is_read_back(form: str, tmp_path: Path) -> None:
    weights = np.where(CODES >= 0, np.float32(0.25), 0)
    made = from_matrix(CODES, KEYS, "test", sizes=[4, 5, 6], ordered=False, weights=weights.astype(np.float32))
    path = tmp_path / f"t{SUFFIX[form]}"
    write_table(path, made, form, KEYS)
    found = read_table(path)
    assert np.array_equal(found.codes, CODES)
    assert found.keys == (("0", "1", "2") if form == "letter" else KEYS)
    kept = form in ("parquet", "npz")
    assert found.sizes.tolist() == ([4, 5, 6] if kept else [3, 4, 2]) and found.sizes_stated == kept
    assert found.ordered is (False if kept else None)
    assert (found.weights is not None and np.array_equal(found.weights, weights)) == kept
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(WRITE_FORMATS))
def test_any_table_survives_any_format(tmp_path: Path, data: st.DataObject, form: str) -> None:
    n, length = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    codes = np.array(
        data.draw(st.lists(st.lists(st.integers(-1, 300), min_size=length, max_size=length), min_size=n, max_size=n)),
        np.int32,
    )
    codes[(codes < 0).all(axis=1), 0] = 7
    codes[0] = np.abs(codes[0])
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda s: s == s.strip())
    keys = data.draw(st.lists(text, min_size=n, max_size=n, unique=True))
    path = tmp_path / f"any{SUFFIX[form]}"
    write_table(path, from_matrix(codes, keys, "test"), form, keys)
    found = read_table(path)
    assert np.array_equal(found.codes, codes)
    assert form == "letter" or found.keys == tuple(keys)


def test_published_shapes_are_read(tmp_path: Path) -> None:
    rows = read_table(written(tmp_path, "json", "[[1, 2], [3]]"))
    assert rows.keys is None and rows.codes.tolist() == [[1, 2], [3, PAD]] and rows.counts == {"short_rows": 1}
    index = read_table(written(tmp_path, "letter", '{"0": ["<a_12>", "<b_3>"], "1": ["<b_4>"]}'))
    assert index.codes.tolist() == [[12, 3], [PAD, 4]] and index.keys == ("0", "1")
    bare = read_table(written(tmp_path, "csv", "c0,c1\n1,2\n3,\n"))
    assert bare.keys is None and bare.codes.tolist() == [[1, 2], [3, PAD]]
    tabs = read_table(written(tmp_path, "tsv", "\ufeffASIN\tx\r\nB1\t5\r\n\r\n"))
    assert tabs.keys == ("B1",) and tabs.codes.tolist() == [[5]]
    zipped = tmp_path / "t.jsonl.gz"
    zipped.write_bytes(gzip.compress(b'{"item": 7, "codes": [1]}\n'))
    assert read_table(zipped).keys == ("7",)
    ours = tmp_path / "sids.parquet"
    sids_frame(SemanticIds(CODES, np.array([3, 4, 2], np.int32), True), KEYS).write_parquet(ours)
    assert np.array_equal(read_table(ours).codes, CODES) and read_table(ours).keys == KEYS
    columns = tmp_path / "columns.parquet"
    pq.write_table(pa.table({"item": [5, 6], "c0": [1, 2], "c1": pa.array([None, 3])}), columns)
    assert read_table(columns).codes.tolist() == [[1, PAD], [2, 3]] and read_table(columns).keys == ("5", "6")


def test_axes_of_a_saved_tensor_are_told_apart_by_the_catalogue(tmp_path: Path) -> None:
    path, values = tmp_path / "sids.pt", torch.arange(12).reshape(3, 4)
    torch.save(values, path)
    assert read_table(path, n_items=3).codes.tolist() == values.tolist()
    assert read_table(path, n_items=4).codes.tolist() == values.T.tolist()
    for unclear in (None, 5):
        with pytest.raises(InputError, match="which axis holds the items"):
            read_table(path, n_items=unclear)
    assert read_table(path, layout="positions_first").n_items == 4
    torch.save(torch.zeros(3, 3, dtype=torch.long), path)
    with pytest.raises(InputError, match="tokenizer.layout"):
        read_table(path, n_items=3)


BAD = [
    ("json", "", "an empty file"),
    ("json", "[]", "no codes"),
    ("json", "3", "no SID table"),
    ("json", "{", "no JSON"),
    ("json", "[[1], [NaN]]", "no JSON number"),
    ("json", "[[1.0]]", "no whole number"),
    ("json", "[[true]]", "no whole"),
    ("json", '[["1"]]', "no whole number"),
    ("json", "[[null]]", "no whole number"),
    ("json", "[1]", "no list of codes"),
    ("json", "[[-2]]", "row 1: code out of range"),
    ("json", "[[16777216]]", "out of range"),
    ("json", '{"a": [1], "a": [2]}', "twice"),
    ("json", '{"": [1]}', "without key"),
    ("json", "[[1], []]", "without any"),
    ("json", "[[1, -1]]", "no item uses"),
    ("json", json.dumps([[1] * 65]), "too long"),
    ("json", "[" * 100_000, "no JSON"),
    ("json", b"\xff\xfe[[1]]", "not UTF-8"),
    ("json", b"PAR1xxxx", "is no json file"),
    ("json", "9" * 5000, "no JSON"),
    ("jsonl", '{"item": 1}', 'wanted {"item": …, "codes"'),
    ("jsonl", '{"item": 1.5, "codes": [1]}', "item key"),
    ("jsonl", '{"item": "a", "codes": [1]}\n{"item": "a", "codes": [2]}', "twice"),
    ("jsonl", "[[1]]", "no SID"),
    ("csv", "item,c0\n", "no codes"),
    ("csv", "item\na", "header"),
    ("csv", "1,2\n3,4", "name the columns"),
    ("csv", "item,c0\na,1,2", "too many cells"),
    ("csv", "item,c0\na,1.0", "line 2: code that is no whole number"),
    ("csv", "item,c0\na,nan", "no whole number"),
    ("csv", "item,c0\na,\nb,1", "without any code"),
    ("csv", 'item,c0\n"a,1', "no table"),
    ("csv", "item,c0\na,²", "no whole number"),
    ("csv", "\x00,\x01\n", "header"),
    ("csv", "product,c0\n1,2", "header"),
    ("csv", "item,c0\na,1\na,2", "(first: 'a')"),
    ("csv", "item,c0\na,99999999999", "out of range"),
    ("letter", '{"0": ["<a_1>", "<a_2>"]}', "each letter once"),
    ("letter", '{"0": ["<a_x>"]}', "<a_12>"),
    ("letter", '{"0": ["<a_1>"], "1": [2]}', "token"),
    ("letter", '{"0": ["<b_1>"]}', "no item uses"),
    ("letter", '{"0": ["<a_1>"], "1": []}', "without any code"),
    ("letter", '{"0": ["<a_999999999>"]}', "out of range"),
    ("parquet", "no parquet at all", "is no parquet file"),
    ("parquet", b"PAR1" * 10, "cannot read"),
    ("npz", b"PK\x03\x04 torn", "no zip archive"),
    ("npz", "text", "is no npz file"),
    ("torch", b"PK\x03\x04 torn", "no zip archive"),
    ("torch", b"\x80\x02}q\x00.", "is no torch file"),
]


@pytest.mark.parametrize(("form", "content", "said"), BAD)
def test_faults_are_named(form: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_table(written(tmp_path, form, content), "letter" if form == "letter" else "auto", n_items=2)
    assert said in str(caught.value)


def npz(path: Path, **values: object) -> Path:
    np.savez(path, **values)  # type: ignore[arg-type]
    return path


def test_faults_of_arrays_are_named(tmp_path: Path) -> None:
    path, good = tmp_path / "t.npz", np.array([[0, 1], [2, 0]])
    for values, said in (
        ({"x": good}, "array missing"),
        ({"codes": good.astype(float)}, "type float64"),
        ({"codes": good[0]}, "two axes"),
        ({"codes": good, "keys": np.array(["a"])}, "1 keys for 2 rows"),
        ({"codes": good, "keys": good}, "one text or"),
        ({"codes": good, "sizes": [2, 2]}, "size of position 0"),
        ({"codes": good, "sizes": [3.0, 3.0]}, "sizes"),
        ({"codes": good, "sizes": [3]}, "1 sizes for 2 positions"),
        ({"codes": good, "ordered": 3}, "one true or false"),
        ({"codes": good, "weights": np.full((2, 2), np.nan)}, "weights"),
        ({"codes": good.astype(bool)}, "type bool"),
        ({"codes": good.astype(np.uint64) + np.uint64(2**63)}, "out of range"),
        ({"codes": np.zeros((0, 3), int)}, "no codes"),
        ({"codes": np.array([[{}]], dtype=object)}, "cannot read"),
        ({"codes": good, "sizes": [2**40, 3]}, "1..16777216"),
    ):
        with pytest.raises(InputError, match=said.replace("(", r"\(")):
            read_table(npz(path, **values))


def test_pickles_and_other_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    for value, said in (
        (torch.nn.Linear(2, 2), "cannot read"),
        ({"codes": torch.zeros(2, 2)}, "no table of codes"),
        (torch.zeros(2, 3), "type torch.float32"),
        (torch.zeros(3, dtype=torch.long), "two axes"),
        (torch.zeros(2, 3, dtype=torch.bool), "type torch.bool"),
        (torch.zeros(1, dtype=torch.long).expand(10**7, 60), "shape"),
        (torch.zeros(3, 4, dtype=torch.long).to_sparse(), "no table of codes"),
    ):
        torch.save(value, path)
        with pytest.raises(InputError, match=said):
            read_table(path, n_items=3)


def test_bombs_are_refused_before_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_FILE_BYTES", 1 << 16)
    monkeypatch.setattr("sidbench.tokenizers.sid_tables.text.MAX_FILE_BYTES", 1 << 16)
    monkeypatch.setattr("sidbench.tokenizers.sid_tables.parquet.MAX_ITEMS", 1000)
    packed = tmp_path / "t.npz"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("codes.npy", b"\0" * (1 << 20))
    zipped = tmp_path / "t.json.gz"
    zipped.write_bytes(gzip.compress(b"[" + b" " * (1 << 20) + b"[1]]"))
    long = tmp_path / "t.parquet"
    pq.write_table(pa.table({"item": pa.array(range(5000)), "c0": pa.array([0] * 5000)}), long)
    for path in (packed, zipped, long):
        assert path.stat().st_size < 1 << 16
        with pytest.raises(InputError, match="too large"):
            read_table(path)


def test_faults_of_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for columns, said in (
        ({"codes": [[1]]}, "columns"),
        ({"item": ["a"], "x": [1]}, "columns"),
        ({"item": ["a"], "codes": [1]}, "one list a row"),
        ({"item": ["a"], "codes": [[1.5]]}, "whole numbers"),
        ({"item": ["a"], "codes": [[1, None]]}, "1 missing"),
        ({"item": [None], "codes": [[1]]}, "item column"),
        ({"item": ["a", "b"], "codes": [[1], None]}, "1 missing"),
        ({"item": ["a"], "codes": [["x"]]}, "whole numbers"),
        ({"item": ["a"], "codes": [[1] * 65]}, "too long"),
        ({"item": ["a"], "c0": [0.5]}, "whole numbers"),
        ({"item": ["a"], "codes": [[1]], "weights": [[1.0, 2.0]]}, "weights"),
        ({"item": [1.5], "codes": [[1]]}, "item column"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(InputError, match=said):
            read_table(path)
    noted = pa.table({"item": ["a"], "codes": [[1]]}).replace_schema_metadata({b"sidbench": b'{"sizes": "no"}'})
    pq.write_table(noted, path)
    with pytest.raises(InputError, match="metadata"):
        read_table(path)


def seeds_of(form: str) -> bytes:
    """A good file of each format, for mutation."""
    if form in ("npz", "torch"):
        buffer = io.BytesIO()
        if form == "npz":
            np.savez(buffer, codes=CODES, keys=np.array(KEYS), sizes=np.array([4, 5, 6]))
        else:
            torch.save(torch.arange(6).reshape(2, 3), buffer)
        return buffer.getvalue()
    if form == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({"item": ["a", "b"], "codes": [[1, 2], [3]]}), buffer)
        return buffer.getvalue()
    return {
        "json": b'{"a": [1, 2], "b": [3]}',
        "jsonl": b'{"item": "a", "codes": [1]}\n{"item": "b", "codes": [2]}\n',
        "csv": b"item,c0,c1\na,1,2\nb,3,\n",
        "tsv": b"item\tc0\na\t1\n",
        "letter": b'{"0": ["<a_1>", "<b_2>"]}',
    }[form]


@pytest.mark.parametrize("form", list(SUFFIX))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_but_input_errors_comes_out(form: str, data: st.DataObject, tmp_path: Path) -> None:
    good = bytearray(seeds_of(form))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
        good = good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good
    else:
        good = bytearray(data.draw(st.binary(max_size=200)))
    path = written(tmp_path, form, bytes(good))
    try:
        found = read_table(path, form, n_items=2)
    except InputError as error:
        assert error.wanted or error.do
    else:
        assert found.codes.dtype == np.int32 and (found.codes >= PAD).all() and (found.codes < found.sizes).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3),
        max_leaves=12,
    ),
    form=st.sampled_from(["json", "letter", "jsonl"]),
)
def test_any_json_is_a_table_or_an_input_error(value: object, form: str, tmp_path: Path) -> None:
    try:
        found = read_table(written(tmp_path, form, json.dumps(value)), form)
    except InputError:
        return
    assert isinstance(found, SidTable)


# -- matching ----------------------------------------------------------------------------------------------------------
def keyed(*keys: str) -> SidTable:
    return from_matrix(np.arange(len(keys))[:, None], keys, "t")


def test_rows_are_matched_by_key_or_by_number() -> None:
    by_key = match_rows(keyed("b", "a"), ("a", "b", "c"), 3, "auto", "t")
    assert by_key.rows.tolist() == [1, 0, -1] and not by_key.by_row and by_key.missing.tolist() == [2]
    by_number = match_rows(keyed("2", "0"), ("a", "b", "c"), 3, "auto", "t")
    assert by_number.rows.tolist() == [1, -1, 0] and by_number.by_row
    plain = match_rows(from_matrix(np.zeros((2, 1), int), None, "t"), None, 2, "auto", "t")
    assert plain.rows.tolist() == [0, 1]
    same = match_rows(keyed("0", "1"), ("0", "1"), 2, "auto", "t")
    assert same.rows.tolist() == [0, 1]


def test_ambiguous_and_unknown_keys_are_refused() -> None:
    with pytest.raises(InputError, match="keys=item or keys=row"):
        match_rows(keyed("0", "1"), ("1", "0"), 2, "auto", "t")
    assert match_rows(keyed("0", "1"), ("1", "0"), 2, "item", "t").rows.tolist() == [1, 0]
    with pytest.raises(InputError, match="row numbers; got 'x'"):
        match_rows(keyed("0", "x"), ("0", "x"), 2, "row", "t")
    with pytest.raises(InputError, match="rows without keys"):
        match_rows(from_matrix(np.zeros((2, 1), int), None, "t"), ("a", "b"), 2, "item", "t")
    unknown = match_rows(keyed("a", "zz"), ("a", "b"), 2, "auto", "t")
    with pytest.raises(InputError, match="catalogue lacks; got 1 .first: 'zz'"):
        check_matched(unknown, keyed("a", "zz"), ("a", "b"), "t", missing="share", extra="refuse")
    with pytest.raises(InputError, match="without a SID; got 1 .first: 'b'"):
        check_matched(unknown, keyed("a", "zz"), ("a", "b"), "t", missing="refuse", extra="keep")
    check_matched(unknown, keyed("a", "zz"), ("a", "b"), "t", missing="share", extra="keep")
    none = match_rows(keyed("y", "zz"), ("a", "b"), 2, "auto", "t")
    with pytest.raises(InputError, match="no item of the catalogue"):
        check_matched(none, keyed("y", "zz"), ("a", "b"), "t", missing="share", extra="keep")


def test_offset_codes_are_recognised() -> None:
    assert looks_offset(from_matrix(np.array([[0, 256, 512], [3, 300, 700]]), None, "t"))
    assert not looks_offset(from_matrix(np.array([[0, 4], [3, 1]]), None, "t"))


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys, sidbench.tokenizers.sid_tables.files, sidbench.tokenizers.sid_tables.parquet, "
        "sidbench.tokenizers.sid_tables.matching; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert table.MAX_FILE_BYTES == 1 << 30
