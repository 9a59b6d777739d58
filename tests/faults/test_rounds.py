"""Twenty of the randomised kill-and-resume rounds of ``rounds.py``; run that script for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rounds.py")
ROUNDS = 20


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", str(ROUNDS), "--home", str(tmp_path / "rounds")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ROUNDS} rounds" in done.stdout
    assert "0 failures" in done.stdout.splitlines()[-1]
