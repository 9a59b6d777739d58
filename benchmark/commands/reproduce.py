"""`bench reproduce`: the tables of a paper beside ours, or a record and its repetition."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from typer.exceptions import Exit

from sidbench.benchmark.commands.reproduce_paper import ReproduceRequest as ReproduceRequest
from sidbench.benchmark.commands.reproduce_paper import check_for_paper, records_folder, reproduce_paper
from sidbench.benchmark.runs.plan import plan_run
from sidbench.benchmark.runs.replay import later_settings, replay
from sidbench.benchmark.runs.run import complete
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import default_reporter
from sidbench.benchmark.store.maintenance.runs import find_run
from sidbench.benchmark.store.paths import RECORD_NAME, home_folder, runs_folder
from sidbench.benchmark.store.records import RunRecord, read_record
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.files import write_whole
from sidbench.leaderboards.reproduction.figures import figure_svg
from sidbench.leaderboards.reproduction.papers import paper_names
from sidbench.leaderboards.reproduction.render import render_side_by_side
from sidbench.leaderboards.reproduction.rerun import DIFFERS, compare_records, render_repetition

FORMATS = ("md", "csv", "json")
RERUNS = "reruns"  # below the home: a repetition must never replace the record that it is compared with


def reproduce_command(request: ReproduceRequest) -> None:
    """Print or write the comparison. Exits with 1 when a run failed, or when a repetition differs without a cause."""
    if request.form not in FORMATS:
        raise unknown_name("--format", request.form, FORMATS, do="use one of these")
    if request.target in paper_names():
        check_for_paper(request)
        _paper(request)
    else:
        _run(request, find_record(request.target, records_folder(request.records) if request.records else runs_folder()))


def _paper(request: ReproduceRequest) -> None:
    found, failed = reproduce_paper(request)
    name = f"{request.target}.{request.form}"
    if request.out is None:
        sys.stdout.write(render_side_by_side(found, request.form))
    else:
        pictures = {f.number: f"figure-{f.number}.svg" for f in found.figures}
        for figure in found.figures:
            _write(request.out / pictures[figure.number], figure_svg(figure))
        _write(request.out / name, render_side_by_side(found, request.form, pictures))
    if failed:
        raise Exit(1)


def find_record(text: str, runs: Path) -> RunRecord:
    """The record of a run id or the beginning of one below ``runs``, or of a path to a record or its folder.

    Raises ``InputError`` for what is neither, and for a record that cannot be read.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        path = path / RECORD_NAME
    if not path.is_file():
        if os.sep in text:
            raise InputError(f"record {text}", got="no such file", wanted="a record.json, or a folder with one")
        try:
            path = find_run(runs, text) / RECORD_NAME
        except InputError as error:
            raise InputError(f"{error} A paper is one of {', '.join(paper_names())}") from error
    try:
        return read_record(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"record {path}", got=str(error), wanted="a record that this release reads") from error


def _run(request: ReproduceRequest, recorded: RunRecord) -> None:
    """Repeat a run from its record alone and compare. Stages are computed anew unless ``request.cached``."""
    given = {
        "--table": request.tables,
        "--figure": request.figures,
        "--recommender": request.recommender,
        "--ties": request.ties,
        "--key": request.key,
        "settings": " ".join(request.overrides),
    }
    if wrong := [option for option, value in given.items() if value]:
        raise InputError(
            f"bench reproduce {request.target}",
            got=", ".join(wrong),
            wanted="only a record, which has all settings",
            do="leave them out, or use `bench run`",
        )
    reporter = default_reporter()
    again = replay(recorded, request.device, request.threads)
    runtime = LocalRuntime(**again.config.machine, reporter=reporter)
    try:
        spec = again.spec(recorded, request.data_dir, "failed" if request.cached else "always", ("bench", *sys.argv[1:]))
        plan = plan_run(spec, runtime, runs=home_folder() / RERUNS)
        repeated = runtime.process_group.together(partial(complete, plan))
        leads = runtime.process_group.is_main_process
    finally:
        runtime.process_group.close()
    if not leads:
        return
    remarks = later_settings(plan.composed, again.groups)
    found = compare_records(recorded, repeated, request.tolerance, remarks)
    text = render_repetition(found, request.form)
    if request.out is None:
        sys.stdout.write(text)
    else:
        _write(request.out / f"{recorded.run_id}.{request.form}", text)
    if found.verdict == DIFFERS:
        raise Exit(1)


def _write(path: Path, text: str) -> None:
    write_whole(path, text)
    sys.stderr.write(f"written: {path}\n")
