"""`bench plugin lock`: whether code changed without a word, and the word."""

from __future__ import annotations

import sys

from typer.exceptions import Exit

from sidbench.benchmark.plugins.current_code import current_entries
from sidbench.benchmark.plugins.lock import LOCK_FILE, compare_lock, read_lock, renewed, write_lock
from sidbench.datasets.foundation.errors import InputError


def lock_command(check: bool, same_numbers: str) -> None:
    """Compare the code with the lock file, or write the file anew. Exits with 1 when ``check`` finds a difference."""
    if check and same_numbers:
        raise InputError("--same-numbers", got="--check as well", wanted="one of them", do="leave --check out to write")
    lock, current = read_lock(), current_entries()
    if check:
        problems = compare_lock(lock, current).problems()
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        if problems:
            raise Exit(1)
        sys.stdout.write(f"{LOCK_FILE.name}: the versions of {len(current)} plugins and units are those of their code.\n")
        return
    changes = compare_lock(lock, current)
    write_lock(renewed(lock, current, same_numbers))
    for word, names in (
        ("same numbers", changes.unsaid),
        ("new version", changes.raised),
        ("added", changes.added),
        ("removed", changes.removed),
    ):
        sys.stdout.write("".join(f"{word}: {name}\n" for name in names))
