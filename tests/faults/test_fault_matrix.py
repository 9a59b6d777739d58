"""Every scenario of ``matrix.py``, which runs all of them in one process of its own with its own mounts."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("matrix.py")
SCENARIOS = (
    "full_disk",
    "read_only_disk",
    "flipped_bytes",
    "two_processes",
    "clock_set_back",
    "damaged_records",
    "killed_while_recording",
    "killed_while_collecting",
    "collecting_beside_a_run",
)


def namespace() -> list[str]:
    """The command that gives a process its own mounts; skips where this machine allows none."""
    if shutil.which("unshare") is None:
        pytest.skip("no `unshare` on this machine, so no small disk can be mounted")
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    tried = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine allows no private mounts: {tried.stderr.strip()[:100]}")
    return command


def run_script(*words: str) -> dict[str, str]:
    done = subprocess.run([*namespace(), sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    results: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_script("--home", str(tmp_path_factory.mktemp("matrix")))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(outcomes: dict[str, str], scenario: str) -> None:
    assert outcomes[scenario] == ""


@pytest.mark.slow
@pytest.mark.nightly
def test_every_stage_file_and_change_of_every_scenario(tmp_path: Path) -> None:
    assert run_script("--home", str(tmp_path / "matrix"), "--thorough") == dict.fromkeys(SCENARIOS, "")


def test_every_scenario_of_the_script_is_listed() -> None:
    tree = ast.parse(SCRIPT.read_text())
    table = next(n for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "SCENARIOS")
    named = [n.id for n in ast.walk(table.value or table) if isinstance(n, ast.Name)]
    assert set(SCENARIOS) <= set(named)
    assert len(SCENARIOS) == sum(name in SCENARIOS for name in named)
