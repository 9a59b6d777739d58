"""A real Ray cluster of two nodes on this machine: one is lost in the middle of a grid, nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray", reason="the extra [ray] is not installed")
TOKENIZERS = ("random", "hash", "category_prefix")
GRID = [
    "run",
    "--tokenizer",
    ",".join(TOKENIZERS),
    "--budget",
    "smoke",
    "--recommender",
    "none",
    "--json",
    "features.vision=none",
    "features.behaviour=none",
    "dataset.n_items=60",
]
PATIENCE = 600.0  # seconds; about one minute on two cores with nothing else to do
NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that holds two runs at a time; a node for one more joins in the test."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 2})
    try:
        yield made
    finally:
        made.shutdown()


def bench(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sidbench.benchmark.cli.app", *GRID, *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SIDBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def workers(node: Any) -> list[psutil.Process]:
    """Workers of runs on a node that began within the last second, so that none is about to end."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    found = []
    for process in raylet.children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if "sidbench.benchmark.cli.app" in process.cmdline() and time.time() - process.create_time() < 1.0:
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "recorded"), [(1, 0), pytest.param(4, 3, marks=pytest.mark.nightly)])
def test_a_grid_survives_the_loss_of_a_node(
    seeds: int, recorded: int, cluster: Any, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    lost = cluster.add_node(**NODE, num_cpus=1)
    runs = tmp_path / "runs"
    seed = ",".join(map(str, range(seeds)))
    command = bench(tmp_path, "--seed", seed, "--launcher", "ray", "--ray-address", cluster.address)
    wait_until(lambda: len(list(runs.glob("[!.]*"))) >= recorded, PATIENCE, command)
    wait_until(lambda: workers(lost), PATIENCE, command)  # between two runs the node has nothing to lose
    cluster.remove_node(lost, allow_graceful=False)
    output, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, errors
    result = json.loads(output)
    assert result["summary"]["runs"] == result["summary"]["computed"] == 3 * seeds and result["failed"] == []
    assert result["summary"]["retried"] >= 1  # what ran on the lost node
    rows = [(r["tokenizer"]["name"], r["seed"]) for r in result["records"]]
    assert sorted(rows) == sorted((t, s) for t in TOKENIZERS for s in range(seeds))  # each once
    assert sorted(r["run_id"] for r in result["records"]) == sorted(p.name for p in runs.glob("[!.]*"))
