"""``kill -9`` at the worst moment of every stage, then Ctrl-C: the next run resumes and gives the same numbers.

The worst moment is after a stage has computed and written its files and before the rename that makes them count. Each
stage is killed once, in one home, so every run also proves that the stages before it survived. ``stages.py`` does so with
forks on a tiny catalogue; the nightly tests with fresh processes on the whole smoke budget.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("stages.py")
STAGES = (
    "dataset",
    "content",
    "behaviour",
    "tokenizer",
    "sids",
    "quantisation",
    "retrieval.fit",
    "retrieval.evaluate",
    "ranking.fit",
    "ranking.evaluate",
)
COMMAND = ["run", "--dataset", "synthetic", "--budget", "smoke", "--threads", "1", "--tokenizer", "rqvae", "--json"]

# Runs the command line, but dies by SIGKILL in the rename of the stage (or of the run's folder) named first.
DRIVER = """
import os, signal, sys
place, arguments = sys.argv[1], sys.argv[2:]
rename = os.replace
def fatal(source, target, **more):
    folder = os.path.dirname(str(target))
    if os.path.basename(folder) == place and os.path.isdir(source):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target, **more)
os.replace = fatal
from sidbench.benchmark.cli.app import invoke
sys.exit(invoke(arguments))
"""


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SIDBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}


def run(home: Path, place: str = "nowhere") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", DRIVER, place, *COMMAND]
    return subprocess.run(command, env=environment(home), capture_output=True, check=False)


def numbers(output: bytes) -> dict[str, Any]:
    """What a resumed run must share with an undisturbed one: codes bit for bit, every metric."""
    record = json.loads(output)["records"][0]
    return {
        "sids": record["sids"]["content_hash"],
        "quantisation": record["sids"]["metrics"],
        "tasks": [(t["task"], t["metrics"], t["users_hash"]) for t in record["tasks"]],
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = run(tmp_path_factory.mktemp("undisturbed"))
    assert done.returncode == 0, done.stderr.decode()
    return numbers(done.stdout)


@pytest.mark.slow
def test_forks_killed_in_every_stage_or_interrupted_resume(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--home", str(tmp_path / "stages")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"killed": "", "interrupted": ""}


@pytest.mark.slow
@pytest.mark.nightly
def test_killed_in_every_stage_and_while_recording(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    for place in (*STAGES, "runs"):
        killed = run(tmp_path, place)
        assert killed.returncode == -signal.SIGKILL, f"{place}: {killed.stderr.decode()}"
        assert not list(tmp_path.glob("runs/[!.]*")), f"{place}: a killed run left a record"
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert numbers(done.stdout) == undisturbed
    stages = {s["name"]: s["cached"] for s in json.loads(done.stdout)["records"][0]["stages"]}
    assert stages == dict.fromkeys(STAGES, True)  # each was killed once, finished by the run after, and never lost


@pytest.mark.slow
@pytest.mark.nightly
def test_interrupted_by_the_user(tmp_path: Path, undisturbed: dict[str, Any], wait_until: Callable[..., Any]) -> None:
    command = [sys.executable, "-c", DRIVER, "nowhere", *COMMAND]
    process = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: list(tmp_path.glob("cache/behaviour/*.lock")), 60, process)  # the first neural stage is running
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130, error.decode()
    assert "the same command resumes" in error.decode()
    done = run(tmp_path)
    assert numbers(done.stdout) == undisturbed
