"""Folders of runs without a record: which of them a living process of this machine writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sidbench.benchmark.store.maintenance.unfinished import unfinished_runs


def test_living_and_dead_writers(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    runs, reruns = tmp_path / "runs", tmp_path / "reruns"
    mine, dead = runs / f".a.{os.getpid()}-0.tmp", reruns / f".b.{process.pid}-1.tmp"
    recycled, removed = runs / f".c.{os.getpid()}-0.tmp", runs / f".d.{process.pid}.old"
    for folder in (mine, dead, recycled, removed, runs / "finished", runs / ".cannot-be-ours"):
        folder.mkdir(parents=True)
    (mine / "sids.parquet").write_bytes(bytes(7))
    os.utime(recycled, (1.0, 1.0))  # older than this process: its number belonged to another one then
    found = {run.path: run for run in unfinished_runs(tmp_path)}
    assert set(found) == {mine, dead, recycled, removed}
    assert found[mine].n_bytes == 7
    assert found[mine].since == pytest.approx(psutil.Process().create_time())
    assert [found[p].since for p in (dead, recycled, removed)] == [None, None, None]


def test_no_folder_of_runs(tmp_path: Path) -> None:
    assert unfinished_runs(tmp_path / "absent") == []
