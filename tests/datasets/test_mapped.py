"""Matrices on disk: the same values as in memory, pages given back, files moved whole, a full disk said in time."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidbench.datasets.features.base import scale_modality
from sidbench.datasets.foundation import mapped
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_arrays
from sidbench.datasets.foundation.mapped import forget, load_matrix, row_blocks, save_matrix, scratch_matrix, take_rows


def resident_file_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident pages are read from /proc")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_forgotten_pages_are_not_resident_and_keep_their_values(tmp_path: Path, mode: str) -> None:
    np.save(tmp_path / "m.npy", np.ones((8192, 1024), np.float32))  # 32 MiB
    array = np.load(tmp_path / "m.npy", mmap_mode=mode)  # type: ignore[call-overload]
    before = resident_file_bytes()
    assert float(np.asarray(array).sum()) == 8192 * 1024
    assert resident_file_bytes() - before > 30e6
    if mode == "r+":
        array[5000] = 2
    forget(np.asarray(array)[10:20])  # a view of a view still finds the map
    assert resident_file_bytes() - before < 8e6
    assert float(array[4999].sum()) == 1024 and float(array[5000].sum()) == (2048 if mode == "r+" else 1024)


def test_private_maps_and_plain_arrays_are_left_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros(4096, np.float32))
    private = np.load(tmp_path / "m.npy", mmap_mode="c")
    private[7] = 3
    forget(private)
    assert private[7] == 3
    forget(np.zeros(3))


@given(st.integers(0, 30), st.integers(1, 9))
def test_row_blocks_cover_every_row_once(n: int, size: int) -> None:
    array = np.arange(2 * n).reshape(n, 2)
    parts = list(row_blocks(array, size))
    assert all(np.array_equal(array[part], block) and 1 <= len(block) <= size for part, block in parts)
    assert np.concatenate([np.zeros((0, 2), int), *(block for _, block in parts)]).tolist() == array.tolist()


@given(st.lists(st.integers(0, 19), max_size=40), st.integers(1, 25))
def test_rows_are_taken_in_the_order_asked_for(rows: list[int], block: int) -> None:
    array, index = np.arange(60.0).reshape(20, 3), np.array(rows, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped.row_blocks, "__defaults__", (block,))
        np.testing.assert_array_equal(take_rows(array, index), array[index])
    with pytest.raises(IndexError, match="an array of 20 rows"):
        take_rows(array, np.array([3, 20]))


def test_hash_is_that_of_all_bytes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {
        "b": np.arange(500, dtype=np.float32).reshape(250, 2).T,
        "a": np.array(["x", "yz"] * 70),
        "e": np.zeros((0, 3)),
        "s": np.float64(2.5),
    }
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode() + array.tobytes())
    assert hash_arrays(arrays) == digest.hexdigest()
    monkeypatch.setattr(mapped.row_blocks, "__defaults__", (7,))
    assert hash_arrays(arrays) == digest.hexdigest()


def test_a_scratch_matrix_is_moved_and_its_map_stays_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(scratch_matrix(tmp_path, "small", (4, 2)), np.memmap)
    monkeypatch.setattr(mapped, "MAPPED_BYTES", 1)
    rows = scratch_matrix(tmp_path / "partial", "rows", (5, 3))
    assert isinstance(rows, np.memmap) and not rows.any()
    rows[2] = 7
    inode = os.stat(tmp_path / "partial" / "rows.scratch.npy").st_ino
    save_matrix(tmp_path / "kept.npy", rows)
    assert os.listdir(tmp_path / "partial") == [] and os.stat(tmp_path / "kept.npy").st_ino == inode
    back = load_matrix(tmp_path / "kept.npy")
    assert isinstance(back, np.memmap) and not back.flags.writeable
    np.testing.assert_array_equal(back, rows)
    save_matrix(tmp_path / "copy.npy", back[1:3])  # part of a file, or another's file, is written, never moved
    save_matrix(tmp_path / "again.npy", back)
    assert (tmp_path / "kept.npy").exists() and load_matrix(tmp_path / "copy.npy").tolist() == [[0, 0, 0], [7, 7, 7]]


def test_small_files_are_read_into_memory(tmp_path: Path) -> None:
    save_matrix(tmp_path / "m.npy", np.arange(6).reshape(2, 3))
    assert not isinstance(load_matrix(tmp_path / "m.npy"), np.memmap) and load_matrix(tmp_path / "m.npy").flags.writeable
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_matrix(tmp_path / "evil.npy")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no reservation of disk blocks on this platform")
def test_a_full_disk_is_an_error_not_a_dead_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        assert size == 128 + 5 * 3 * 4
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(mapped, "MAPPED_BYTES", 1)
    with pytest.raises(OSError, match="No space left"):
        scratch_matrix(tmp_path, "rows", (5, 3))


def test_scaling_in_blocks_in_place_is_scaling_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    rows, there = draw.normal(size=(50, 4)).astype(np.float32), draw.random(50) < 0.8
    expected, scale = scale_modality("text", rows, there, 50)
    np.save(tmp_path / "m.npy", rows)
    file = np.load(tmp_path / "m.npy", mmap_mode="r+")
    monkeypatch.setattr(mapped.row_blocks, "__defaults__", (7,))
    scaled, again = scale_modality("text", file, there, 50, out=file)
    assert scaled is file and again == scale
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), expected)
    broken = rows.copy()
    broken[np.flatnonzero(there)[[20, 21]], 1] = np.nan
    with pytest.raises(InputError, match=f"2 of {there.sum()} rows .first: item {np.flatnonzero(there)[20]}"):
        scale_modality("text", broken, there, 50)
