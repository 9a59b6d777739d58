"""Embeddings from files: round trips, alignment by key, and files that must be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidbench.datasets.base import DatasetCard
from sidbench.datasets.features.amazon_images import encode_amazon_images, feature_file
from sidbench.datasets.features.precomputed import read_precomputed
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

KEYS = ("a", "b", "c", "d")
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_npy_rows_are_items_in_order(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64, np.int64, ">f4"):
        np.save(tmp_path / "text.npy", ROWS.astype(dtype))
        found = read_precomputed(tmp_path / "text.npy", KEYS, "text")
        np.testing.assert_array_equal(found.embeddings, ROWS)
        assert found.embeddings.dtype == np.float32 and found.available.all() and found.counts == {}


def _write(path: Path, keys: list[Any], rows: np.ndarray, layout: str) -> None:
    if path.suffix == ".npz":
        np.savez(path, keys=np.array(keys), embeddings=rows)
    elif layout == "list":
        pl.DataFrame({"key": keys, "embedding": rows.tolist()}).write_parquet(path)
    elif layout == "array":
        table = pl.DataFrame({"embedding": rows}).with_columns(pl.Series("key", keys))
        table.write_parquet(path)
    else:
        pl.DataFrame({"d0": rows[:, 0], "key": keys, "d1": rows[:, 1], "d2": rows[:, 2]}).write_parquet(path)


@pytest.mark.parametrize(
    ("suffix", "layout"), [(".npz", ""), (".parquet", "list"), (".parquet", "array"), (".parquet", "columns")]
)
def test_keyed_files_are_aligned_and_what_does_not_match_is_counted(tmp_path: Path, suffix: str, layout: str) -> None:
    path = tmp_path / f"vision{suffix}"
    _write(path, ["d", "x", "a", "y", "c"], np.stack([ROWS[3], ROWS[0] - 9, ROWS[0], ROWS[0] - 9, ROWS[2]]), layout)
    found = read_precomputed(path, KEYS, "vision")
    assert found.available.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(found.embeddings, ROWS * found.available[:, None])
    assert found.counts == {"vision_items_missing": 1, "vision_keys_unknown": 2}


def test_integer_and_byte_keys_are_read_as_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", keys=np.array([10, 9]), embeddings=ROWS[:2])
    np.testing.assert_array_equal(read_precomputed(tmp_path / "e.npz", ("9", "10"), "text").embeddings, ROWS[[1, 0]])
    np.savez(tmp_path / "e.npz", keys=np.array([b"10", b"9"]), embeddings=ROWS[:2])
    np.testing.assert_array_equal(read_precomputed(tmp_path / "e.npz", ("9", "10"), "text").embeddings, ROWS[[1, 0]])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(4)))
def test_the_order_of_a_keyed_file_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    np.savez(tmp_path / "p.npz", keys=np.array([KEYS[i] for i in order]), embeddings=ROWS[order])
    np.testing.assert_array_equal(read_precomputed(tmp_path / "p.npz", KEYS, "text").embeddings, ROWS)


class _Evil:
    """Sets a flag when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _evil, ()


def _evil() -> int:
    _Evil.ran = True
    return 0


def test_pickled_arrays_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([_Evil()], object), allow_pickle=True)
    np.savez(tmp_path / "e.npz", keys=np.array(["a"]), embeddings=np.array([_Evil()], object))
    np.savez(tmp_path / "k.npz", keys=np.array([_Evil()], object), embeddings=ROWS[:1])
    for name in ("e.npy", "e.npz", "k.npz"):
        with pytest.raises(InputError, match="is damaged or holds pickled objects"):
            read_precomputed(tmp_path / name, KEYS, "text")
    assert not _Evil.ran


def _nan(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[2, 1] = np.nan
    return rows


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ROWS[:3], "3 rows; wanted 4, one per catalogue item"),
        (ROWS[:, 0], r"float32 of shape \(4,\); wanted numbers of shape"),
        (ROWS[:, :0], r"float32 of shape \(4, 0\)"),
        (ROWS.astype(str), "wanted numbers of shape"),
        (ROWS.astype(complex), "wanted numbers of shape"),
        (_nan(ROWS), r"NaN or infinite values in 1 of 4 rows \(first: row 2\)"),
        (np.full((4, 3), 1e300), "NaN or infinite values in 4 of 4 rows"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "text.npy", array)
    with pytest.raises(InputError, match=message):
        read_precomputed(tmp_path / "text.npy", KEYS, "text")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"keys": np.array(["a", "a"]), "embeddings": ROWS[:2]}, "repeat; got 1 repeats"),
        ({"keys": np.array(["a"]), "embeddings": ROWS[:2]}, "1 keys and 2 embeddings"),
        ({"keys": np.array(["x", "y"]), "embeddings": ROWS[:2]}, "holds no item of the catalogue"),
        ({"keys": np.array([0.5, 1.5]), "embeddings": ROWS[:2]}, "wanted one string or integer per row"),
        ({"names": np.array(["a"]), "embeddings": ROWS[:1]}, "wanted the arrays keys and embeddings"),
    ],
)
def test_unusable_archives_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_precomputed(tmp_path / "e.npz", KEYS, "text")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item": ["a"], "d0": [1.0]}, "wanted 'key' and the embeddings"),
        ({"key": ["a", None], "d0": [1.0, 2.0]}, "missing values"),
        ({"key": ["a"], "d0": ["one"]}, "without numbers"),
        ({"key": ["a", "b"], "e": [[1.0], [1.0, 2.0]]}, "2 lengths or missing numbers"),
        ({"key": ["a", "b"], "e": [["x"], ["y"]]}, "wanted lists of numbers"),
        ({"key": ["a"], "e": [[1.0]], "f": [[1.0]]}, "wanted one list column"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, table: dict[str, list[Any]], message: str) -> None:
    pl.DataFrame(table, strict=False).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(InputError, match=message):
        read_precomputed(tmp_path / "e.parquet", KEYS, "text")


@pytest.mark.parametrize("name", ["e.npy", "e.npz", "e.parquet"])
def test_damaged_and_absent_files_are_refused(tmp_path: Path, name: str) -> None:
    _good = tmp_path / ("good" + Path(name).suffix)
    if name.endswith(".npy"):
        np.save(_good, ROWS)
    else:
        _write(_good, list(KEYS), ROWS, "columns")
    whole = _good.read_bytes()
    for data in (b"", b"rubbish", whole[: len(whole) // 2], whole[:-4]):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="cannot read"):
            read_precomputed(tmp_path / name, KEYS, "text")
    with pytest.raises(InputError):
        read_precomputed(tmp_path / "absent" / name, KEYS, "text")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got a \.pkl file; wanted \.npz or \.npy or \.parquet"):
        read_precomputed(tmp_path / "e.pkl", KEYS, "text")


def test_amazon_image_records_are_matched_by_asin_and_reduced(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    planted = draw.normal(size=(5, 2)) @ draw.normal(size=(2, 4096))
    asins = [f"B00000000{i}" for i in range(5)]
    with open(tmp_path / "image_features_Beauty.b", "wb") as handle:
        for asin, row in zip(asins, planted, strict=True):
            handle.write(asin.encode() + row.astype("<f4").tobytes())
    keys = (asins[3], "B999999999", asins[0], asins[1], asins[4])
    found = encode_amazon_images(tmp_path / "image_features_Beauty.b", keys, 3, Rng(0))
    assert found.available.tolist() == [True, False, True, True, True]
    assert found.counts == {"items_without_picture": 1, "vision_width": 2}  # the planted rank, not the three asked for
    rows, wanted = found.embeddings[found.available], planted[[3, 0, 1, 4]]
    gaps = [((e[:, None] - e[None]) ** 2).sum(-1) for e in (rows, wanted)]
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-3)  # rank 2 is kept whole, so distances are


def test_the_amazon_file_is_named_by_the_metadata_of_the_dataset() -> None:
    card = DatasetCard("sports", "", "", "", {}, files={"meta_Sports_and_Outdoors.json.gz": "0" * 64})
    assert feature_file(card) == "image_features_Sports_and_Outdoors.b"
    with pytest.raises(InputError, match="dataset ml-100k; wanted an Amazon 2014 dataset"):
        feature_file(DatasetCard("ml-100k", "", "", "", {}))
