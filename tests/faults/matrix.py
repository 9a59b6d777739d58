"""Every fault of the store, one scenario each: ``python tests/faults/matrix.py --home DIR [--only NAME] [--thorough]``.

Prints one JSON object: scenario -> what went wrong, empty when nothing did. Full and read-only disks are real: a small
tmpfs, mounted in a mount namespace of this process, so the script is to be run under ``unshare -m`` (or ``unshare -rm``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forks import STAGES, VARIANTS, Reference, difference, fatal, finish, log_of, numbers, start, undisturbed, warm_up

from sidbench.benchmark.store.maintenance.inventory import record_needs, take_inventory
from sidbench.benchmark.store.maintenance.verifying import verify

COMMAND = VARIANTS["rqvae"]
COLLECT_ALL = ["cache", "gc", "--unused", "--older-than", "0s"]
DISK = "64m"
FILLER = "filler"


class Wrong(Exception):
    """What a scenario found to be wrong."""


def must(held: bool, what: str) -> None:
    """Raise ``Wrong`` unless something holds."""
    if not held:
        raise Wrong(what)


def bench(home: Path, arguments: list[str] = COMMAND, code: int = 0, **more: Any) -> str:
    """Run a command to its end and return its output; any exit code but ``code`` is wrong."""
    got = finish(start(arguments, home, **more))
    must(got == code, f"{' '.join(arguments[:2])} ended with {got} instead of {code}: {log_of(home)[-1500:]}")
    return log_of(home)


def same(home: Path, reference: Reference) -> None:
    """The home's only record equals the undisturbed one, and no entry of its cache is damaged."""
    found = difference(numbers(home), reference.numbers)
    must(not found, found)
    damaged = verify(take_inventory(home / "cache", record_needs(home)))
    must(not damaged, f"damaged entries: {[d.reason for d in damaged]}")


def record_path(home: Path) -> Path:
    """The home's only record."""
    return next(home.glob("runs/[!.]*/record.json"))


@contextmanager
def disk(place: Path) -> Iterator[Path]:
    """A small tmpfs at ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with open(folder / FILLER, "wb", buffering=0) as handle:
        block = bytes(1 << 16)
        while block:
            try:
                handle.write(block)
            except OSError:
                block = block[: len(block) // 2]


# -- scenarios ---------------------------------------------------------------------------------------------------------
def full_disk(home: Path, reference: Reference, thorough: bool) -> None:
    """The disk becomes full while each stage is saved, at a checkpoint and while the record is written; one after the
    other in one home, so every failure also shows that what was finished before it is kept."""
    with disk(home / "disk") as mounted:
        own = mounted / "home"
        places = [(f"cache/{stage}/", ".tmp") for stage in (STAGES if thorough else STAGES[::3])]
        places.insert(2 if thorough else 1, ("cache/behaviour/", ".partial"))  # in the order of the run
        places += [("runs/", "record.json")]
        for folder, end in places:

            def before(_: int, path: str, folder: str = folder, end: str = end) -> None:
                if path.startswith(f"{own}/{folder}") and path.endswith(end) and not (mounted / FILLER).exists():
                    fill(mounted)

            said = bench(own, code=1, before=before)
            must(
                "is full" in said and str(own) in said and "bench cache gc" in said and "Traceback" not in said,
                f"full at {folder}*{end}, the command said: {said[-600:]}",
            )
            must(not list(own.glob("runs/[!.]*")), f"full at {folder}*{end}: a record was left")
            (mounted / FILLER).unlink()
        said = bench(own)
        must("computing" not in said, f"a finished stage was computed again: {said}")
        same(own, reference)


def read_only_disk(home: Path, reference: Reference, thorough: bool) -> None:
    """A cache on a read-only disk serves a run whose record goes elsewhere; a home there says what to do."""
    bench(home)
    with disk(home / "disk") as mounted:
        shutil.copytree(home / "cache", mounted / "cache", copy_function=shutil.copy)
        shutil.copytree(home / "runs", mounted / "runs")
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        must("recorded as" in bench(mounted), "a recorded run on a read-only disk was not found")
        said = bench(mounted, [*COMMAND, "--seed", "1"], code=2)
        must("a folder this user can write" in said and str(mounted) in said, f"a new run there said: {said[-600:]}")
        other = home / "other"
        other.mkdir()
        (other / "cache").symlink_to(mounted / "cache")
        said = bench(other)
        must("computing" not in said, f"computed although cached: {said}")
        same(other, reference)


def flipped_bytes(home: Path, reference: Reference, thorough: bool) -> None:
    """One byte flipped in a file of every entry, until each file of each had its turn: found, set aside, made anew."""
    bench(home)
    turn, rng = 0, random.Random(0)
    while True:
        flipped = []
        for entry in take_inventory(home / "cache", record_needs(home)).entries:
            files = sorted(p for p in entry.folder.rglob("*") if p.is_file() and p.stat().st_size)
            if turn < len(files):
                data = bytearray(files[turn].read_bytes())
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                files[turn].write_bytes(data)
                flipped.append(entry)
        if not flipped:
            return
        found = verify(take_inventory(home / "cache", record_needs(home)))
        must(
            {d.entry.key for d in found} == {e.key for e in flipped},
            f"turn {turn}: `verify` found {len(found)} of {len(flipped)} damaged entries",
        )
        shutil.rmtree(record_path(home).parent)
        bench(home)
        warnings = json.loads(record_path(home).read_text())["warnings"]
        for entry in flipped:
            must(entry.folder.with_name(f"{entry.key}.damaged-{turn + 1}").exists() or turn > 0, f"{entry.stage}: not aside")
            must(any(f"stage {entry.stage} was damaged" in w for w in warnings), f"{entry.stage}: no warning: {warnings}")
        same(home, reference)
        turn += 1 if thorough else 2


def two_processes(home: Path, reference: Reference, thorough: bool) -> None:
    """The same command twice at once: every stage computed once, both end well, one record."""
    logs = [home.with_suffix(f".log{n}") for n in range(2)]
    for code in [finish(p) for p in [start(COMMAND, home, log=log) for log in logs]]:
        must(code == 0, f"one of the two ended with {code}: {[log.read_text()[-500:] for log in logs]}")
    lines = [line for log in logs for line in log.read_text().splitlines()]
    for stage in STAGES:
        must(lines.count(f"{stage}: computing") == 1, f"{stage} was computed {lines.count(f'{stage}: computing')} times")
    same(home, reference)


def clock_set_back(home: Path, reference: Reference, thorough: bool) -> None:
    """The clock runs backwards, a minute a call, in a run that is killed and in the one that resumes it; and all files
    come from the future."""

    def backwards() -> None:
        now = [time.time()]

        def earlier() -> float:
            now[0] -= 60.0
            return now[0]

        time.time = earlier

    bench(home, code=-signal.SIGKILL, before=fatal(reference.changes // 2), prepare=backwards)
    future = time.time() + 1e8
    for path in home.rglob("*"):
        os.utime(path, (future, future))
    bench(home, prepare=backwards)
    same(home, reference)
    must("0 bytes" in bench(home, ["cache", "gc", "--older-than", "1s"], prepare=backwards), "gc removed what is new")
    must("used" in bench(home, ["cache", "ls"], prepare=backwards), "ls failed")


def damaged_records(home: Path, reference: Reference, thorough: bool) -> None:
    """Half a record and one of an earlier schema are told and replaced; one of a later schema is refused and kept."""
    bench(home)
    record = record_path(home)
    text = record.read_text()
    raw = json.loads(text)
    for broken, why in (
        (text[: len(text) // 2], "cannot read"),
        (json.dumps(raw | {"schema_version": 0}), "version 0"),
        ("", "cannot read"),
    ):
        record.write_text(broken)
        must(why in bench(home, ["runs", "ls"]), f"`runs ls` did not say {why!r}: {log_of(home)}")
        must("is replaced" in bench(home), f"a damaged record was replaced in silence: {log_of(home)}")
        same(home, reference)
    for newer, why in ((raw | {"schema_version": 999}, "version 999"), (raw | {"invented": 1}, "invented")):
        record.write_text(json.dumps(newer))
        must(why in bench(home, code=2), f"refused without its version: {log_of(home)}")
        must(json.loads(record.read_text()) == newer, "a newer record was changed")
        must(why in bench(home, ["runs", "ls"]), f"`runs ls` did not say {why!r}: {log_of(home)}")
        bench(home, ["leaderboard"], code=2)
        must(why in log_of(home), f"`leaderboard` did not say {why!r}: {log_of(home)}")


def killed_while_recording(home: Path, reference: Reference, thorough: bool) -> None:
    """SIGKILL before each change that a run makes below ``runs``, also while it replaces an earlier record."""
    bench(home)
    for again in (False, True):
        # By day the odd changes of a new record and the even ones of a replaced one, which begin with the same steps.
        number, step, code = (0, 1, -signal.SIGKILL) if thorough else (again - 1, 2, -signal.SIGKILL)
        while code == -signal.SIGKILL:
            number += step
            if not again:
                shutil.rmtree(record_path(home).parent)
            else:
                record_path(home).write_text("{")  # makes way for the new one
            seen = 0

            def before(_: int, path: str, wanted: int = number) -> None:
                nonlocal seen
                seen += path.startswith(f"{home}/runs")
                if seen == wanted:
                    os.kill(os.getpid(), signal.SIGKILL)

            code = finish(start(COMMAND, home, before))
            must(code in (0, -signal.SIGKILL), f"ended with {code}: {log_of(home)[-500:]}")
            bench(home)
            same(home, reference)
        must(number > 3, f"only {number} changes below runs")


def killed_while_collecting(home: Path, reference: Reference, thorough: bool) -> None:
    """SIGKILL in the middle of ``cache gc``: what is left is whole or counts for nothing, and the next one clears it."""
    rng, gone = random.Random(0), 0
    for _ in range(4 if thorough else 2):
        bench(home)
        shutil.rmtree(record_path(home).parent)
        code = finish(start(COLLECT_ALL, home, fatal(rng.randint(1, 120))))
        must(code in (0, -signal.SIGKILL), f"gc ended with {code}: {log_of(home)[-500:]}")
        gone += code == -signal.SIGKILL
        damaged = verify(take_inventory(home / "cache", record_needs(home)))
        must(not damaged, f"gc left damaged entries: {[d.reason for d in damaged]}")
    must(gone > 0, "no gc was killed")
    bench(home)
    same(home, reference)
    bench(home, COLLECT_ALL)
    same(home, reference)  # the record needs them all
    shutil.rmtree(record_path(home).parent)
    bench(home, COLLECT_ALL)
    left = [p for p in (home / "cache").glob("*/*") if p.parent.name != "dataset-index"]
    must(not left, f"left after gc: {left}")


def collecting_beside_a_run(home: Path, reference: Reference, thorough: bool) -> None:
    """``cache gc`` of everything, again and again while runs read and write: they never notice."""
    for _ in range(3 if thorough else 1):
        running = start(COMMAND, home)
        while not os.waitid(os.P_PID, running, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            must(finish(start(COLLECT_ALL, home, log=home.with_suffix(".gc"))) == 0, home.with_suffix(".gc").read_text())
        code = finish(running)
        must(code == 0, f"the run ended with {code}: {log_of(home)[-1000:]}")
        found = difference(numbers(home), reference.numbers)
        must(not found, found)
        shutil.rmtree(record_path(home).parent)


SCENARIOS: dict[str, Callable[[Path, Reference, bool], None]] = {
    f.__name__: f
    for f in (
        full_disk,
        read_only_disk,
        flipped_bytes,
        two_processes,
        clock_set_back,
        damaged_records,
        killed_while_recording,
        killed_while_collecting,
        collecting_beside_a_run,
    )
}


def main() -> int:
    """Run the scenarios and print what went wrong in each."""
    parser = argparse.ArgumentParser(description="Faults of the store, one scenario each.")
    parser.add_argument("--home", type=Path, required=True, help="empty or new folder")
    parser.add_argument("--only", choices=sorted(SCENARIOS), action="append", help="only this scenario; repeat for more")
    parser.add_argument("--thorough", action="store_true", help="every stage, file and change instead of some of them")
    options = parser.parse_args()
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    warm_up()
    reference = undisturbed(COMMAND, home / "undisturbed")
    results = {}
    for name in options.only or SCENARIOS:
        began = time.monotonic()
        try:
            SCENARIOS[name](home / name, reference, options.thorough)
            results[name] = ""
        except (Wrong, OSError, ValueError, StopIteration, subprocess.CalledProcessError) as error:
            results[name] = f"{type(error).__name__}: {error}"
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s {results[name] or 'ok'}\n")
    sys.stdout.write(json.dumps(results) + "\n")
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
