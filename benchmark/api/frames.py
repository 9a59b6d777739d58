"""Runs and boards as pandas frames: wide (one row a run) and long (one row a number), metrics named as in the docs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import PluginRecord, RunRecord
from sidbench.datasets.foundation.errors import unknown_name
from sidbench.leaderboards.board.table import row_name

Shape = Literal["wide", "long"]
SHAPES = ("wide", "long")
QUANTISATION = "quantisation"  # the task of numbers about the SID table
RUN_COLUMNS = ("run_id", "dataset", "budget", "tokenizer", "settings", "recommenders", "seed", "seconds", "failed")


def check_shape(shape: str) -> None:
    """Raise ``InputError`` for anything but "wide" and "long"."""
    if shape not in SHAPES:
        raise unknown_name("shape of a frame", shape, SHAPES, do="use one of these")


def runs_frame(runs: Sequence[tuple[str, RunRecord | None, str]], shape: Shape) -> pd.DataFrame:
    """(label, record or ``None``, why it failed) of every run, as a frame. A failed run has a row without numbers."""
    check_shape(shape)
    records = [record for _, record, _ in runs if record is not None]
    rows: list[dict[str, Any]] = []
    for label, record, reason in runs:
        about = _about(label, record, reason, records)
        numbers = [] if record is None else _numbers(record)
        if shape == "wide":
            rows.append(about | {name: metric.value for _, _, name, metric in numbers})
        else:
            rows += [
                about | {"task": task, "recommender": model, "metric": name, **metric.model_dump()}
                for task, model, name, metric in numbers
            ] or [about]
    columns = [] if shape == "wide" else ["task", "recommender", "metric", "value", "n", "low", "high"]
    return pd.DataFrame(rows, columns=None if rows and shape == "wide" else [*RUN_COLUMNS, *columns])


def _about(label: str, record: RunRecord | None, reason: str, records: Sequence[RunRecord]) -> dict[str, Any]:
    if record is None:
        return dict.fromkeys(RUN_COLUMNS) | {"run_id": label, "failed": reason}
    return {
        "run_id": record.run_id,
        "dataset": record.dataset.name,
        "budget": record.budget,
        "tokenizer": "" if record.tokenizer is None else row_name(record),
        "settings": _settings(record, records),
        "recommenders": " + ".join(t.recommender.name for t in record.tasks),
        "seed": record.seed,
        "seconds": record.wall_seconds(),
        "failed": "",
    }


def _plugins(record: RunRecord) -> list[PluginRecord]:
    return [*([] if record.tokenizer is None else [record.tokenizer]), *(t.recommender for t in record.tasks)]


def _settings(record: RunRecord, records: Sequence[RunRecord]) -> str:
    """The settings in which the plugins of a run differ from others of the same name in the frame."""
    told = []
    for plugin in _plugins(record):
        twins = [p.config for other in records for p in _plugins(other) if p.name == plugin.name]
        told += [f"{k}={v}" for k, v in plugin.config.items() if any(twin.get(k) != v for twin in twins)]
    return ", ".join(dict.fromkeys(told))


def _numbers(record: RunRecord) -> list[tuple[str, str, str, Metric]]:
    """(task, recommender, metric, number) of everything a run measured."""
    sids = {} if record.sids is None else record.sids.metrics
    return [
        *((QUANTISATION, "", name, metric) for name, metric in sids.items()),
        *((t.task, t.recommender.name, name, metric) for t in record.tasks for name, metric in t.metrics.items()),
    ]


_CELL = ("value", "n", "low", "high", "interval", "half_width", "seed_sd", "mark")
_ROW = ("tokenizer", "kind", "settings", "code_length", "codebook_size", "seconds", "effort")


def board_frame(text: str, shape: Shape) -> pd.DataFrame:
    """The tables of a board in JSON as a frame; columns ``dataset``, ``budget`` and ``table`` tell its tables apart."""
    check_shape(shape)
    rows: list[dict[str, Any]] = []
    for table in json.loads(text)["tables"]:
        where = {"table": table["title"], "dataset": table["caption"]["dataset"], "budget": table["caption"]["budget"]}
        for row in table["rows"]:
            about = where | {name: row[name] for name in _ROW}
            about |= {"seeds": tuple(row["seeds"]), "stale": "; ".join(row["stale"])}
            cells: Mapping[str, Mapping[str, Any]] = row["metrics"]
            if shape == "wide":
                present = [name for name in table["columns"] if name in cells]
                rows.append(about | {name: cells[name]["value"] for name in present})
            else:
                rows += [
                    about
                    | {"metric": name, **{part: cells[name][part] for part in _CELL}}
                    | {"rank": row["ranks"].get(name), "improvement": row["improvements"].get(name)}
                    for name in table["columns"]
                    if name in cells
                ]
    return pd.DataFrame(rows)
