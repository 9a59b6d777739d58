"""``kill -9`` at the worst moment of every stage, then Ctrl-C: ``python tests/faults/stages.py --home DIR``.

The worst moment is after a stage has computed and written its files and before the rename that makes them count. Each
stage is killed once, in one home, so every run also proves that the stages before it survived. Prints one JSON object:
scenario -> what went wrong, empty when nothing did.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from forks import HANG_SECONDS, STAGES, VARIANTS, Reference, difference, finish, log_of, numbers, start, undisturbed, warm_up

COMMAND = VARIANTS["rqvae"]


def die_in_the_rename_of(place: str) -> None:
    """From now on this process dies by SIGKILL in the rename of a stage's folder, or of a run's for ``runs``."""
    rename = os.replace

    def fatal(source: Any, target: Any, **more: Any) -> None:
        if Path(target).parent.name == place and os.path.isdir(source):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **more)

    os.replace = fatal


def resumed(home: Path, reference: Reference) -> str:
    """Run the command to its end: what is wrong with it, or nothing."""
    code = finish(start(COMMAND, home))
    return (
        f"the resumed run ended with {code}: {log_of(home)[-1000:]}"
        if code
        else difference(numbers(home), reference.numbers)
    )


def killed(home: Path, reference: Reference) -> str:
    for place in (*STAGES, "runs"):
        code = finish(start(COMMAND, home, prepare=lambda place=place: die_in_the_rename_of(place)))
        if code != -signal.SIGKILL:
            return f"{place}: ended with {code} instead of by SIGKILL: {log_of(home)[-1000:]}"
        if list(home.glob("runs/[!.]*")):
            return f"{place}: a killed run left a record"
    wrong = resumed(home, reference)
    if wrong:
        return wrong
    stages = {s["name"]: s["cached"] for s in json.loads(next(home.glob("runs/[!.]*/record.json")).read_text())["stages"]}
    # Each was killed once, finished by the run after, and never lost.
    return "" if stages == dict.fromkeys(STAGES, True) else f"not all stages were found finished: {stages}"


def interrupted(home: Path, reference: Reference) -> str:
    process, deadline = start(COMMAND, home), time.monotonic() + HANG_SECONDS
    while not list(home.glob("cache/behaviour/*.lock")):  # the first neural stage is running
        if time.monotonic() > deadline:
            return f"behaviour did not begin: {log_of(home)[-1000:]}"
        time.sleep(0.005)
    os.kill(process, signal.SIGINT)
    code = finish(process)
    if code != 130 or "the same command resumes" not in log_of(home):
        return f"interrupted, the command ended with {code}: {log_of(home)[-1000:]}"
    return resumed(home, reference)


SCENARIOS = {"killed": killed, "interrupted": interrupted}


def main() -> int:
    """Run both scenarios and print what went wrong in each."""
    parser = argparse.ArgumentParser(description="Kills and an interrupt in the stages of `bench run`.")
    parser.add_argument("--home", type=Path, required=True, help="empty or new folder")
    home = parser.parse_args().home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    warm_up()
    reference = undisturbed(COMMAND, home / "undisturbed")
    results = {name: scenario(home / name, reference) for name, scenario in SCENARIOS.items()}
    sys.stdout.write(json.dumps(results) + "\n")
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
