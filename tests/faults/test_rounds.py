"""Randomised kill-and-resume rounds of ``rounds.py``: two of each variant, twenty each night; run the script for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rounds.py")


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.nightly)])
def test_killed_runs_end_like_undisturbed_ones(tmp_path: Path, rounds: int) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", str(rounds), "--home", str(tmp_path / "rounds")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{rounds} rounds" in done.stdout
    assert "0 failures" in done.stdout.splitlines()[-1]
