"""What a disk refuses, told apart from other failures whichever library met it, and said with what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidbench.datasets.foundation.errors import InputError, SidbenchError, StageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
# safetensors and polars pass on the system's words without its number, numpy only counts what it could not write.
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def is_full(error: BaseException) -> bool:
    """Whether an exception says that a disk or a quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return _SHORT_WRITE.fullmatch(str(error)) is not None or any(words in str(error) for words in _FULL_WORDS)


def is_unwritable(error: BaseException) -> bool:
    """Whether an exception says that this user may not write there."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE


def storage_error(what: str, folder: Path, error: BaseException) -> SidbenchError | None:
    """The error for ``what`` that could not be written below ``folder``; None when ``error`` is about something else.

    ``StageError`` for a full disk, ``InputError`` for a folder that cannot be written.
    """
    if isinstance(error, SidbenchError) or _elsewhere(folder, error):
        return None
    if is_full(error):
        return StageError(
            f"{what}: the disk of {folder} is full ({str(error)[:120]}); finished stages are kept. To do: "
            "free space, for example with `bench cache gc`, or set SIDBENCH_HOME to another disk, then run "
            "the same command again."
        )
    if is_unwritable(error):
        return InputError(
            what,
            got=f"{os.strerror(getattr(error, 'errno', 0))} while writing below {folder}",
            wanted="a folder this user can write",
            do="set SIDBENCH_HOME to a writable folder",
        )
    return None


@contextmanager
def storing(what: str, folder: Path) -> Iterator[None]:
    """Inside, a disk that is full or cannot be written becomes ``storage_error``; other exceptions pass as they are."""
    try:
        yield
    except Exception as error:
        told = storage_error(what, folder, error)
        if told is None:
            raise
        raise told from error


def _elsewhere(folder: Path, error: BaseException) -> bool:
    """Whether an exception names a file outside ``folder``: a plugin's own input, for example."""
    name = error.filename if isinstance(error, OSError) else None
    return isinstance(name, str) and not Path(name).absolute().is_relative_to(folder.absolute())
