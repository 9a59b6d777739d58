"""Real PostgreSQL and MariaDB servers: two workers, one killed, the server restarted, no trial lost or doubled."""

from __future__ import annotations

import importlib.util
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from sidbench.benchmark.sweeps.storage import database_storage
from sidbench.benchmark.sweeps.trial_states import read_trial_states

SCRIPT = Path(__file__).with_name("sweep_work.py")
TRIALS = 18
PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}

pytestmark = pytest.mark.slow


def tool(name: str) -> str | None:
    """Where a server's program lies; Debian keeps some of them off an ordinary user's PATH."""
    return shutil.which(name, path=os.pathsep.join([*map(str, reversed(PLACES)), os.environ.get("PATH", ""), "/usr/sbin"]))


def run(*words: str | Path | None, user: str | None, cwd: Path) -> None:
    done = subprocess.run(
        [str(w) for w in words],
        user=user,
        cwd=cwd,
        text=True,
        timeout=120,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout


class Server:
    """A server in a temporary folder on a loopback port; where the caller is root, another user runs it."""

    account = "nobody"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        known = {entry.pw_name for entry in pwd.getpwall()}
        self.user = None if os.geteuid() != 0 else self.account if self.account in known else "nobody"
        if self.user is not None:
            shutil.chown(folder, self.user)

    def start(self) -> None: ...

    def stop(self) -> None: ...


class PostgreSql(Server):
    account, programs, driver = "postgres", ("initdb", "pg_ctl"), "psycopg2"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"postgresql://sid@127.0.0.1:{self.port}/postgres"
        run(tool("initdb"), "-D", folder / "data", "-U", "sid", "-A", "trust", "-N", user=self.user, cwd=folder)

    def _control(self, *words: str | Path) -> None:
        run(tool("pg_ctl"), "-D", self.folder / "data", "-w", *words, user=self.user, cwd=self.folder)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        self._control("-o", options, "-l", self.folder / "log", "start")

    def stop(self) -> None:
        self._control("-m", "fast", "stop")


class MariaDb(Server):
    account, programs, driver = "mysql", ("mariadbd", "mariadb-install-db"), "pymysql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"mysql://sid:secret@127.0.0.1:{self.port}/study"
        self._process: subprocess.Popen[bytes] | None = None
        run(
            tool("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            user=self.user,
            cwd=folder,
        )
        start = folder / "start.sql"
        start.write_text(
            "CREATE DATABASE IF NOT EXISTS study;\n"
            "CREATE USER IF NOT EXISTS sid@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON study.* TO sid@'127.0.0.1';\n"
        )
        start.chmod(0o644)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                str(tool("mariadbd")),
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                f"--socket={self.folder / 'socket'}",
                f"--pid-file={self.folder / 'pid'}",
                f"--init-file={self.folder / 'start.sql'}",
            ],
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None and time.monotonic() < deadline, "MariaDB does not answer"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)


def made_or_skipped(kind: type[PostgreSql] | type[MariaDb], folder: Path) -> PostgreSql | MariaDb:
    for name in kind.programs:
        if tool(name) is None:
            pytest.skip(f"{name} is not installed")
    if importlib.util.find_spec(kind.driver) is None:
        pytest.skip(f"{kind.driver} is not installed (extras `postgresql` and `mysql`)")
    return kind(folder)


@pytest.fixture(params=[PostgreSql, MariaDb])
def server(request: pytest.FixtureRequest) -> Iterator[PostgreSql | MariaDb]:
    # Not below pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="sidbench-db-"))
    try:
        made = made_or_skipped(request.param, folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(url: str, home: Path, log: Path) -> subprocess.Popen[str]:
    order = {"url": url, "name": "study", "log": str(log), "trials": TRIALS, "seconds": 0.2}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(order)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SIDBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def ended(log: Path) -> int:
    return sum(1 for line in log.read_text().splitlines() if json.loads(line)[0] == "end") if log.exists() else 0


def test_no_trial_is_lost_when_a_worker_is_killed_and_the_server_restarts(
    server: PostgreSql | MariaDb, home: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    log = tmp_path / "log"
    victim, other = start(server.url, home, log), start(server.url, home, log)
    try:
        wait_until(lambda: ended(log) >= 4, 90)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        wait_until(lambda: ended(log) >= 8, 90)
        server.stop()
        time.sleep(2)
        server.start()
        text = other.communicate(timeout=150)[0]
    finally:
        for worker in (victim, other):
            worker.kill()
            worker.wait()
    assert f"finished {TRIALS}" in text, text
    study = optuna.load_study(study_name="study", storage=database_storage(server.url))
    trials = study.get_trials()
    states = read_trial_states(trials)
    assert len(states.complete) == states.finished == TRIALS and not states.running, states
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    counts = Counter(tuple(values) for kind, _, *values in lines if kind == "end")
    done = Counter(
        (t.params["tokenizer.x"], t.params["tokenizer.k"]) for t in trials if t.state == optuna.trial.TrialState.COMPLETE
    )
    assert done == dict.fromkeys(counts, 1) and len(done) == TRIALS
    # The killed worker may have ended its trial's work without having told it; nobody else's work ran twice.
    twice = {values for values, n in counts.items() if n > 1}
    by_victim = {tuple(values) for kind, who, *values in lines if kind == "end" and who == victim.pid}
    assert twice <= by_victim and len(twice) <= 1
