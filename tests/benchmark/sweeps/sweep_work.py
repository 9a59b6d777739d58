"""A worker with a cheap objective, run as a process by the tests: ``python sweep_work.py '{"url": ..., ...}'``.

Every trial writes a line when it begins and one when it ends, so that the tests see what truly ran.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import optuna

from sidbench.benchmark.sweeps.heartbeat import heartbeat_of
from sidbench.benchmark.sweeps.space import Choices, Interval, Space
from sidbench.benchmark.sweeps.storage import database_storage, journal_storage, sweeps_folder
from sidbench.benchmark.sweeps.strategies import make_pruner, make_sampler
from sidbench.benchmark.sweeps.worker import Outcome, Report, WorkPlan, work

SPACE = Space(
    {"tokenizer.x": Interval(-1.0, 1.0), "tokenizer.k": Choices((1, 2, 4))}, {"tokenizer.x": 0.5, "tokenizer.k": 1}
)


def main(order: dict[str, Any]) -> None:
    name, log = order["name"], Path(order["log"])
    storage = database_storage(order["url"], beat_seconds=1) if order["url"] else journal_storage(name)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=make_sampler("random", 0),
        pruner=make_pruner("none", 1, 1),
    )

    def note(what: str, values: dict[str, Any]) -> None:
        with log.open("a") as file:
            file.write(json.dumps([what, os.getpid(), values["tokenizer.x"], values["tokenizer.k"]]) + "\n")

    def objective(values: dict[str, Any], report: Report) -> Outcome:
        note("begin", values)
        time.sleep(order["seconds"])
        note("end", values)
        return Outcome((-((values["tokenizer.x"] - 0.3) ** 2),))

    plan = WorkPlan(SPACE, order["trials"], slots={"default": dict(SPACE.default)}, poll_seconds=0.2)
    heartbeat = heartbeat_of(storage, sweeps_folder() / name / "workers", 1, orphan_seconds=3)

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    tell(f"finished {work(study, plan, objective, heartbeat, tell).finished}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
