"""`bench data prepare | check | import`."""

from __future__ import annotations

import sys
from pathlib import Path

from typer.exceptions import Exit

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.request import ImportRequest
from sidbench.benchmark.runtime.reporter import default_reporter
from sidbench.benchmark.stages.dataset import dataset_stage
from sidbench.benchmark.store.paths import cache_folder, home_folder
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.base import Dataset
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.importing import import_custom as read_and_write
from sidbench.datasets.reading.locate import LocalFiles


def _load(name: str, data_dir: Path | None) -> Dataset:
    cls = installed().load("dataset", name)
    locate = LocalFiles(data_dir)
    cache = StageCache(cache_folder(), default_reporter())
    places = [str(place) for place in locate.roots().values()]
    return dataset_stage(cache, installed().find("dataset", name).name, cls(cls.config_class()), locate, places).value


def prepare(name: str, data_dir: Path | None) -> None:
    """Find or download the raw files, parse them once, and say what is there."""
    dataset = _load(name, data_dir)
    card = dataset.card
    sys.stdout.write(
        f"{card.name}: {dataset.n_users} users, {dataset.n_items} items, {len(dataset.interactions)} interactions\n"
    )
    for field, reason in card.absent.items():
        sys.stdout.write(f"  absent: {field}: {reason}\n")


def check(name: str, data_dir: Path | None) -> None:
    """Compare the parsed data with the published statistics. Raises ``InputError`` naming every number that differs."""
    dataset = _load(name, data_dir)
    published = dict(installed().find("dataset", name).info.get("published", {}))
    found = {"users": dataset.n_users, "items": dataset.n_items, "interactions": len(dataset.interactions)}
    for key, value in {**found, **dict(dataset.card.counts)}.items():
        known = f" (published {published[key]})" if key in published else ""
        sys.stdout.write(f"{key}: {value}{known}\n")
    for note in dataset.card.notes:
        sys.stdout.write(f"note: {note}\n")
    for path, digest in dataset.card.files.items():
        sys.stdout.write(f"sha256 {digest} {Path(path).name}\n")
    wrong = {k: (found[k], published[k]) for k in found if k in published and found[k] != published[k]}
    if wrong:
        raise InputError(
            f"dataset {name}",
            got=", ".join(f"{k} {a}" for k, (a, _) in wrong.items()),
            wanted=", ".join(f"{k} {b}" for k, (_, b) in wrong.items()),
            do="fetch the original 5-core files again",
        )


def import_custom(request: ImportRequest) -> None:
    """Import a user's tables and print the schema report. Exits with 2 when a problem kept anything from being written."""
    folder = request.out or home_folder() / "datasets" / request.name
    report = read_and_write(
        folder,
        request.interactions,
        request.items,
        dict(request.embeddings),
        columns=dict(request.columns),
        time_unit=request.time_unit,
        overwrite=request.overwrite,
    )
    sys.stdout.write("\n".join(report.lines()) + "\n")
    if not report.written:
        raise Exit(2)
    sys.stdout.write(f"use it with: bench run --dataset custom dataset.path={folder}\n")
