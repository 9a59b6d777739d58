"""Two workers on one storage, one killed: every trial is finished once, none is lost and none runs twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from sidbench.benchmark.sweeps.storage import database_storage, journal_storage, mend
from sidbench.benchmark.sweeps.trial_states import read_trial_states

SCRIPT = Path(__file__).with_name("sweep_work.py")
TRIALS = 8


def start(url: str, home: Path, log: Path, trials: int = TRIALS, seconds: float = 0.3) -> subprocess.Popen[str]:
    order = {"url": url, "name": "study", "log": str(log), "trials": trials, "seconds": seconds}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(order)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SIDBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def lines(log: Path) -> list[list[object]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def count(log: Path, pid: int, what: str) -> int:
    return sum(1 for kind, who, *_ in lines(log) if kind == what and who == pid)


def check(study: optuna.Study, log: Path, trials: int, killed: int) -> None:
    """Independent of the trial states' own words: counts parameters in the log and states in the storage."""
    states = read_trial_states(study.get_trials())
    assert states.finished == len(states.complete) == trials, states
    assert not states.running and not states.unfollowed
    ended = Counter(tuple(values) for kind, _, *values in lines(log) if kind == "end")
    began = Counter(tuple(values) for kind, _, *values in lines(log) if kind == "begin")
    assert len(ended) == trials and set(ended.values()) == {1}, "a trial ran twice or was lost"
    assert sum(began.values()) - sum(ended.values()) == killed  # only what was killed began without ending
    stored = sorted(
        (t.params["tokenizer.x"], t.params["tokenizer.k"])
        for t in study.trials
        if t.state == optuna.trial.TrialState.COMPLETE
    )
    assert stored == sorted(ended)
    assert study.trials[0].user_attrs["slot"] == "default"


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_killed_workers_trial_is_taken_over_by_the_other(
    kind: str, home: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    home.mkdir()
    log, url = tmp_path / "log", f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else ""
    victim, other = start(url, home, log), start(url, home, log)
    wait_until(lambda: count(log, victim.pid, "begin") >= 2, 60)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert f"finished {TRIALS}" in other.communicate(timeout=90)[0]
    check(
        optuna.load_study(study_name="study", storage=database_storage(url) if url else journal_storage("study")),
        log,
        TRIALS,
        killed=count(log, victim.pid, "begin") - count(log, victim.pid, "end"),
    )


def test_a_sweep_whose_only_worker_was_killed_goes_on_where_it_stopped(
    home: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    home.mkdir()
    log = tmp_path / "log"
    victim = start("", home, log, trials=5, seconds=0.5)
    wait_until(lambda: count(log, victim.pid, "begin") >= 3, 60)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    with (home / "sweeps/study/journal.log").open("ab") as journal:
        journal.write(b'{"op_code":4,"half a li')  # what a writer killed in the middle of a line leaves
    again = start("", home, log, trials=5, seconds=0.1)
    text = again.communicate(timeout=60)[0]
    assert "took over 1 trial(s)" in text and "finished 5" in text
    study = optuna.load_study(study_name="study", storage=journal_storage("study"))
    check(study, log, 5, killed=1)
    retry = next(t for t in study.trials if t.user_attrs.get("attempt") == 2)
    first = study.trials[retry.user_attrs["retry_of"]]
    assert retry.params == first.params and retry.user_attrs["retry_reason"] == "its worker died"
    # More trials later: the finished ones stay, only the new ones run.
    more = start("", home, log, trials=7, seconds=0.01)
    more.communicate(timeout=60)
    check(optuna.load_study(study_name="study", storage=journal_storage("study")), log, 7, killed=1)


@pytest.mark.parametrize(
    "content,kept",
    [(b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"half", b""), (b"", b""), (b"a\n" + b"x" * 200_000, b"a\n")],
)
def test_half_a_line_is_cut_off(content: bytes, kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    mend(path)
    assert path.read_bytes() == kept
