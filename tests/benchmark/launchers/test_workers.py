"""One run in a worker: what travels, how its end is judged, and that no worker outlives the command that started it."""

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
from hypothesis import given
from hypothesis import strategies as st

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.launchers.base import LaunchSettings
from sidbench.benchmark.launchers.local import visible_gpu
from sidbench.benchmark.launchers.queueing import Task, judge, tasks
from sidbench.benchmark.launchers.slurm import slurm_parameters
from sidbench.benchmark.launchers.worker import Exit, Requeued, Work, last_line, starts
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.store.failures import Failure, note_path, read_note, write_note
from sidbench.datasets.foundation.errors import InputError

LIGHT = ("features.vision=none", "features.behaviour=none", "dataset.n_items=60")
SPEC = RunSpec(RunConfig(tokenizer="random", recommenders=(), budget="smoke"))


TEXT = st.text()


@given(st.builds(Work, TEXT, st.lists(TEXT).map(tuple), st.dictionaries(TEXT, TEXT), TEXT, TEXT))
def test_work_travels_as_text(work: Work) -> None:
    assert Work.loads(work.dumps()) == work


def task(home: Path, log: str, before: int = 0) -> Task:
    path = home / "logs" / "r.log"
    path.parent.mkdir(parents=True)
    path.write_text(log)
    return Task(SPEC, Work("synthetic-r", (), {}, "/", str(path)), before)


def test_a_log_tells_its_starts_and_its_last_line(home: Path) -> None:
    log = Path(task(home, "=== old\nwords\n=== new\nerror: no luck\n\n").work.log)
    assert (starts(log), last_line(log)) == (2, "error: no luck")
    assert (starts(home / "none"), last_line(home / "none")) == (0, "")


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (Exit(1, json.dumps({"failed": [{"error": "no luck"}]})), "no luck"),
        (Exit(2, ""), "bad setting"),  # refused before the run began: the log has it
        (Exit(1, "[]"), "bad setting"),
        (Exit(-signal.SIGKILL, ""), "killed by SIGKILL 2 times"),
        (Exit(0, "{}"), "SIDBENCH_HOME on a disk that all machines share"),
    ],
)
def test_every_end_without_a_record_is_a_failure_with_its_reason(home: Path, done: Exit, said: str) -> None:
    outcome = judge(task(home, "=== 0\n=== 1\n=== 2\nerror: bad setting\n", before=1), done)
    assert outcome.record is None and outcome.failure is not None and outcome.attempts == 2
    assert said in outcome.failure.error and "--tokenizer random" in outcome.failure.command
    assert read_note("synthetic-r") == outcome.failure.error  # what --rerun never goes by


def test_notes_that_cannot_be_read_still_count(home: Path) -> None:
    assert read_note("r") is None
    write_note("r", Failure("run", "why", "bench run"))
    assert read_note("r") == "why"
    note_path("r").write_text("{")
    assert "cannot be read" in str(read_note("r"))


def test_what_is_recorded_or_refused_needs_no_worker(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rules of --rerun, without starting anything: what the queue hands out."""
    words = ["run", "--tokenizer", "random", "--budget", "smoke", "--recommender", "none", "--json", *LIGHT]
    assert invoke(words) == 0
    run_id = json.loads(capsys.readouterr().out)["records"][0]["run_id"]
    settings = LaunchSettings(jobs=2, threads=3)

    def first(rerun: str, seed: int = 0) -> object:
        config = RunConfig(tokenizer="random", recommenders=(), budget="smoke", seed=seed)
        return next(tasks([RunSpec(config, LIGHT, rerun=rerun)], settings, Reporter()))

    for rule in ("never", "failed"):
        known = first(rule)
        assert not isinstance(known, Task) and known.recorded and known.record.run_id == run_id  # type: ignore[attr-defined]
    again = first("always")
    assert isinstance(again, Task) and again.work.run_id == run_id and "always" in again.work.words
    fresh = first("never", seed=5)
    assert isinstance(fresh, Task) and fresh.work.environment["OMP_NUM_THREADS"] == "3"
    assert fresh.work.environment["SIDBENCH_HOME"] == str(home) and Path(fresh.work.log).parent == home / "logs"
    write_note(fresh.work.run_id, Failure("run", "died", "bench run"))
    refused = first("never", seed=5)
    assert refused.failure.error.startswith("died (failed before")  # type: ignore[attr-defined]
    assert isinstance(first("failed", seed=5), Task)
    broken = next(
        tasks([RunSpec(RunConfig(tokenizer="rqkmeans", recommenders=()), ("tokenizer.no=1",))], settings, Reporter())
    )
    assert not isinstance(broken, Task) and "codebook_size" in broken.failure.error  # type: ignore[union-attr]


def test_a_dry_run_tells_what_would_happen(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = [
        "run",
        "--tokenizer",
        "random,rqkmeans",
        "--budget",
        "smoke",
        "--recommender",
        "none",
        "tokenizer.codebook_size=50,61",
        *LIGHT,
    ]
    assert invoke([*grid, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["summary"] == {"runs": 4, "recorded": 0, "computed": 3, "failed": 1, "retried": 0}
    assert "tokenizer.codebook_size=61" in result["failed"][0]["run"]
    assert invoke([*grid, "--json", "--dry-run", "--rerun", "never", "--seed", "0,1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"] == {"recorded": 3, "refused": 1, "to run": 4}
    assert invoke([*grid, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 runs: 3 recorded, 1 to run"
    assert len(list((home / "runs").iterdir())) == 3


def test_worker_launchers_are_refused_inside_a_team(
    monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert invoke(["run", "--launcher", "local"]) == 2
    assert "--launcher inline" in capsys.readouterr().err


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_gpu(slot, 2) for slot in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert [visible_gpu(slot, 2) for slot in range(3)] == ["4", "GPU-7", "4"]


def test_slurm_parameters_by_hand() -> None:
    settings = LaunchSettings(
        jobs=8,
        threads=4,
        device="cuda",
        memory_gb=2.5,
        slurm=(("partition", "gpu"), ("timeout_min", "90"), ("slurm_account", "me")),
    )
    assert slurm_parameters(settings) == (
        "slurm",
        {
            "name": "sidbench",
            "timeout_min": 90,
            "cpus_per_task": 4,
            "mem_gb": 2.5,
            "gpus_per_node": 1,
            "slurm_array_parallelism": 8,
            "slurm_partition": "gpu",
            "slurm_account": "me",
        },
    )
    assert slurm_parameters(LaunchSettings(slurm=(("cluster", "local"), ("mem_gb", "1.5"))))[1]["mem_gb"] == 1.5
    for wrong in (("cluster", "moon"), ("mem_gb", "much")):
        with pytest.raises(InputError, match=wrong[0]):
            slurm_parameters(LaunchSettings(slurm=(wrong,)))


def test_a_preempted_job_is_queued_with_the_same_work() -> None:
    pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
    delayed = Requeued().checkpoint("work")
    assert isinstance(delayed.function, Requeued) and delayed.args == ("work",)


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_is_gone(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    child = (
        "import os, pathlib, time\nfrom sidbench.benchmark.launchers.worker import end_with_parent\n"
        "end_with_parent()\n"
        f"p = pathlib.Path({str(tmp_path / 'pid')!r})\np.with_suffix('.tmp').write_text(str(os.getpid()))\n"
        "p.with_suffix('.tmp').rename(p)\n"
        "try:\n    time.sleep(100)\nexcept KeyboardInterrupt:\n    p.with_name('interrupted').touch()\n"
    )
    parent = (
        "import os, signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as under nohup
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True,\n"
        "                 env={**os.environ, 'SIDBENCH_WORKER_OF': str(os.getpid())})\ntime.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, child], stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "pid").exists(), 60)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not alive(pid), 30)
    assert (tmp_path / "interrupted").exists()  # it was asked, and could have written its checkpoint


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_this_process_is_alive() -> None:
    assert alive(os.getpid()) and not alive(2**22 + 1)
