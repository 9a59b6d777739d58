"""The long fuzz run: every parser, in a process of its own, with a bound on memory and time.

    python tests/fuzz/long.py --inputs 100000 --seed 0 [--only sids] [--atheris] [--crashes FOLDER] [--report FILE]

Prints how many inputs each parser got, read and refused. An input that ends in anything else than a documented error, runs
longer than ``SECONDS``, or kills its process is written to ``--crashes`` with the traceback, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz_parser import Parser

os.environ["POLARS_MAX_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # counted when the libraries are imported
SECONDS = 10  # of processor time for one input; most take a millisecond
WALL_SECONDS = 300  # of one input that waits for something or does not come back to Python
MEMORY_BYTES = 6 << 30  # of address space beyond what is mapped at the start
MOST_OPERATIONS = 6
MOST_DEATHS = 20
KEPT_CRASHES = 20  # of one parser and kind


def all_parsers(coverage: bool = False) -> tuple[Parser, ...]:
    """The registry; with ``coverage`` our own modules are imported so that atheris sees which lines an input reaches."""
    watching: AbstractContextManager[object] = nullcontext()
    if coverage:
        import atheris

        watching = atheris.instrument_imports(include=["sidbench"])
    with watching:
        from fuzz_data_sets import DATA_SETS
        from fuzz_stores import STORES
        from fuzz_tables import TABLES
    return (*DATA_SETS, *TABLES, *STORES)


class Hang(BaseException):
    """An input took longer than ``SECONDS``."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no result after {SECONDS} s of processor time")


def limit(memory_bytes: int = MEMORY_BYTES) -> None:
    """Bound the address space of this process and let long inputs raise ``Hang``."""
    mapped = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if Path("/proc/self/statm").exists()
        else 0
    )
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _alarm)


def one(parser: Parser, data: bytes, folder: Path) -> bool:
    """``Parser.run`` with a time limit."""
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return parser.run(data, folder)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def kind_of(error: BaseException) -> str:
    """A fault by its type and the innermost line of our own code."""
    ours = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "tests/fuzz" not in f.filename and "site-packages" not in f.filename
    ]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {place}"


def fuzz(parser: Parser, inputs: int, seed: int, crashes: Path, result: Path) -> None:
    """``inputs`` mutated inputs; counts go to ``result`` now and then, so that a killed process leaves them."""
    os.environ["SIDBENCH_HOME"] = tempfile.mkdtemp()
    os.environ["SIDBENCH_OFFLINE"] = "1"
    from fuzz_mutation import BINARY_KINDS, KINDS, SPAN, mutated

    from sidbench.datasets.foundation.seeds import Rng

    rng = Rng(seed).child("fuzz", parser.name).numpy()
    kinds = BINARY_KINDS if parser.binary else KINDS
    seeds = list(parser.seeds())
    folder = Path(tempfile.mkdtemp())
    parser.prepare(folder)
    counts: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "faults": {}, "seconds": 0.0}
    for good in seeds:  # without limits: the first one imports what a parser imports late
        counts["read" if parser.run(good, folder) else "refused"] += 1
        counts["inputs"] += 1
    limit()
    began = time.monotonic()
    while counts["inputs"] < inputs:
        operations = [
            (str(kinds[int(rng.integers(len(kinds)))]), int(rng.integers(SPAN)), int(rng.integers(SPAN)))
            for _ in range(int(rng.integers(1, MOST_OPERATIONS + 1)))
        ]
        data = mutated(seeds, int(rng.integers(len(seeds))), operations)
        (folder / ".current").write_bytes(data)
        counts["inputs"] += 1
        try:
            counts["read" if one(parser, data, folder) else "refused"] += 1
        except BaseException as error:  # noqa: BLE001 - a Rust panic is a BaseException; all are reported
            if isinstance(error, KeyboardInterrupt):
                raise
            kind = kind_of(error)
            number = counts["faults"][kind] = counts["faults"].get(kind, 0) + 1
            if number <= KEPT_CRASHES:
                name = f"{parser.name}-{kind}-{number}".replace("/", "_").replace(" ", "_").replace(":", "_")
                (crashes / f"{name}.bin").write_bytes(data)
                (crashes / f"{name}.txt").write_text("".join(traceback.format_exception(error)))
        if counts["inputs"] % 50 == 0 or counts["inputs"] == inputs:
            counts["seconds"] = time.monotonic() - began
            result.write_text(json.dumps(counts))
    result.write_text(json.dumps(counts))


def supervise(parser: Parser, inputs: int, seed: int, crashes: Path) -> dict[str, Any]:
    """``fuzz`` in forked processes; an input that kills one counts as a fault, and the next process goes on behind it."""
    total: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "faults": {}, "seconds": 0.0}
    for attempt in range(MOST_DEATHS):
        counts, died = _attempt(parser, inputs - total["inputs"], seed + 1000 * attempt, crashes)
        for name in ("inputs", "read", "refused", "seconds"):
            total[name] += counts[name]
        for kind, number in counts["faults"].items():
            total["faults"][kind] = total["faults"].get(kind, 0) + number
        if not died or total["inputs"] >= inputs:
            break
    return total


def _attempt(parser: Parser, inputs: int, seed: int, crashes: Path) -> tuple[dict[str, Any], bool]:
    """The counts of one process, and whether it was killed."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "counts.json"
        os.environ["TMPDIR"] = tempfile.tempdir = place
        process = multiprocessing.get_context("fork").Process(target=fuzz, args=(parser, inputs, seed, crashes, result))
        process.start()
        process.join()
        os.environ.pop("TMPDIR")
        tempfile.tempdir = None
        counts: dict[str, Any] = (
            json.loads(result.read_text())
            if result.exists()
            else {"inputs": 0, "read": 0, "refused": 0, "faults": {}, "seconds": 0.0}
        )
        if process.exitcode:
            counts["faults"][f"process died with {process.exitcode}"] = 1
            for last in Path(place).glob("*/.current"):
                name = f"{parser.name}-died-{process.exitcode}-{seed}.bin".replace(" ", "_")
                (crashes / name).write_bytes(last.read_bytes())
        return counts, bool(process.exitcode)


def with_coverage(parser: Parser, inputs: int, seed: int, crashes: Path) -> None:
    """``inputs`` inputs chosen by coverage of our own code (atheris); ends the process, as libFuzzer does."""
    import atheris

    os.environ["SIDBENCH_HOME"] = tempfile.mkdtemp()
    folder, corpus = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    parser.prepare(folder)
    for number, good in enumerate(parser.seeds()):
        (corpus / str(number)).write_bytes(good)
    prefix = crashes / parser.name.replace(" ", "_").replace("/", "_")
    options = [
        sys.argv[0],
        f"-atheris_runs={inputs}",
        f"-seed={seed + 1}",
        f"-timeout={SECONDS}",
        "-max_len=65536",
        "-rss_limit_mb=8192",
        f"-artifact_prefix={prefix}-",
        str(corpus),
    ]
    atheris.Setup(options, lambda data: parser.run(data, folder))
    atheris.Fuzz()


def line_of(name: str, counts: dict[str, Any]) -> str:
    """One parser's counts, as printed."""
    faults = "; ".join(f"{n} {kind}" for kind, n in counts["faults"].items()) or "no fault"
    return (
        f"{name:<24} {counts['inputs']:>7} inputs {counts['read']:>7} read {counts['refused']:>7} refused "
        f"{counts['seconds']:>7.1f} s  {faults}"
    )


def main() -> int:
    """Fuzz and report; 1 when there was a fault."""
    parsed = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parsed.add_argument("--inputs", type=int, default=100_000, help="over all parsers together")
    parsed.add_argument("--seed", type=int, default=0)
    parsed.add_argument("--only", default="", help="parsers whose name begins like this")
    parsed.add_argument("--crashes", type=Path, default=Path("build/fuzz"), help="folder for inputs that broke a parser")
    parsed.add_argument(
        "--report",
        type=Path,
        default=None,
        help="JSON file for the counts; parsers that stand in it are not repeated, so a run can be continued",
    )
    parsed.add_argument("--atheris", action="store_true", help="coverage-guided; give --only one parser")
    options = parsed.parse_args()
    known = all_parsers(options.atheris)
    chosen = [p for p in known if p.name.startswith(options.only)]
    if not chosen:
        parsed.error(f"no parser begins with {options.only!r}: {', '.join(p.name for p in known)}")
    options.crashes.mkdir(parents=True, exist_ok=True)
    if options.atheris:
        if len(chosen) != 1:
            parsed.error("--atheris takes one parser: name it with --only")
        with_coverage(chosen[0], options.inputs, options.seed, options.crashes)
    shares = sum(p.share for p in chosen)
    report: dict[str, Any] = {}
    if options.report is not None and options.report.exists():
        report = json.loads(options.report.read_text())["parsers"]
    for parser in chosen:
        if parser.name not in report:
            inputs = max(1, round(options.inputs * parser.share / shares))
            report[parser.name] = supervise(parser, inputs, options.seed, options.crashes)
            if options.report is not None:
                options.report.write_text(json.dumps({"seed": options.seed, "parsers": report}, indent=1))
        sys.stdout.write(line_of(parser.name, report[parser.name]) + "\n")
        sys.stdout.flush()
    total = {name: sum(c[name] for c in report.values()) for name in ("inputs", "read", "refused", "seconds")}
    faults_found = sum(sum(c["faults"].values()) for c in report.values())
    sys.stdout.write(
        f"{total['inputs']} inputs for {len(report)} parsers: {total['read']} read, {total['refused']} refused, "
        f"{faults_found} faults, {total['seconds']:.0f} s\n"
    )
    return 1 if faults_found else 0


if __name__ == "__main__":
    sys.exit(main())
