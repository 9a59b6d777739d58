"""`bench sweep dashboard` serves a study of this home, and says what is missing when it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.sweeps.storage import journal_storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed (extra `dashboard`)"
)


@pytest.mark.slow
def test_a_study_is_served(home: Path) -> None:
    study = optuna.create_study(storage=journal_storage("mine"), study_name="mine")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sidbench.benchmark.cli.app", "sweep", "dashboard", "mine", "--port", str(port)]
    server = subprocess.Popen(
        command, env={**os.environ, "SIDBENCH_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5) as answer:
                    found = json.load(answer)
                break
            except urllib.error.URLError:
                assert server.poll() is None and time.monotonic() < deadline, "the dashboard does not answer"
                time.sleep(0.2)
        assert [s["study_name"] for s in found["study_summaries"]] == ["mine"]
    finally:
        server.kill()
        server.wait()


def test_an_unknown_study_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["sweep", "dashboard", "nobody"]) != 0
    assert "nobody" in capsys.readouterr().err
