"""One door to every format: which format a file has, and reading and writing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.tokenizers.sid_tables import arrays, letter, text
from sidbench.tokenizers.sid_tables.table import MAX_FILE_BYTES, SidTable

READ_FORMATS = ("json", "jsonl", "csv", "tsv", "parquet", "npz", "letter", "torch")
WRITE_FORMATS = ("json", "jsonl", "csv", "parquet", "npz", "letter")
LOSES_SIZES = ("json", "jsonl", "csv", "letter")  # formats that hold codes and keys only
LAYOUTS = ("auto", "items_first", "positions_first")
_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".npz": "npz",
    ".pt": "torch",
    ".pth": "torch",
}
_MAGIC = {"parquet": b"PAR1", "npz": b"PK", "torch": b"PK"}
_TEXT = ("json", "jsonl", "csv", "tsv", "letter")


def format_of(path: Path, wanted: str = "auto") -> str:
    """The format of a file: ``wanted``, or by suffix. Raises ``InputError`` for unknown ones and for other content."""
    if wanted not in (*READ_FORMATS, "auto"):
        raise unknown_name("format of SID tables", wanted, (*READ_FORMATS, "auto"), do="use one of these")
    found = wanted
    if found == "auto":
        suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
        if suffix not in _SUFFIXES:
            raise InputError(
                f"format of {path}",
                got=f"suffix {suffix!r}",
                wanted=" ".join(_SUFFIXES),
                do="name it: --format, or tokenizer.format with `bench run`",
            )
        found = _SUFFIXES[suffix]
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(
                f"{path}: too large", got=f"{path.stat().st_size:,} bytes", wanted=f"at most {MAX_FILE_BYTES:,}"
            )
        with open(path, "rb") as handle:
            head = handle.read(4)
    except OSError as error:
        raise InputError(
            f"cannot read {path}", got=error.strerror or str(error), wanted="a file with a SID table", do="check the path"
        ) from error
    magic = _MAGIC.get(found, b"")
    binary = head.startswith((b"PAR1", b"PK\x03\x04")) and found in _TEXT
    if not head or not head.startswith(magic) or binary:
        raise InputError(
            f"{path} is no {found} file",
            got=f"first bytes {head!r}" if head else "an empty file",
            wanted=f"a SID table in {found}",
            do="name its true format, or save it again",
        )
    return found


def read_table(path: Path, form: str = "auto", *, n_items: int | None = None, layout: str = "auto") -> SidTable:
    """The SID table of a file.

    Parameters
    ----------
    form: one of ``READ_FORMATS``, or "auto" by suffix (and, for JSON, by content).
    n_items, layout: tell the axes of a saved tensor apart, see ``arrays.read_tensor``; used for nothing else.

    Raises ``InputError``, and nothing else, for whatever is wrong with the file.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS, do="use one of these")
    found = format_of(path, form)
    if found in ("json", "letter"):
        value: Any = text.load_json(text.read_text(path), str(path))
        if found == "letter" or letter.looks_like_letter(value):
            return letter.table_from_index(value, str(path))
        return text.table_from_json(value, str(path))
    if found == "jsonl":
        return text.read_json_lines(path)
    if found in ("csv", "tsv"):
        return text.read_delimited(path, "," if found == "csv" else "\t")
    if found == "npz":
        return arrays.read_npz(path)
    if found == "torch":
        return arrays.read_tensor(path, n_items, layout)
    from sidbench.tokenizers.sid_tables.parquet import read_parquet  # pyarrow costs a third of a second

    return read_parquet(path)


def write_table(path: Path, table: SidTable, form: str, keys: Sequence[str]) -> None:
    """Write ``table`` with its item ``keys`` beside ``path`` and rename, so that a file is complete or absent.

    Raises ``InputError`` for an unknown format, a table the format cannot hold, and a place that cannot be written.
    """
    if form not in WRITE_FORMATS:
        raise unknown_name("format to write", form, WRITE_FORMATS, do="use one of these")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "json":
            text.write_json(temporary, table, keys)
        elif form == "jsonl":
            text.write_json_lines(temporary, table, keys)
        elif form == "csv":
            text.write_delimited(temporary, table, keys, ",")
        elif form == "npz":
            arrays.write_npz(temporary, table, keys)
        elif form == "letter":
            letter.write_index(temporary, table)
        else:
            from sidbench.tokenizers.sid_tables.parquet import write_parquet

            write_parquet(temporary, table, keys)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}", got=error.strerror or str(error), wanted="a writable place") from error
    finally:
        temporary.unlink(missing_ok=True)
