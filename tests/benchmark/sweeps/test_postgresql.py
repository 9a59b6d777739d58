"""A real PostgreSQL server: two workers, one killed, the server restarted in the middle, no trial lost or doubled."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from sidbench.benchmark.sweeps.ledger import read_ledger
from sidbench.benchmark.sweeps.storage import database_storage

SCRIPT = Path(__file__).with_name("sweep_work.py")
TRIALS = 40
PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []
INITDB = shutil.which("initdb", path=os.pathsep.join([*map(str, reversed(PLACES)), os.environ.get("PATH", "")]))


def missing() -> str:
    """Why this test cannot run here; empty when it can."""
    if INITDB is None:
        return "PostgreSQL is not installed (no initdb on PATH or in /usr/lib/postgresql)"
    try:
        import psycopg2
    except ImportError:
        return "psycopg2 is not installed (extra `postgresql`)"
    return "" if psycopg2.paramstyle else "psycopg2 is broken"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "PostgreSQL is here")]


class Server:
    """A server in a temporary folder on a loopback port; PostgreSQL refuses root, so root starts it as another user."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools = folder, Path(str(INITDB)).resolve().parent
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://sid@127.0.0.1:{self.port}/postgres"
        self.user = self._user()
        if self.user is not None:
            shutil.chown(folder, self.user)
        self._run(INITDB, "-D", str(folder / "data"), "-U", "sid", "-A", "trust", "-N")

    def _user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in known else "nobody"

    def _run(self, *words: str | None) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run([str(w) for w in words], user=self.user, cwd=self.folder, text=True, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        assert done.returncode == 0, done.stdout

    def control(self, action: str) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        how = ["-m", "fast"] if action == "stop" else ["-o", options, "-l", str(self.folder / "log")]
        self._run(str(self.tools / "pg_ctl"), "-D", str(self.folder / "data"), "-w", *how, action)


@pytest.fixture
def server() -> Iterator[Server]:
    # Not below pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="sidbench-pg-"))
    made = Server(folder)
    made.control("start")
    try:
        yield made
    finally:
        made.control("stop")
        shutil.rmtree(folder, ignore_errors=True)


def start(url: str, home: Path, log: Path) -> subprocess.Popen[str]:
    order = {"url": url, "name": "study", "log": str(log), "trials": TRIALS, "seconds": 0.2}
    return subprocess.Popen([sys.executable, str(SCRIPT), json.dumps(order)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, "SIDBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"})


def ended(log: Path) -> int:
    return sum(1 for line in log.read_text().splitlines() if json.loads(line)[0] == "end") if log.exists() else 0


def wait(log: Path, count: int) -> None:
    deadline = time.monotonic() + 90
    while ended(log) < count:
        assert time.monotonic() < deadline, f"only {ended(log)} trials ended"
        time.sleep(0.05)


def test_no_trial_is_lost_when_a_worker_is_killed_and_the_server_restarts(server: Server, home: Path,
                                                                          tmp_path: Path) -> None:
    log = tmp_path / "log"
    victim, other = start(server.url, home, log), start(server.url, home, log)
    try:
        wait(log, 6)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        wait(log, 12)
        server.control("stop")
        time.sleep(2)
        server.control("start")
        text = other.communicate(timeout=150)[0]
    finally:
        for worker in (victim, other):
            worker.kill()
            worker.wait()
    assert f"finished {TRIALS}" in text, text
    study = optuna.load_study(study_name="study", storage=database_storage(server.url))
    trials = study.get_trials()
    ledger = read_ledger(trials)
    assert len(ledger.complete) == ledger.finished == TRIALS and not ledger.running, ledger
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    counts = Counter(tuple(values) for kind, _, *values in lines if kind == "end")
    done = Counter((t.params["tokenizer.x"], t.params["tokenizer.k"]) for t in trials
                   if t.state == optuna.trial.TrialState.COMPLETE)
    assert done == dict.fromkeys(counts, 1) and len(done) == TRIALS
    # The killed worker may have ended its trial's work without having told it; nobody else's work ran twice.
    twice = {values for values, n in counts.items() if n > 1}
    by_victim = {tuple(values) for kind, who, *values in lines if kind == "end" and who == victim.pid}
    assert twice <= by_victim and len(twice) <= 1
