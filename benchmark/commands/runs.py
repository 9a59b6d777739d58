"""`bench runs ls | show | rm`: the finished runs of this home."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.filesize import decimal as size_text
from typer.exceptions import Exit

from sidbench.benchmark.commands.printing import print_json, print_table
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.maintenance.headline import headline
from sidbench.benchmark.store.maintenance.runs import find_run, remove_runs, run_files
from sidbench.benchmark.store.maintenance.units import path_bytes
from sidbench.benchmark.store.paths import RECORD_NAME, runs_folder
from sidbench.benchmark.store.records import PluginRecord, RunRecord, UnreadableRecord, read_record
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.leaderboards.board.store import StoredRun, read_runs


def metric_text(metric: Metric) -> str:
    """A value with its interval and the number of units it averages."""
    interval = "" if metric.low is None or metric.high is None else f" [{metric.low:.4g}, {metric.high:.4g}]"
    return f"{metric.value:.4g}{interval} n={metric.n}"


# -- ls ----------------------------------------------------------------------------------------------------------------
def ls_command(dataset: str, as_json: bool) -> None:
    """Print one row per run, oldest first; records that cannot be read are named on stderr."""
    store = read_runs(runs_folder())
    if dataset:
        known = {run.record.dataset.name for run in store.runs}
        if dataset not in known:
            raise unknown_name("dataset among finished runs", dataset, known, do="run `bench runs ls`")
        store = store.of_dataset(dataset)
    rows = [_summary(run) for run in store.runs]
    for skipped in store.skipped:
        sys.stderr.write(f"unreadable: {skipped.path.parent.name}: {skipped.reason}\n")
    if as_json:
        print_json(
            {
                "folder": str(runs_folder()),
                "runs": rows,
                "unreadable": [{"run_id": s.path.parent.name, "reason": s.reason} for s in store.skipped],
            }
        )
        return
    names = ("run_id", "dataset", "tokenizer", "recommenders", "budget", "seed", "created", "headline", "bytes")
    print_table(
        [n.replace("run_id", "run").replace("bytes", "size") for n in names],
        [[_cell(name, row[name]) for name in names] for row in rows],
        right=("seed", "size"),
    )
    sys.stdout.write(f"{len(rows)} runs, {size_text(sum(row['bytes'] for row in rows))} in {runs_folder()}\n")


def _summary(run: StoredRun) -> dict[str, Any]:
    r, found = run.record, headline(run.record)
    policy = "" if r.sids is None or r.sids.collision_policy == "none" else f" +{r.sids.collision_policy}"
    return {
        "run_id": r.run_id,
        "dataset": r.dataset.name,
        "tokenizer": "none" if r.tokenizer is None else r.tokenizer.name + policy,
        "recommenders": [t.recommender.name for t in r.tasks],
        "budget": r.budget,
        "seed": r.seed,
        "created": r.created,
        "headline": None if found is None else {"metric": found[0], **found[1].model_dump()},
        "bytes": path_bytes(run.folder),
    }


def _cell(name: str, value: Any) -> str:
    if name == "bytes":
        return size_text(value)
    if name == "recommenders":
        return "+".join(value) or "none"
    if name == "headline":
        return "none" if value is None else f"{value['metric']} {metric_text(Metric(**_without(value, 'metric')))}"
    return str(value)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {n: v for n, v in values.items() if n != name}


# -- show --------------------------------------------------------------------------------------------------------------
def show_command(text: str, as_json: bool) -> None:
    """Print one record and the state of its files.

    Raises ``InputError`` for an unknown or ambiguous id and for a record that cannot be read, naming its version.
    """
    folder = find_run(runs_folder(), text)
    try:
        record = read_record((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UnreadableRecord) as error:
        raise InputError(
            f"record of {folder.name}",
            got=error,
            wanted="a record that this release reads",
            do=f"update sidbench, or remove it: `bench runs rm {folder.name}`",
        ) from error
    files = run_files(record, folder)
    if as_json:
        print_json({"record": record.model_dump(mode="json"), "folder": str(folder), "files": [vars(f) for f in files]})
        return
    sys.stdout.write("\n".join(_record_lines(record)) + "\n\nfiles in " + str(folder) + "\n")
    print_table(["  file", "size", "hash"], [[f"  {f.name}", size_text(f.n_bytes), f.state] for f in files], right=("size",))


def _record_lines(r: RunRecord) -> list[str]:
    lines = [
        r.run_id,
        f"  created {r.created}, budget {r.budget}, seed {r.seed}, schema version {r.schema_version}",
        f"  dataset {r.dataset.name}, content {r.dataset.content_hash[:12]}: "
        + ", ".join(f"{name} {count:,}" for name, count in r.dataset.counts.items()),
        f"  comparability key {r.comparability_key[:12]}, protocol key {r.protocol_key[:12]}",
        "  " + " ".join(r.environment.command_line),
    ]
    if r.tokenizer is not None:
        lines += ["", f"tokenizer {r.tokenizer.name} ({r.tokenizer.settings_source})", *_plugin_lines(r.tokenizer)]
    if r.sids is not None:
        lines += [
            "",
            f"SIDs: length {r.sids.code_length}, sizes {', '.join(map(str, r.sids.sizes))}, collisions "
            f"{r.sids.collision_policy}, content {r.sids.content_hash[:12]}",
            *_metric_lines(r.sids.metrics),
        ]
    for task in r.tasks:
        lines += [
            "",
            f"{task.task} by {task.recommender.name}",
            *_plugin_lines(task.recommender),
            "  " + ", ".join(f"{name} {count:,}" for name, count in task.counts.items()),
            *_metric_lines(task.metrics),
        ]
        lines += [f"  {name:<34} undefined: {why}" for name, why in task.undefined.items()]
    lines += ["", f"stages, {r.wall_seconds():.1f} s of computation"]
    lines += [
        f"  {s.name:<22} {s.wall_seconds:9.2f} s  {s.cpu_seconds:9.2f} CPU s  peak "
        f"{size_text(s.peak_memory_bytes):>9}  {s.key[:12]}{'  read from the cache' if s.cached else ''}"
        for s in r.stages
    ]
    e = r.environment
    lines += [
        "",
        f"environment: {e.device}, {e.threads} threads, {e.precision}, python {e.python}, {e.platform}, commit "
        f"{e.git_commit[:12] or 'unknown'}{' with changes' if e.git_dirty else ''}",
    ]
    if r.warnings:
        lines += ["", "warnings", *(f"  {warning}" for warning in r.warnings)]
    return lines


def _plugin_lines(plugin: PluginRecord) -> list[str]:
    settings = ", ".join(f"{name}={value}" for name, value in plugin.config.items())
    return [f"  {settings}", f"  {plugin.n_parameters:,} parameters, code {plugin.code[:12]}"]


def _metric_lines(metrics: Mapping[str, Metric]) -> list[str]:
    return [f"  {name:<34} {metric_text(metric)}" for name, metric in metrics.items()]


# -- rm ----------------------------------------------------------------------------------------------------------------
def rm_command(texts: Sequence[str], yes: bool, as_json: bool) -> None:
    """Remove runs after asking. Nothing is removed when one of the ids is unknown.

    Raises ``InputError`` for unknown and ambiguous ids, and without ``--yes`` where nobody can be asked.
    """
    folders = list(dict.fromkeys(find_run(runs_folder(), text) for text in texts))
    sizes = {folder: path_bytes(folder) for folder in folders}
    if not yes:
        _ask(folders, sizes, as_json)
    remove_runs(folders)
    if as_json:
        print_json({"removed": [{"run_id": f.name, "bytes": n} for f, n in sizes.items()]})
        return
    for folder, n_bytes in sizes.items():
        sys.stdout.write(f"removed {folder.name}, {size_text(n_bytes)}\n")


def _ask(folders: Sequence[Path], sizes: Mapping[Path, int], as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise InputError(
            "bench runs rm", got=f"{len(folders)} runs to remove and nobody to ask", wanted="a confirmation", do="add --yes"
        )
    for folder in folders:
        sys.stderr.write(f"  {folder.name}  {size_text(sizes[folder])}\n")
    if not typer.confirm(f"Remove {len(folders)} runs for good?", err=True):
        raise Exit(1)
