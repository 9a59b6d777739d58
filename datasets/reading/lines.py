"""Line readers for plain and gzip files: bounded in memory and size, and every fault named by file and line.

Two speeds. ``read_lines`` and ``parse_record`` define what a file means, one line at a time. ``json_columns`` and
``delimited_columns`` hand whole blocks to polars (about 20 times faster) and fall back to the line readers for a block
polars refuses, so the slow pass alone decides whether a line is wrong and says which.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.archives import FREE_BYTES, check_unpacked

MAX_FILE_BYTES = 16 << 30
MAX_LINE_BYTES = 16 << 20
MAX_LITERAL_CHARACTERS = 1 << 20
_BLOCK_BYTES = 32 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BLANK_LINE = re.compile(rb"(?:\A|\n)(?:[ \t\r\v\f]*\n|[ \t\r\v\f]+\Z)")


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    try:
        with open(path, "rb") as handle:
            magic = handle.read(2)
        if magic == _GZIP_MAGIC:
            return gzip.open(path, "rb")
        if path.suffix == ".gz" and magic:
            raise InputError(
                f"{path} is no gzip file",
                got=f"first bytes {magic!r}",
                wanted="the gzip magic 1f 8b",
                do="download it again (an error page may have been saved under this name) or gzip it",
            )
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot open {path}", got=error.strerror or str(error), wanted="a readable file") from error


def read_blocks(
    path: Path, *, block_bytes: int = _BLOCK_BYTES, max_bytes: int = MAX_FILE_BYTES, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the block's first line, whole lines as bytes); lines count from 1.

    Raises ``InputError`` for a damaged or truncated gzip stream (with the line reached), for a file that decompresses
    to more than ``max_bytes`` or is a decompression bomb, and for a line longer than ``max_line_bytes``.
    """
    number, total, held = 1, 0, 0
    chunks: list[bytes] = []

    def reached() -> int:
        return number + sum(chunk.count(b"\n") for chunk in chunks)

    with _open(path) as handle:
        while True:
            try:
                chunk = handle.read1(1 << 20)
            except (EOFError, zlib.error, OSError) as error:
                raise InputError(
                    f"{path}, line {reached()}: the file breaks off or is damaged",
                    got=str(error),
                    wanted="a complete file",
                    do="download or copy it again",
                ) from error
            total, held = total + len(chunk), held + len(chunk)
            if total > max_bytes:
                raise InputError(
                    f"{path}, line {reached()}: too large when decompressed",
                    got=f"more than {max_bytes:,} bytes",
                    wanted=f"at most {max_bytes:,} bytes",
                    do="check that this is the intended file and no decompression bomb",
                )
            if total > FREE_BYTES:
                check_unpacked(str(path), total, path.stat().st_size, FREE_BYTES)
            chunks.append(chunk)
            if chunk and held < block_bytes:
                continue
            block = b"".join(chunks)
            cut = len(block) if not chunk else block.rfind(b"\n") + 1
            if len(block) - cut > max_line_bytes:
                raise InputError(
                    f"{path}, line {reached()}: line too long",
                    got=f"more than {max_line_bytes:,} bytes",
                    wanted="one record a line",
                )
            if cut:
                yield number, block[:cut]
                number += block.count(b"\n", 0, cut)
            chunks, held = [block[cut:]], len(block) - cut
            if not chunk:
                return


def read_lines(path: Path, *, encoding: str = "utf-8", max_bytes: int = MAX_FILE_BYTES) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its line end); blank lines are skipped.

    Raises ``InputError`` as ``read_blocks`` does, and for bytes that are not ``encoding``.
    """
    for first, block in read_blocks(path, block_bytes=1 << 20, max_bytes=max_bytes):
        yield from _split(path, first, block, encoding)


def _split(path: Path | str, first: int, block: bytes, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    # str.splitlines would also cut at U+2028 and other characters that occur inside titles.
    for number, raw in enumerate(block.split(b"\n"), start=first):
        if not raw.strip():
            continue
        try:
            yield number, raw.rstrip(b"\r").decode(encoding)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not {encoding} text",
                got=str(error),
                wanted=f"{encoding} bytes",
                do="convert the file or repair the line",
            ) from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _load_json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def parse_record(text: str, path: Path | str, number: int) -> dict[str, Any]:
    """One record from a JSON line or a Python-literal line (the 2014 metadata files), without evaluating code.

    Raises ``InputError`` naming ``path`` and line ``number`` for anything that is neither, is no object, or is a
    literal of more than ``MAX_LITERAL_CHARACTERS`` characters.
    """
    record: Any = None
    try:
        if not text.startswith("{'"):
            record = _load_json(text)
        elif '"' not in text and "\\" not in text:
            # Every string is single-quoted and unescaped here, so exchanging the quotes gives the same value as JSON.
            record = _load_json(text.replace("'", '"'))
    except (ValueError, RecursionError):
        record = None
    if record is None:
        record = _parse_literal(text, path, number)
    if not isinstance(record, dict):
        raise InputError(f"{path}, line {number}: no record", got=type(record).__name__, wanted="one object {...} a line")
    return record


def _parse_literal(text: str, path: Path | str, number: int) -> Any:
    if len(text) > MAX_LITERAL_CHARACTERS:
        raise InputError(
            f"{path}, line {number}: record too long",
            got=f"{len(text):,} characters",
            wanted=f"at most {MAX_LITERAL_CHARACTERS:,}",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser's advice on style, such as for "1or 2"
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{path}, line {number}: neither JSON nor a Python literal",
            got=repr(text[:80]),
            wanted="one record a line",
            do=f"repair or remove line {number}",
        ) from error


def read_records(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, record) of a file of JSON or Python-literal lines."""
    for number, text in read_lines(path, max_bytes=max_bytes):
        yield number, parse_record(text, path, number)


def line_of_row(path: Path, row: int) -> int:
    """Line number of the ``row``-th (from 0) record of ``path``: blank lines hold no record."""
    for index, (number, _) in enumerate(read_lines(path, encoding="latin-1")):
        if index == row:
            return number
    raise IndexError(f"{path} has no record {row}")


def _checked(value: Any, dtype: Any) -> Any:
    """``value`` as the column type, ``None`` kept. Raises ``ValueError`` for another type or a non-finite number."""
    if value is None:
        return None
    if dtype == pl.String:
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value).encode().decode()  # half a surrogate pair is no text: a ValueError
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        if dtype == pl.Float64:
            return float(value)
        if value == int(value) and abs(value) < 2**63:
            return int(value)
    raise ValueError(f"{value!r} is no {dtype}")


def _fast_frame(block: bytes, fast: Callable[[bytes], pl.DataFrame]) -> pl.DataFrame | None:
    """What polars makes of a block, ``None`` unless that is one row a line: blank lines, which polars takes for rows of
    missing cells, hold no record."""
    if _BLANK_LINE.search(block):
        block = b"\n".join(line for line in block.split(b"\n") if line.strip())
    n_lines = block.count(b"\n") + (not block.endswith(b"\n") and bool(block))
    try:
        frame = fast(block)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError):
        return None
    return frame if frame.height == n_lines else None


def _columns(
    path: Path | str,
    blocks: Iterable[tuple[int, bytes]] | None,
    schema: Mapping[str, Any],
    fast: Callable[[bytes], pl.DataFrame],
    slow: Callable[[int, str], Mapping[str, Any]],
) -> pl.DataFrame:
    frames = []
    for first, block in read_blocks(Path(path)) if blocks is None else blocks:
        frame = _fast_frame(block, fast)
        if frame is None:
            rows = []
            for number, text in _split(path, first, block):
                record = slow(number, text)
                try:
                    rows.append([_checked(record.get(name), dtype) for name, dtype in schema.items()])
                except (ValueError, OverflowError) as error:
                    raise InputError(
                        f"{path}, line {number}: wrong type",
                        got=str(error),
                        wanted=", ".join(f"{n}: {d}" for n, d in schema.items()),
                        do=f"repair or remove line {number}",
                    ) from error
            frame = pl.DataFrame(rows, schema=dict(schema), orient="row")
        frames.append(frame)
    table = pl.concat(frames) if frames else pl.DataFrame(schema=dict(schema))
    if table.height == 0:
        raise InputError(f"{path} holds no record", got="an empty file", wanted="one record a line")
    return table


def json_columns(
    path: Path | str, schema: Mapping[str, Any], blocks: Iterable[tuple[int, bytes]] | None = None
) -> pl.DataFrame:
    """The fields ``schema`` (name -> polars String, Int64 or Float64) of a JSON-lines file; missing fields are null.

    blocks: (first line number, whole lines) of a stream, read instead of the file; ``path`` then only names it.
    Row ``r`` is the ``r``-th record of the file. Raises ``InputError`` naming file and line for anything malformed.
    """
    return _columns(
        path,
        blocks,
        schema,
        lambda block: pl.read_ndjson(io.BytesIO(block), schema=dict(schema)),
        lambda number, text: parse_record(text, path, number),
    )


def delimited_columns(
    path: Path | str, schema: Mapping[str, Any], separator: str, blocks: Iterable[tuple[int, bytes]] | None = None
) -> pl.DataFrame:
    """All columns of a delimited file without header and quotes, in the order of ``schema``; empty cells are null.

    blocks: as for ``json_columns``.
    Raises ``InputError`` naming file and line for a wrong number of cells or a cell of the wrong type.
    """

    def fast(block: bytes) -> pl.DataFrame:
        return pl.read_csv(
            io.BytesIO(block),
            has_header=False,
            separator=separator,
            quote_char=None,
            schema=dict(schema),
            raise_if_empty=False,
        )

    def slow(number: int, text: str) -> dict[str, Any]:
        cells = text.split(separator)
        if len(cells) != len(schema):
            raise InputError(
                f"{path}, line {number}: {len(cells)} cells",
                got=repr(text[:80]),
                wanted=f"{len(schema)} cells: {', '.join(schema)}",
                do=f"repair or remove line {number}",
            )
        return {name: _cell(cell, schema[name], path, number) for name, cell in zip(schema, cells, strict=True)}

    return _columns(path, blocks, schema, fast, slow)


def _cell(text: str, dtype: Any, path: Path | str, number: int) -> Any:
    if text == "" or dtype == pl.String:
        return text or None
    try:
        if "_" in text or not text.isascii():  # Python's own liberties: 1_000 and other alphabets' digits
            raise ValueError(text)
        return int(text) if dtype == pl.Int64 else float(text)
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: no number", got=repr(text[:40]), wanted="a number", do=f"repair or remove line {number}"
        ) from error
