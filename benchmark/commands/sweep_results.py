"""`bench sweep status|best|apply|export|dashboard`: what studies found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sidbench.benchmark.config.presets import TUNED
from sidbench.benchmark.sweeps.export import FORMATS, export_csv, export_json
from sidbench.benchmark.sweeps.results import as_text, describe, load_result, study_names
from sidbench.benchmark.sweeps.storage import open_storage
from sidbench.benchmark.sweeps.tuned import chosen_trial, write_tuned
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.files import write_whole


def status_command(name: str | None, storage: str, as_json: bool) -> None:
    """A row for every study, or for one."""
    rows = [describe(load_result(n, storage)) for n in ([name] if name else study_names(storage))]
    if as_json:
        sys.stdout.write(json.dumps({"studies": rows}) + "\n")
        return
    if not rows:
        sys.stdout.write("no sweeps yet; start one with `bench sweep --tokenizer NAME --dataset NAME --trials 20`\n")
        return
    table = [
        {
            "study": r["study"],
            "objective": ", ".join(r["objectives"] or ()),
            **r["trials"],
            "seconds": f"{r['seconds']:.0f}",
            "default": _value(r["default"]),
            "best": _value(r["best"]),
            "gain": "" if r["improvement"] is None else f"{r['improvement']:+.1%}",
        }
        for r in rows
    ]
    sys.stdout.write(tabulate(table, headers="keys") + "\n")


def _value(trial: dict[str, Any] | None) -> str:
    return "" if trial is None else ", ".join(f"{v:.5g}" for v in trial["values"])


def best_command(name: str, storage: str, as_json: bool) -> None:
    """The best settings of a study. Raises ``InputError`` while it has none."""
    result = load_result(name, storage)
    if not result.states.complete:
        raise InputError(f"best trial of {name}", got="no complete trial", wanted="one", do="let the sweep go on")
    described = describe(result)
    sys.stdout.write(json.dumps(described) + "\n" if as_json else as_text(described))


def apply_command(name: str, storage: str, out: Path | None, trial: int | None) -> None:
    """Write the preset `tuned` and say how to run it."""
    result = load_result(name, storage)
    path = write_tuned(result, chosen_trial(result, trial), out)
    attributes = result.attributes
    policy = "" if attributes["collisions"] == "none" else f" --collisions {attributes['collisions']}"
    sys.stdout.write(
        f"wrote {path}\nrun it: bench run --tokenizer {attributes['tokenizer']} --dataset "
        f"{attributes['dataset']}{policy} --budget {attributes['budget']} --preset {TUNED}\n"
    )


def export_command(name: str, storage: str, out: Path) -> None:
    """Write a study to a file."""
    form = out.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise InputError("--out", got=out.name, wanted="a name that ends in .json or .csv")
    result = load_result(name, storage)
    text = export_json(result) if form == "json" else export_csv(result)
    try:
        write_whole(out, text)
    except OSError as error:
        raise InputError(f"export to {out}", got=f"{error.strerror}", wanted="a file this user can write") from error
    sys.stdout.write(f"wrote {out}: {len(result.states.by_number)} trials\n")


def dashboard_command(name: str, storage: str, port: int) -> None:
    """Serve a study on this machine until interrupted."""
    load_result(name, storage)
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise InputError(
            "bench sweep dashboard",
            got=f"no optuna-dashboard ({error})",
            wanted="the extra `dashboard`",
            do="pip install 'sidbench[dashboard]'",
        ) from error
    sys.stderr.write(f"http://127.0.0.1:{port}/ shows {name}; end it with Ctrl-C\n")
    try:
        run_server(open_storage(storage, name), host="127.0.0.1", port=port)
    except OSError as error:
        raise InputError(
            f"--port {port}", got=f"{error.strerror}", wanted="a free port", do=f"for example --port {port + 1}"
        ) from error
