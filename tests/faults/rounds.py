"""Randomised kill-and-resume: ``python tests/faults/rounds.py --rounds 200 --seed 0 --home /tmp/rounds``.

A round starts ``bench run`` on a tiny planted catalogue in an empty home, kills it by SIGKILL, starts the same command
again and compares its record with that of a run nobody disturbed: codes bit for bit, every metric to 1e-6. Half of the
kills come after a random time, half right before a random change of the file system (a file opened for writing, a rename,
a removal, a new folder), where the order of steps matters most. Exits with 1 when a round differs, fails or hangs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forks import VARIANTS, Reference, difference, fatal, finish, numbers, start, undisturbed, warm_up

from sidbench.benchmark.store.maintenance.inventory import record_needs, take_inventory
from sidbench.benchmark.store.maintenance.verifying import verify


@dataclass
class Summary:
    """What the rounds showed. places: how many kills fell into each stage. late: runs that ended before their kill and
    were started again."""

    rounds: int = 0
    places: Counter[str] = field(default_factory=Counter)
    late: int = 0
    failures: list[str] = field(default_factory=list)


def place_of(log: str) -> str:
    """The stage that was being computed when a log ends, or what lay between two of them."""
    for line in reversed(log.splitlines()):
        stage, _, what = line.partition(": ")
        if what == "computing":
            return stage
        if what.startswith("done in"):
            return f"after {stage}"
    return "before the first stage"


def one_round(arguments: list[str], home: Path, reference: Reference, rng: random.Random, summary: Summary) -> str:
    """Kill a run once and resume it; returns what is wrong, or nothing."""
    code = 0
    while code != -signal.SIGKILL:  # a random time may lie after the end of a run that was faster than the reference
        shutil.rmtree(home, ignore_errors=True)
        if rng.random() < 0.5:
            process = start(arguments, home)
            time.sleep(rng.uniform(0, reference.seconds))
            os.kill(process, signal.SIGKILL)
        else:
            process = start(arguments, home, fatal(rng.randint(1, reference.changes)))
        code = finish(process)
        if code not in (0, -signal.SIGKILL):
            return f"the run ended with {code} before it was killed: {home.with_suffix('.log').read_text()[-1000:]}"
        summary.late += code == 0
    summary.places[place_of(home.with_suffix(".log").read_text())] += 1
    code = finish(start(arguments, home))
    if code:
        return f"the resumed run ended with {code}: {home.with_suffix('.log').read_text()[-1000:]}"
    damaged = verify(take_inventory(home / "cache", record_needs(home)))
    return "; ".join(
        [
            *(f"damaged {d.entry.folder}: {d.reason}" for d in damaged),
            *filter(None, [difference(numbers(home), reference.numbers)]),
        ]
    )


def rounds(n_rounds: int, seed: int, home: Path, tell: Callable[[str], None]) -> Summary:
    """Run ``n_rounds`` rounds over all variants in turn, each decided by (seed, round) alone."""
    warm_up()
    references = {
        name: undisturbed(arguments, home / f"undisturbed-{number}")
        for number, (name, arguments) in enumerate(VARIANTS.items())
    }
    for name, reference in references.items():
        tell(f"{name}: {reference.seconds:.1f} s, {reference.changes} changes of the file system undisturbed")
    summary = Summary()
    for number in range(n_rounds):
        name = list(VARIANTS)[number % len(VARIANTS)]
        place = home / f"round-{number}"
        try:
            wrong = one_round(VARIANTS[name], place, references[name], random.Random(f"{seed}/{number}"), summary)
        except KeyboardInterrupt:
            tell("interrupted")
            break
        except (TimeoutError, ValueError, OSError) as error:
            wrong = str(error)
        summary.rounds += 1
        if wrong:
            summary.failures.append(f"round {number} ({name}): {wrong}")
            tell(summary.failures[-1])
            continue  # its home is kept for a look
        shutil.rmtree(place)
        place.with_suffix(".log").unlink()
        if (number + 1) % 20 == 0:
            tell(f"{number + 1} rounds, {len(summary.failures)} failures")
    return summary


def main() -> int:
    """Parse the command line, run the rounds, print a summary."""
    parser = argparse.ArgumentParser(description="Randomised kill-and-resume rounds of `bench run`.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, required=True, help="empty or new folder; holds what failed rounds left")
    options = parser.parse_args()
    options.home.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    summary = rounds(options.rounds, options.seed, options.home.resolve(), tell)
    for place, kills in sorted(summary.places.items()):
        tell(f"  {kills:4d} kills in: {place}")
    tell(
        f"{summary.rounds} rounds in {time.monotonic() - began:.0f} s, {len(summary.failures)} failures, {summary.late} "
        "runs ended before their kill and were started again"
    )
    return 1 if summary.failures or not summary.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
