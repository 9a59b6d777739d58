"""Runs of `bench` as forks of one process, for the fault scripts beside this file.

Importing torch takes longer than a run on a tiny planted catalogue, so the runs are forks of a process that has imported
everything and computed nothing. A kill of one is as real as that of a fresh process: a fork has its own memory, file
descriptors and locks, SIGKILL cannot be caught, nothing of Python runs afterwards, and the kernel alone closes files and
releases locks. What only a lost machine would lose (pages not yet on the disk) is not tested this way.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # a process with threads must not be forked; read when the libraries are imported

from sidbench.benchmark.cli.app import invoke  # noqa: E402
from sidbench.benchmark.commands import run as _run  # noqa: E402, F401 - imported once, before the forks
from sidbench.benchmark.config.compose import compose_run  # noqa: E402
from sidbench.benchmark.config.run_config import RunConfig  # noqa: E402
from sidbench.benchmark.plugins.code_hash import source_hash  # noqa: E402
from sidbench.benchmark.plugins.identity import plugin_version, unit_versions  # noqa: E402
from sidbench.benchmark.plugins.registry import installed  # noqa: E402
from sidbench.benchmark.plugins.units import UNITS  # noqa: E402
from sidbench.benchmark.runtime import training  # noqa: E402

TOLERANCE = 1e-6
CHECKPOINT_SECONDS = 0.05  # so that these short trainings write checkpoints at all
HANG_SECONDS = 120.0
TINY = [
    "run",
    "--dataset",
    "synthetic",
    "--budget",
    "smoke",
    "--threads",
    "1",
    "dataset.n_items=60",
    "dataset.n_users=150",
    "dataset.picture_size=0",
    "tokenizer.codebook_size=8",
    "behaviour.epochs=1",
    "retriever.epochs=1",
]
NEURAL = ["--recommender", "mtp,ppnet", "ranker.epochs=1", "tokenizer.steps=20", "tokenizer.warmup_steps=2"]
VARIANTS = {
    "rqvae": [*TINY, "--tokenizer", "rqvae", *NEURAL],
    "adasid": [*TINY, "--tokenizer", "adasid", *NEURAL, "tokenizer.warm_steps=5"],
    "rqkmeans+append": [*TINY, "--tokenizer", "rqkmeans", "--collisions", "append", "--recommender", "mtp"],
}
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
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.utime"}


@dataclass
class Reference:
    """A run nobody disturbed: its numbers, its seconds, and how often it changed the file system."""

    numbers: dict[str, Any]
    seconds: float
    changes: int


def changed_path(event: str, details: tuple[Any, ...]) -> str:
    """The path that an audit event is about to change (a rename's target); empty for events that change nothing."""
    if event == "open":
        name, _, flags = details
        return name if isinstance(name, str) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ""
    if event not in CHANGES or not isinstance(details[0], (str, os.PathLike)):
        return ""
    return str(details[1] if event == "os.rename" else details[0])


def start(
    arguments: list[str],
    home: Path,
    before: Callable[[int, str], None] | None = None,
    prepare: Callable[[], None] | None = None,
    log: Path | None = None,
) -> int:
    """Fork a process that runs ``bench`` in ``home`` and return its id. Its output goes to ``log``, ``<home>.log`` unless
    given.

    before: called in the fork right before each change of the file system below ``home``, with its number (from 1) and
    path. prepare: called in the fork before the command.
    """
    home.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    made = 0

    def audit(event: str, details: tuple[Any, ...]) -> None:
        nonlocal made
        path = changed_path(event, details)
        if before is not None and path.startswith(str(home)):
            made += 1
            before(made, path)

    code = 70
    try:
        output = os.open(log or home.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["SIDBENCH_HOME"] = str(home)
        training.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
        sys.argv = ["bench", *arguments]
        if prepare is not None:
            prepare()
        sys.addaudithook(audit)
        code = invoke(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fatal(number: int) -> Callable[[int, str], None]:
    """Die by SIGKILL before the change of this number."""

    def before(made: int, _: str) -> None:
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def finish(process: int) -> int:
    """Wait for a process and return its exit code, ``-9`` for a killed one. Raises ``TimeoutError`` when it hangs."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise TimeoutError(f"no end after {HANG_SECONDS:.0f} s")


def log_of(home: Path) -> str:
    """What the last command in a home wrote."""
    return home.with_suffix(".log").read_text()


def numbers(home: Path) -> dict[str, Any]:
    """What must not depend on kills: the codes' hash and every number of the record, by its place in it."""
    paths = list(home.glob("runs/[!.]*/record.json"))
    if len(paths) != 1:
        raise ValueError(f"{len(paths)} records instead of one")
    record = json.loads(paths[0].read_text())
    found: dict[str, Any] = {
        "run": record["run_id"],
        "codes": record["sids"]["content_hash"],
        "stages": sorted(s["key"] for s in record["stages"]),
    }
    parts = {
        "sids": [record["sids"]["metrics"], record["sids"]["vectors"]],
        **{t["task"]: [t["metrics"], t["counts"], t["undefined"]] for t in record["tasks"]},
    }
    found |= dict(_leaves("", parts))
    return found


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list)):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(f"{place}/{name}", part)
    else:
        yield place, value


def difference(got: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first place in which two runs differ; empty when there is none."""
    for place in sorted(got.keys() | wanted.keys()):
        one, other = got.get(place), wanted.get(place)
        both = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (one, other))
        if not (math.isclose(one, other, rel_tol=0.0, abs_tol=TOLERANCE) if both else one == other):
            return f"{place}: {one} instead of {other}"
    return ""


def undisturbed(arguments: list[str], home: Path) -> Reference:
    """Run a command in peace. Raises ``ValueError`` with the end of its output when it fails."""
    count, began = home.with_suffix(".count"), time.monotonic()
    made = os.open(count, os.O_WRONLY | os.O_CREAT)
    code = finish(start(arguments, home, before=lambda number, _: os.pwrite(made, str(number).encode(), 0) and None))
    seconds = time.monotonic() - began
    os.close(made)
    if code:
        raise ValueError(f"the undisturbed run ended with {code}: {home.with_suffix('.log').read_text()[-2000:]}")
    return Reference(numbers(home), seconds, int(count.read_text()))


def warm_up() -> None:
    """Import and read once what every fork needs; nothing here computes, so no library has started a thread."""
    for name in (
        "torch._dynamo",
        "torch.distributed.tensor",
        "sklearn.feature_extraction.text",
        "sklearn.linear_model",
        "sklearn.metrics",
        "scipy.stats",
        "pyarrow.dataset",
    ):
        importlib.import_module(name)
    for kind, plugins in (
        ("tokenizer", ("rqvae", "adasid", "rqkmeans")),
        ("recommender", ("mtp", "ppnet", "sasrec")),
        ("dataset", ("synthetic",)),
        ("collisions", ("append",)),
    ):
        for plugin in plugins:
            installed().load(kind, plugin)
            plugin_version(kind, plugin)
    unit_versions(*UNITS)
    source_hash("benchmark", "datasets", "tokenizers", "recommenders")
    for name in VARIANTS:
        tokenizer, _, policy = name.partition("+")
        compose_run(RunConfig(tokenizer=tokenizer, collisions=policy or "none", budget="smoke"))
