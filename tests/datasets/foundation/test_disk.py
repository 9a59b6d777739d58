"""Full and unwritable disks in the words of every library that writes for us, told apart from other failures."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from sidbench.datasets.foundation.disk import storage_error, storing
from sidbench.datasets.foundation.errors import InputError, StageError

HERE = Path("/home/me/cache")
# What numpy, safetensors and polars raise on a full tmpfs.
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("100000 requested and 8176 written"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("parquet: underlying IO error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full(error: Exception) -> None:
    with (
        pytest.raises(StageError, match="stage x: the disk of /home/me/cache is full.*bench cache gc"),
        storing("stage x", HERE),
    ):
        raise error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR])
def test_unwritable(number: int) -> None:
    with (
        pytest.raises(InputError, match="stage x; got .* wanted a folder this user can write.*SIDBENCH_HOME"),
        storing("stage x", HERE),
    ):
        raise OSError(number, "whatever", str(HERE / "a"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("1 requested and 2 written, he said"),
        OSError(errno.ENOENT, "gone"),
        PermissionError(errno.EACCES, "no", "/data/raw.json"),
        StageError("my own words"),
        KeyError("x"),
    ],
    ids=repr,
)
def test_other_failures_pass_as_they_are(error: Exception) -> None:
    assert storage_error("stage x", HERE, error) is None
    with pytest.raises(type(error)) as caught, storing("stage x", HERE):
        raise error
    assert caught.value is error
