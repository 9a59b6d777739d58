"""`bench leaderboard --check` and `--freeze`: published boards, frozen ones and living ones."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from typer.exceptions import Exit

from sidbench.benchmark.commands.leaderboard import check_living
from sidbench.datasets.foundation.errors import InputError, printable
from sidbench.leaderboards.frozen.index import INDEX, entry_of, is_frozen, read_index
from sidbench.leaderboards.frozen.judging import check_frozen
from sidbench.leaderboards.frozen.manifest import MANIFEST
from sidbench.leaderboards.publish.freezing import freeze
from sidbench.leaderboards.publish.publishing import SETTINGS


def check_command(folder: Path) -> None:
    """Check a published board, or every board of a folder with an index.

    A frozen board is judged by its own records and never by today's code; a living one is rendered again, and rows of
    older code are told. Exits with 1, naming every place, when something is wrong.
    """
    if (folder / SETTINGS).exists() or not (folder / INDEX).exists():
        _check_one(folder)
        return
    living = {path.parent.name for path in folder.glob(f"[!.]*/{SETTINGS}")}
    failed = False
    for name in sorted(living | read_index(folder).keys()):
        try:
            _check_one(folder / name)
        except Exit:
            failed = True
    if failed:
        raise Exit(1)


def _check_one(folder: Path) -> None:
    if not is_frozen(folder):
        check_living(folder)
        return
    if not (folder / MANIFEST).exists() and (entry := entry_of(folder)) is not None:
        sys.stderr.write(f"{folder}: {MANIFEST}: missing; the index says it is version {entry.version} of {entry.date}\n")
        raise Exit(1)
    judged, manifest = check_frozen(folder)
    named = f"{folder}: version {manifest.version}, frozen {manifest.date}"
    for problem in judged.problems:
        sys.stderr.write(f"{printable(f'{named}: {problem}')}\n")
    if judged.problems:
        raise Exit(1)
    sys.stdout.write(
        f"{named}: as it was frozen. {len(judged.records)} records, {len(manifest.files)} files; {judged.by_users:,} "
        f"metrics are what per-user results give, {judged.alone:,} of SID tables stand on the records alone.\n"
    )


def freeze_command(folder: Path, version: str | None) -> None:
    """Freeze a published board under a version, dated today, and enter it into the index beside its folder."""
    if version is None:
        raise InputError(
            f"--freeze {folder}",
            got="no version",
            wanted="--version, such as 1.0",
            do=f"bench leaderboard --freeze {folder} --version 1.0",
        )
    done = freeze(folder, version, datetime.now(UTC).date().isoformat())
    before = "was frozen before" if done.before else "is frozen"
    sys.stdout.write(
        f"{folder}: {before} as version {done.manifest.version} of {done.manifest.date}, manifest {done.sha256}. "
        "New rows go into a board beside it.\n"
    )
