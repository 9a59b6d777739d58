"""Memory, time and bytes of every stage against the size of the catalogue: the measured points of ``docs/scale.md``.

    python tests/speed/scale.py --items 10000,100000 --out points.json
    python tests/speed/scale.py --items 10000000 --stages write,fit,encode --tokenizer rqkmeans --out points.json
    python tests/speed/scale.py --render

Each point runs in a process of its own (``scale_stages.py``) with one thread and is added to the file when it is finished;
points that are there already are skipped, so a killed command goes on where it stopped. A stage that reads files of
another (``assemble``, ``fit`` and ``encode`` need ``write``; ``encode`` needs ``fit``) runs it first where they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE, POINTS = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale.json"
BEGIN, END = "<!-- measured points: begin -->", "<!-- measured points: end -->"
WORKER = Path(__file__).with_name("scale_stages.py")
STAGES = (
    "write",
    "assemble",
    "checksum",
    "fit",
    "encode",
    "encode_reconstruct",
    "keys",
    "synthetic",
    "split",
    "trie",
    "codes",
    "quantisation",
    "mtp",
    "sasrec",
)
WITH_TOKENIZER = ("fit", "encode", "encode_reconstruct")
READS_CONTENT = ("assemble", "checksum", "quantisation", *WITH_TOKENIZER)
TOKENIZERS = ("rqkmeans", "opq", "rqvae")
FACTS = {
    "trained": "fitted on {:,}",
    "step_ms": "{:.1f} ms a step",
    "rank_ms_per_user": "{:.2f} ms a user to rank",
    "events": "{:,.0f} events",
}

Point = dict[str, Any]


def key_of(point: Point) -> tuple[Any, ...]:
    """What tells two points apart."""
    return point["stage"], point["tokenizer"], point["items"], point["dims"]


def read_points(path: Path) -> list[Point]:
    return json.loads(path.read_text())["points"] if path.exists() else []


def write_points(path: Path, points: Iterable[Point]) -> None:
    """One line a point, in the order of stages and sizes; replaced as a whole, so that a kill loses no earlier point."""
    ordered = sorted(points, key=lambda p: (STAGES.index(p["stage"]), p["tokenizer"], p["items"], p["dims"]))
    text = '{"points": [\n' + ",\n".join(json.dumps(point) for point in ordered) + "\n]}\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def measure(stage: str, tokenizer: str, items: int, work: Path, arguments: argparse.Namespace) -> Point:
    """Run one stage in a process; after ``limit`` seconds, or when it fails, the point says so in ``failed``."""
    point: Point = {"stage": stage, "tokenizer": tokenizer, "items": items, "dims": arguments.dims}
    if stage == "fit":
        point["trained"] = min(arguments.trained, items)
    task = {**point, "trained": min(arguments.trained, items), "work": str(work)}
    limit = arguments.limit
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, str(WORKER), json.dumps(task)],
            env=environment,
            timeout=limit,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {**point, "failed": f"not within {limit:g} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {**point, "failed": last[-1][:200]}
    return {**point, **{name: round(value, 3) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}}


def missing_inputs(stage: str, items: int, dims: int, tokenizer: str, work: Path) -> list[str]:
    """Stages whose files ``stage`` reads and ``work`` lacks, in order."""
    needed = []
    if stage in READS_CONTENT and not (work / f"content-{items}-{dims}.npy").exists():
        needed.append("write")
    if stage.startswith("encode") and not (work / f"state-{tokenizer}-{items}-{dims}").exists():
        needed.append("fit")
    return needed


def run_points(arguments: argparse.Namespace, out: Path, work: Path) -> None:
    """Measure what ``out`` lacks."""
    points = {key_of(p): p for p in read_points(out)}
    for items in arguments.items:
        for tokenizer in arguments.tokenizer:
            for stage in arguments.stages:
                own = tokenizer if stage in WITH_TOKENIZER else ""
                for step in (*missing_inputs(stage, items, arguments.dims, tokenizer, work), stage):
                    name = tokenizer if step in WITH_TOKENIZER else ""
                    if step == stage and (step, own, items, arguments.dims) in points and not arguments.again:
                        continue
                    point = measure(step, name, items, work, arguments)
                    points[key_of(point)] = point
                    write_points(out, points.values())
                    sys.stdout.write("  ".join(row(point)) + "\n")
                    sys.stdout.flush()
        if not arguments.keep:
            for path in work.glob(f"*-{items}-{arguments.dims}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def row(point: Point) -> list[str]:
    """Cells of one point."""
    what = f"{point['stage']} {point['tokenizer']}".strip()
    if "failed" in point:
        return [what, f"{point['items']:,}", point["failed"], "", "", "", "", ""]
    items, cpu = point["items"], point["cpu_seconds"]
    facts = [form.format(point[name]) for name, form in FACTS.items() if name in point]
    return [
        what,
        f"{items:,}",
        f"{point['wall_seconds']:.2f}",
        f"{cpu:.2f}",
        f"{1e6 * cpu / items:.2f}",
        gigabytes(point["peak_anonymous_bytes"]),
        gigabytes(point["peak_resident_bytes"]),
        "; ".join(([f"{gigabytes(point['bytes'])} GB written"] if "bytes" in point else []) + facts),
    ]


def gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.3f}"


def table(points: Sequence[Point]) -> str:
    """Markdown table of all points."""
    head = ["stage", "items", "wall s", "CPU s", "CPU µs an item", "anonymous GB", "resident GB", "also"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *map(row, points))]
    return "\n".join([lines[0], "|---|--:|--:|--:|--:|--:|--:|---|", *lines[1:]])


def rendered(page: str, points: Sequence[Point]) -> str:
    """``page`` with the table of ``points`` between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(points)}\n\n{END}{rest.split(END)[1]}"


def numbers(text: str) -> list[int]:
    return [int(part.replace("_", "")) for part in text.split(",")]


def chosen(among: Sequence[str]) -> Any:
    """Parser of a comma-separated list of names in ``among``."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if wrong := [name for name in names if name not in among]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(among)}")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the stages against the number of items.")
    parser.add_argument("--items", type=numbers, default=[10_000], help="numbers of items, comma-separated")
    parser.add_argument("--dims", type=int, default=256, help="width of the content embeddings")
    parser.add_argument("--stages", type=chosen(STAGES), default=list(STAGES), help="comma-separated; all by default")
    parser.add_argument("--tokenizer", type=chosen(TOKENIZERS), default=["rqkmeans"], help="for fit and encode")
    parser.add_argument("--trained", type=int, default=100_000, help="items with training events, which fit reads")
    parser.add_argument("--out", type=Path, default=POINTS, help="JSON file that points are added to")
    parser.add_argument("--work", type=Path, help="folder for content and codes; a temporary one by default")
    parser.add_argument("--keep", action="store_true", help="leave the files of --work there")
    parser.add_argument("--limit", type=float, default=600, help="seconds a point may take")
    parser.add_argument("--again", action="store_true", help="measure points that are there already")
    parser.add_argument("--render", action="store_true", help="only rewrite the table of docs/scale.md")
    arguments = parser.parse_args()
    if not arguments.render:
        with tempfile.TemporaryDirectory() as temporary:
            work: Path = arguments.work or Path(temporary)
            work.mkdir(parents=True, exist_ok=True)
            run_points(arguments, arguments.out, work)
    if arguments.out == POINTS:
        PAGE.write_text(rendered(PAGE.read_text(), read_points(POINTS)))


if __name__ == "__main__":
    main()
