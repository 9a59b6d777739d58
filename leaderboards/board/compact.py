"""The published form of per-user files: small, without data set content, and enough for every number of a board.

A run's ``users_<task>.parquet`` then holds results only, one row a unit: retrieval the rank intervals of the target
(``<view>_better`` items before it and ``<view>_tied`` equal ones, its own included; views item, sid, masked), from
which every metric follows; ranking the ``score``. What the results belong to is the same for all runs of a protocol and
stands once, in ``units/<name>.parquet``: ``user`` and, for retrieval, ``target`` and, for ranking, ``item``, ``row`` and
``label``, with ``stratum``. Users and items are numbers: positions in the sorted list of the raw keys of the same file,
so that results stay paired while no key is published. Ranks that no cut-off reaches are cut at the largest cut-off.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from sidbench.benchmark.metrics.ranking_at_k import CUTOFFS, per_user_metrics
from sidbench.benchmark.metrics.strata import COLD, HEAD, TAIL, TORSO
from sidbench.benchmark.store.records import TaskRecord
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_arrays

UNITS = "units"
_NAMED = b"sidbench.units"  # metadata of a compact file: the units it belongs to
_UNITS_NAME = re.compile(r"(?:retrieval|ranking)-[0-9a-f]{16}")
_VIEWS = {"item": "rank", "sid": "sid_rank", "masked": "masked_rank"}  # view -> prefix of the columns of full files
_RUNNING = ("user", "target", "item", "row")
_KEYS = {"retrieval": ("user", "target"), "ranking": ("user", "item")}


class _Ranks(NamedTuple):
    """Rank intervals as ``per_user_metrics`` takes them; the depth of a beam was judged when the run was recorded."""

    better: np.ndarray
    tied: np.ndarray
    sid_better: np.ndarray
    sid_tied: np.ndarray
    masked_better: np.ndarray
    masked_tied: np.ndarray
    depth: np.ndarray
    sid_depth: np.ndarray


def stratum_labels(columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """int8 labels of ``metrics/strata.py`` from the flags ``in_head`` ... ``in_cold``; ``None`` without them."""
    if not {"in_head", "in_torso", "in_tail", "in_cold"} <= columns.keys():
        return None
    labels = np.full(len(columns["in_head"]), TORSO, np.int8)
    for name, label in (("in_head", HEAD), ("in_tail", TAIL), ("in_cold", COLD)):  # cold items are in the tail as well
        labels[columns[name].astype(bool)] = label
    return labels


def cutoffs_of(entry: TaskRecord) -> tuple[int, ...]:
    """The cut-offs of a retrieval task by its protocol."""
    found = entry.protocol.get("cutoffs", CUTOFFS)
    if not isinstance(found, (list, tuple)) or not found or not all(type(k) is int and k > 0 for k in found):
        raise InputError("cut-offs of a record", got=str(found)[:80], wanted="a list of positive integers")
    return tuple(found)


def compact(entry: TaskRecord, source: Path, target: Path, units: Path) -> None:
    """Write the compact form of ``source`` to ``target``, and its units below the folder ``units`` unless they are there.

    Raises ``InputError`` for a file that lacks the columns, or for a task that has no compact form.
    """
    if entry.task not in _KEYS:
        raise InputError(
            f"per-user results of task {entry.task!r}", got="no compact form", wanted=f"one of {', '.join(_KEYS)}"
        )
    table = pyarrow.parquet.read_table(source)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    ranks = [f"{p}_{end}" for p in _VIEWS.values() for end in ("low", "high")] if entry.task == "retrieval" else []
    needed = [*_KEYS[entry.task], *(ranks or ("row", "label", "score"))]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(
            f"columns of {source.name} of {source.parent.name}",
            got=f"no {', '.join(missing)}",
            wanted="a per-user file as `bench run` writes it",
            do="run it again",
        )
    order = np.lexsort([columns["row"] if "row" in columns else columns["user"].astype(str)])
    columns = {name: values[order] for name, values in columns.items()}
    belongs: dict[str, np.ndarray] = {
        name: np.unique(columns[name].astype(str), return_inverse=True)[1].astype(np.int32) for name in _KEYS[entry.task]
    }
    if entry.task == "ranking":
        belongs |= {"row": columns["row"].astype(np.int64), "label": columns["label"].astype(np.int8)}
    labels = columns.get("stratum", stratum_labels(columns))
    if labels is not None:
        belongs["stratum"] = labels.astype(np.int8)
    name = f"{entry.task}-{hash_arrays(belongs)[:16]}"
    if not (units / f"{name}.parquet").exists():
        _write(belongs, units / f"{name}.parquet")
    if entry.task == "ranking":
        results = {"score": columns["score"]}
    else:
        limit, results = max(cutoffs_of(entry)), {}
        for view, prefix in _VIEWS.items():
            better = columns[f"{prefix}_low"].astype(np.int64) - 1
            tied = columns[f"{prefix}_high"].astype(np.int64) - better
            reached = better < limit
            results[f"{view}_better"] = np.where(reached, better, limit).astype(np.int32)
            results[f"{view}_tied"] = np.where(reached, tied, 1).astype(np.int32)
    _write(results, target, {_NAMED: name.encode()})


def _write(columns: Mapping[str, np.ndarray], path: Path, metadata: Mapping[bytes, bytes] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(dict(columns)).replace_schema_metadata(dict(metadata or {}))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # Half the size of pyarrow's defaults: running numbers as deltas, float bytes by significance, few values by dictionary.
    encoding = {
        name: "BYTE_STREAM_SPLIT" if values.dtype.kind == "f" else "DELTA_BINARY_PACKED"
        for name, values in columns.items()
        if values.dtype.kind == "f" or name in _RUNNING
    }
    pyarrow.parquet.write_table(
        table,
        temporary,
        compression="zstd",
        compression_level=19,
        column_encoding=encoding,
        use_dictionary=[name for name in columns if name not in encoding],
    )
    os.replace(temporary, path)


def units_of(path: Path) -> Path | None:
    """The units file that a compact file belongs to; ``None`` for a full file.

    Raises ``ValueError`` for a name that is none of ours (it must not lead out of the board's folder).
    """
    name = (pyarrow.parquet.read_schema(path).metadata or {}).get(_NAMED)
    if name is None:
        return None
    text = name.decode("utf-8", "replace")
    if _UNITS_NAME.fullmatch(text) is None:
        raise ValueError(f"{path.name} names the units {text[:40]!r}")
    return path.parent.parent.parent / UNITS / f"{text}.parquet"


def expand(entry: TaskRecord, path: Path, units: Path, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The columns ``wanted`` of a compact file as a full file would give them; those it cannot give are left out.

    Metrics are those that stand on the record. Raises ``ValueError`` when results and units do not fit.
    """
    results = _columns(path)
    found: dict[str, Any] = _columns(units)
    lengths = {len(v) for v in (*results.values(), *found.values())}
    if len(lengths) > 1:
        raise ValueError(f"{path.name} has other rows than {units.name}")
    found |= {name: results[name] for name in ("score",) if name in results}
    if entry.task == "retrieval":
        deep = np.full(len(found["user"]), np.iinfo(np.int32).max)
        parts = {
            ("" if view == "item" else f"{view}_") + end: results[f"{view}_{end}"].astype(np.int64)
            for view in _VIEWS
            for end in ("better", "tied")
        }
        recorded = set(entry.metrics)
        values = per_user_metrics(_Ranks(**parts, depth=deep, sid_depth=deep), cutoffs_of(entry))
        found |= {name: column for name, column in values.items() if name in recorded}
    return {name: column for name, column in found.items() if name in wanted}


def _columns(path: Path) -> dict[str, np.ndarray]:
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}
