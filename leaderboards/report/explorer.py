"""Codes, keys and texts of items, packed for the SID explorer of the page.

Codes travel as base64 of little-endian integers of the narrowest width, one blob a row of a table, and are decoded when
the reader first opens that row: ten rows of 12,101 items and six codes are one megabyte. Everything left out is said.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.board.store import StoredRun, one_line
from sidbench.leaderboards.board.values import Leaderboard
from sidbench.leaderboards.report.details import CatalogueTexts, ReportDetails
from sidbench.leaderboards.report.points import labels

MAX_CODE_BYTES = 6 << 20  # of all packed codes, so that the page stays below ten megabytes
_WIDTHS = ((np.uint8, "u1"), (np.uint16, "u2"), (np.int32, "i4"))


@dataclass
class Explorer:
    """``data``: what the page's script reads. ``notes``: what is not in it, and why. ``n_rows``: tables it can show."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows whose codes can be explored."""
        return len(self.data["runs"])


def pack_explorer(board: Leaderboard, details: ReportDetails) -> Explorer:
    """The codes of the first seed of every row whose run still has its SID table."""
    explorer = Explorer({"catalogues": [], "runs": []})
    places: dict[tuple[str, tuple[str, ...]], int] = {}
    spent, seen = 0, set()
    for place, table in enumerate(board.tables, start=1):
        for row, label in zip(table.rows, labels(table.rows), strict=True):
            run = row.runs[0]
            if run.record.sids is None or run.record.run_id in seen:
                continue
            seen.add(run.record.run_id)
            read = _read_codes(run)
            if isinstance(read, str):
                explorer.notes.append(f"{label} ({run.record.run_id}) cannot be explored: {read}.")
                continue
            packed = _packed(read, run)
            size = len(packed["codes"]) + len(packed.get("weights", ""))
            if spent + size > MAX_CODE_BYTES:
                explorer.notes.append(
                    f"{label} ({run.record.run_id}) is left out of the explorer: its codes would make "
                    f"the page larger than {MAX_CODE_BYTES >> 20} MB of codes."
                )
                continue
            spent += size
            catalogue = (run.record.dataset.content_hash, tuple(read.keys))
            if catalogue not in places:
                places[catalogue] = len(places)
                explorer.data["catalogues"].append(_catalogue(catalogue[0], read.keys, details))
            name = f"{label} · {table.heading}"
            explorer.data["runs"].append(
                {
                    "label": name if len(board.tables) > 1 else label,
                    "run": run.record.run_id,
                    "seed": run.record.seed,
                    "table": place,
                    "catalogue": places[catalogue],
                    **packed,
                }
            )
    return explorer


@dataclass(frozen=True)
class _Codes:
    """keys: one per item. codes: int64 ``[N, L]``, -1 = PAD. weights: float64 ``[N, L]`` or ``None``."""

    keys: Sequence[str]
    codes: np.ndarray
    weights: np.ndarray | None


def _read_codes(run: StoredRun) -> _Codes | str:
    """The SID table beside a record, or the reason why there is none."""
    sids = run.record.sids
    if sids is None:
        return "it has no semantic IDs"
    try:
        path = run.file(sids.file)
    except InputError as error:
        return one_line(error)
    if not path.is_file():
        return "its SID table is not beside the record, as on published boards"
    try:
        table = pyarrow.parquet.read_table(path)
        keys = [str(key) for key in table["item"].to_pylist()]
        codes = _matrix(table["codes"], len(keys), sids.code_length)
        weights = _matrix(table["weights"], len(keys), sids.code_length) if "weights" in table.column_names else None
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        return f"its SID table cannot be read: {one_line(error)}"
    if not len(keys) or codes.min() < -1 or codes.max() >= max(sids.sizes, default=0):
        return "its SID table holds no items, or codes outside its codebooks"
    if weights is not None and not (np.isfinite(weights).all() and len(np.unique(weights[codes >= 0].round(6))) > 1):
        weights = None  # equal weights say nothing
    return _Codes(keys, codes.astype(np.int64), weights)


def _matrix(column: pyarrow.ChunkedArray, n_items: int, length: int) -> np.ndarray:
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != n_items * length or column.null_count:
        raise ValueError(f"{len(values)} values for {n_items} items of {length} codes")
    return np.asarray(values.reshape(n_items, length))


def _packed(read: _Codes, run: StoredRun) -> dict[str, Any]:
    sids = run.record.sids
    if sids is None:
        return {}
    largest = int(read.codes.max()) + 1  # codes move up by one, so that PAD is 0 and unsigned types hold it
    kind, name = next((k, n) for k, n in _WIDTHS if largest <= np.iinfo(k).max)
    packed: dict[str, Any] = {
        "length": sids.code_length,
        "sizes": list(sids.sizes),
        "ordered": sids.ordered,
        "type": name,
        "codes": _base64((read.codes + 1).astype(np.dtype(kind).newbyteorder("<"))),
    }
    if read.weights is not None:
        top = float(np.abs(read.weights).max())
        packed |= {"weights": _base64(np.rint(np.clip(read.weights / top, 0, 1) * 255).astype(np.uint8)), "top": top}
    return packed


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _catalogue(content_hash: str, keys: Sequence[str], details: ReportDetails) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(keys), "keys": list(keys) if details.keys else None}
    texts = details.items.get(content_hash)
    if texts is None:
        return found | {"notes": [f"No item texts: {details.why_without_texts(content_hash)}."]}
    return found | _texts(texts, keys)


def _texts(texts: CatalogueTexts, keys: Sequence[str]) -> dict[str, Any]:
    paths = {path: i for i, path in enumerate(sorted({texts.categories.get(key, "") for key in keys}))}
    found: dict[str, Any] = {
        "titles": [texts.titles.get(key, "") for key in keys],
        "paths": list(paths),
        "categories": [paths[texts.categories.get(key, "")] for key in keys],
        "notes": list(texts.notes),
    }
    if texts.pictures is not None:
        sheet = texts.pictures
        found["pictures"] = {
            "data": base64.b64encode(sheet.data).decode("ascii"),
            "tile": sheet.tile,
            "columns": sheet.columns,
            "present": [int(p) for p in sheet.present],
        }
    return found
