"""Sizes and ages that people write, and sizes and times of folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidbench.benchmark.store.maintenance.units import age, age_text, modified, parse_age, parse_size, path_bytes
from sidbench.datasets.foundation.errors import InputError


@pytest.mark.parametrize(("text", "n_bytes"), [("10GB", 10**10), ("500 MiB", 500 * 2**20), ("1.5kB", 1500), ("7", 7)])
def test_sizes(text: str, n_bytes: int) -> None:
    assert parse_size(text, "--max-size") == n_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("1.5W", 907_200)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text, "--older-than") == seconds


@pytest.mark.parametrize("text", ["", "GB", "-1", "ten"])
def test_refused_with_the_option_named(text: str) -> None:
    with pytest.raises(InputError, match="--max-size 10GB"):
        parse_size(text, "--max-size")
    with pytest.raises(InputError, match="--older-than 7d"):
        parse_age(text, "--older-than")


def test_ages_for_people_and_none_from_the_future() -> None:
    assert [age_text(s) for s in (0, 59.9, 60, 7199, 86_400 * 12.5)] == ["0s", "59s", "1m", "1h", "12d"]
    assert age(10.0, 25.0) == 0.0


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(5))
    (tmp_path / "y").write_bytes(bytes(3))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to(outside)
    assert path_bytes(tmp_path) == 8 + (tmp_path / "link").lstat().st_size  # a link counts for itself
    os.utime(tmp_path / "a" / "x", (4e9, 4e9))
    assert modified(tmp_path) == 4e9
    assert (path_bytes(tmp_path / "absent"), modified(tmp_path / "absent")) == (0, 0.0)
