"""The home folder of one call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_home(home: str | Path | None) -> Iterator[None]:
    """Inside, records and cached stages lie below ``home``; ``None`` leaves ``$SIDBENCH_HOME`` as it is.

    The variable belongs to the process, so calls with different homes must not run in several threads at once.
    """
    before = os.environ.get("SIDBENCH_HOME")
    if home is not None:
        os.environ["SIDBENCH_HOME"] = str(Path(home).expanduser().absolute())
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SIDBENCH_HOME", None)
        else:
            os.environ["SIDBENCH_HOME"] = before
