"""Grids in worker processes of this machine: killed workers, failing runs, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sidbench.benchmark.cli.app import invoke

pytestmark = pytest.mark.slow
GRID = [
    "run",
    "--tokenizer",
    "rqkmeans,random,hash",
    "--budget",
    "smoke",
    "--recommender",
    "none",
    "--json",
    "features.vision=none",
    "features.behaviour=none",
    "dataset.n_items=60",
    "tokenizer.codebook_size=61",
]
PATIENCE = 200.0


def started(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sidbench.benchmark.cli.app", *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SIDBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def workers(command: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(command.pid).children() if p.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_worker_is_started_again_and_a_failing_run_stops_no_other(
    tmp_path: Path,
    wait_until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = started(tmp_path, *GRID, "--launcher", "local", "--jobs", "2")
    victim = wait_until(lambda: workers(command), PATIENCE, command)[0]
    victim.send_signal(signal.SIGKILL)
    output, _ = command.communicate(timeout=PATIENCE)
    result = json.loads(output)
    assert command.returncode == 1
    assert result["summary"] == {"runs": 3, "recorded": 0, "computed": 2, "failed": 1, "retried": 1}
    names = [r["tokenizer"]["name"] for r in result["records"]]
    assert names == ["random", "hash"]  # in the order of the grid, however they ended
    runs = [r["run_id"] for r in result["records"]]
    assert sorted(runs) == sorted(p.name for p in (tmp_path / "runs").iterdir())
    (failed,) = result["failed"]
    assert "codebook_size" in failed["error"] and "--tokenizer rqkmeans" in failed["command"]
    assert all((tmp_path / "logs" / f"{run}.log").read_text().startswith("=== ") for run in runs)

    monkeypatch.setenv("SIDBENCH_HOME", str(tmp_path))
    assert invoke([*GRID, "--launcher", "local", "--rerun", "never"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["summary"] == {"runs": 3, "recorded": 2, "computed": 0, "failed": 1, "retried": 0}
    assert "failed before" in result["failed"][0]["error"]


@pytest.mark.parametrize(("send", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_worker_outlives_the_command(
    tmp_path: Path, wait_until: Callable[..., Any], send: signal.Signals, code: int
) -> None:
    command = started(
        tmp_path,
        "run",
        "--tokenizer",
        "adasid",
        "--budget",
        "paper",
        "dataset.n_items=400",
        "--launcher",
        "local",
        "--jobs",
        "1",
    )
    (worker,) = wait_until(lambda: workers(command), PATIENCE, command)
    log = tmp_path / "logs"
    wait_until(lambda: any("computing" in p.read_text() for p in log.glob("*.log")), PATIENCE, command)
    command.send_signal(send)
    command.communicate(timeout=PATIENCE)
    assert command.returncode == code
    _, left = psutil.wait_procs([worker], timeout=60)
    assert not left
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("[!.]*"))
