"""Slurm by submitit's own local executor: the same path as on a cluster, without a scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidbench.benchmark.cli.app import invoke

pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
GRID = [
    "run",
    "--tokenizer",
    "random,rqkmeans",
    "--budget",
    "smoke",
    "--recommender",
    "none",
    "--json",
    "--launcher",
    "slurm",
    "--slurm",
    "cluster=local",
    "features.vision=none",
    "features.behaviour=none",
    "dataset.n_items=60",
    "tokenizer.codebook_size=61",
]


@pytest.mark.slow
def test_jobs_leave_records_and_failures_are_listed(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke([*GRID, "--slurm", "timeout_min=5"]) == 1
    result = json.loads(capfd.readouterr().out)
    assert result["summary"] == {"runs": 2, "recorded": 0, "computed": 1, "failed": 1, "retried": 0}
    (record,) = result["records"]
    assert [p.name for p in (home / "runs").iterdir()] == [record["run_id"]]
    assert "codebook_size" in result["failed"][0]["error"]
    assert (home / "logs" / f"{record['run_id']}.log").exists()


def test_parameters_that_submitit_does_not_know_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([*GRID, "--slurm", "partitoin=gpu"]) == 2
    assert "partitoin" in capsys.readouterr().err
