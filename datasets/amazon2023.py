"""Amazon Reviews 2023: any category, streamed through Hugging Face ``datasets`` or read from a folder.

Hou et al., "Bridging Language and Items for Retrieval and Recommendation", arXiv 2403.03952. ``reviews=5core`` reads
the authors' rating-only file, ``reviews=raw`` the full reviews (then ``k_core`` filters). Items are ``parent_asin``.
Times come in milliseconds and are kept in whole seconds; events keep their millisecond order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sidbench.datasets.base import Catalog, Dataset, DatasetInfo, DatasetPlugin, FileLocator, check_dataset_values
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.reading.events import check_events, index_events, make_card
from sidbench.datasets.reading.lines import delimited_columns, json_columns, parse_record
from sidbench.datasets.reading.text import TextCleaner, count_without_text, text_columns

INFO = DatasetInfo(
    title="Amazon Reviews 2023, any category",
    version=1,
    source="https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023",
    licence="no formal licence; distributed by its authors for research",
    citation="Hou, Li, He, Yan, Chen and McAuley, arXiv 2403.03952, 2024",
    url="https://arxiv.org/abs/2403.03952",
    bibtex="@misc{hou2024bridging,\n"
    "  title={Bridging Language and Items for Retrieval and Recommendation},\n"
    "  author={Hou and Li and He and Yan and Chen and McAuley}, year={2024}, eprint={2403.03952},\n"
    "  archivePrefix={arXiv}, url={https://arxiv.org/abs/2403.03952}}",
    modalities=("text", "behaviour"),
    tasks=("retrieval", "ranking"),
    notes=("Times are milliseconds in the source, whole seconds here; events of one second keep their order.",),
)

_FOLDER = "amazon2023"
_EVENTS = {"user_id": pl.String, "parent_asin": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
_RENAMED = {"user_id": "user", "parent_asin": "item"}
_META = ["parent_asin", "title", "store", "main_category", "categories", "price", "description"]
_FORMATS = (".jsonl", ".csv", ".parquet")
_BATCH = 50_000
_EARLIEST_MILLISECONDS = 10**11  # 1973 in milliseconds; every time below it must be in another unit
_PRICE = re.compile(r"\$?\s*(\d[\d,]*(?:\.\d+)?)")


@dataclass(frozen=True)
class Amazon2023Config:
    """Which category, from where, and filters."""

    category: str = setting("All_Beauty", "category name as in the file names of the source")
    reviews: str = setting("5core", "the authors' 5-core rating file or the full reviews", choices=("5core", "raw"))
    k_core: int = setting(5, "keep users and items with at least this many events", unit="events", low=1, high=100)
    max_users: int = setting(0, "only the first users by key; 0 keeps all", unit="users", low=0)
    path: str = setting("", "local folder laid out as the source; empty: the data folders, then the Hub")
    hub: str = setting("McAuley-Lab/Amazon-Reviews-2023", "dataset repository on the Hugging Face Hub")
    revision: str = setting("main", "commit or branch of the repository; pin a commit for a published table")

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("category", "revision"):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", getattr(self, name)):
                raise InputError(
                    f"setting {name} of amazon2023",
                    got=repr(getattr(self, name)),
                    wanted="letters, digits, _ . -",
                    do=f"set {name}=<name>, such as All_Beauty",
                )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*", self.hub):
            raise InputError(
                "setting hub of amazon2023",
                got=repr(self.hub),
                wanted="owner/name",
                do="set hub=<owner>/<name>, such as McAuley-Lab/Amazon-Reviews-2023",
            )


class Amazon2023(DatasetPlugin):
    """Reads reviews and metadata of one category; the catalogue holds exactly the items with events."""

    info = INFO
    config_class = Amazon2023Config
    config: Amazon2023Config
    budgets = {"smoke": {"max_users": 500}}

    def load(self, locate: FileLocator) -> Dataset:
        """Raises ``InputError`` for missing or malformed files (with the line) and when the Hub cannot be reached."""
        config, cat = self.config, self.config.category
        reviews = (
            f"benchmark/5core/rating_only/{cat}.csv" if config.reviews == "5core" else f"raw/review_categories/{cat}.jsonl"
        )
        event_source = self._source(
            locate,
            reviews,
            (f"5core/rating_only/{cat}.csv",)
            if config.reviews == "5core"
            else (f"raw_review_{cat}/*", f"{cat}.jsonl", f"raw_review_{cat}.parquet"),
        )
        meta_source = self._source(
            locate,
            f"raw/meta_categories/meta_{cat}.jsonl",
            (f"raw_meta_{cat}/*", f"meta_{cat}.jsonl", f"raw_meta_{cat}.parquet"),
        )
        table = event_source.events()
        if int(table["timestamp"].min()) < _EARLIEST_MILLISECONDS:  # type: ignore[arg-type]  # an Int64 column
            raise InputError(
                f"times of {event_source.name}",
                got=table["timestamp"].min(),
                wanted="unix milliseconds",
                do="multiply seconds by 1000, or import the files with `bench data import`",
            )
        table = table.sort("timestamp", maintain_order=True).with_columns(pl.col("timestamp") // 1000)
        events = index_events(table, min_events=config.k_core, max_users=config.max_users)
        catalog, counts, absent = _read_catalog(meta_source, events.item_keys)
        if events.interactions.rating is None:
            absent["rating"] = f"no record of {event_source.name} has a rating"
        absent["vision"] = "pictures are web addresses in the metadata; none is downloaded"
        card = make_card(
            _FOLDER,
            INFO,
            events,
            subset=True,
            absent=absent,
            counts=counts,
            files=event_source.hashes | meta_source.hashes,
            notes=(f"category {cat}, reviews {config.reviews}",),
        )
        return check_dataset_values(Dataset(events.interactions, catalog, events.user_keys, card))

    def _source(self, locate: FileLocator, published: str, others: tuple[str, ...]) -> _Source:
        if self.config.path:
            root = Path(self.config.path).expanduser()
            for pattern in (published, *others):
                # A literal name also matches its gzip twin.
                found = sorted(
                    {
                        str(p)
                        for p in (*root.glob(pattern), *root.glob(f"{pattern}.gz"))
                        if p.is_file() and p.name.removesuffix(".gz").endswith(_FORMATS)
                    }
                )
                if found:
                    return _Source(tuple(found), Path(published).name)
            raise InputError(
                f"amazon2023: no file in {root}",
                got="none of the names below",
                wanted=f"one of {', '.join((published, *others))}",
                do="check path= and category=",
            )
        names = [name for name in (published, *others) if "*" not in name]
        local = locate.find(_FOLDER, *names, required=False)
        if local is not None:
            return _Source((str(local),), Path(published).name)
        if not locate.may_download:
            raise InputError(
                f"amazon2023: {published} not found",
                wanted=published,
                got="no local copy, and SIDBENCH_OFFLINE or this command forbids the Hub",
                do=f"get it from {INFO.source} and set path=<folder> of the dataset",
            )
        return _Source((f"hf://datasets/{self.config.hub}@{self.config.revision}/{published}",), Path(published).name)


class _Source:
    """One or more files of equal format, streamed in batches by ``datasets.load_dataset``.

    hashes: file name -> SHA-256 of a local file; of the lines as read for a stream from the Hub (known afterwards).
    """

    def __init__(self, files: tuple[str, ...], name: str) -> None:
        self.files, self.name = files, name
        self.hashes = {Path(f).name: hash_file(Path(f)) for f in files if not f.startswith("hf://")}

    def tables(self, builder: str, file: str, columns: list[str] | None = None) -> Iterator[Any]:
        """Arrow tables of at most ``_BATCH`` rows of one file."""
        from datasets import load_dataset

        options = {} if columns is None else {"columns": columns}
        rows = 0
        try:
            stream = load_dataset(builder, data_files=[file], split="train", streaming=True, **options)
            for table in stream.with_format("arrow").iter(batch_size=_BATCH):
                yield table
                rows += len(table)
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            raise InputError(
                f"cannot read {file} after row {rows:,}",
                got=str(error).partition("\n")[0],
                wanted=f"the columns {columns}" if columns else "a readable file",
                do=f"check the network, or get it from {INFO.source} and set path=<folder>",
            ) from error

    def lines(self, file: str) -> Iterator[tuple[int, list[str]]]:
        """(number of the first line, lines) of one text file."""
        number, digest = 1, hashlib.sha256()
        for table in self.tables("text", file):
            lines = [line or "" for line in table.column("text").to_pylist()]
            digest.update(("\n".join(lines) + "\n").encode())
            yield number, lines
            number += len(lines)
        if file.startswith("hf://"):
            self.hashes[Path(file).name] = digest.hexdigest()

    def events(self) -> pl.DataFrame:
        """Checked columns user, item, rating, timestamp (milliseconds) of all files, in file order."""
        frames = []
        for file in self.files:
            if file.endswith(".parquet"):
                tables = [pl.DataFrame(t) for t in self.tables("parquet", file, list(_EVENTS))]
                frame = pl.concat(tables).select(pl.col(name).cast(dtype) for name, dtype in _EVENTS.items())
            elif ".csv" in Path(file).name:
                frame = delimited_columns(file, _EVENTS, ",", self._blocks(file, header=",".join(_EVENTS)))
            else:
                frame = json_columns(file, _EVENTS, self._blocks(file))
            frames.append(check_events(frame.rename(_RENAMED), file))
        return pl.concat(frames, how="diagonal")

    def _blocks(self, file: str, header: str = "") -> Iterator[tuple[int, bytes]]:
        for first, lines in self.lines(file):
            if header and first == 1:
                if lines[0].strip() != header:
                    raise InputError(f"{file}, line 1: header", got=repr(lines[0][:80]), wanted=header)
                first, lines = 2, lines[1:]
            yield first, ("\n".join(lines) + "\n").encode()

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file and record, metadata record) of all files."""
        for file in self.files:
            if file.endswith(".parquet"):
                done = 0
                for table in self.tables("parquet", file, _META):
                    for row, record in enumerate(table.to_pylist()):
                        yield f"{file}, record {done + row + 1}", record
                    done += len(table)
            else:
                for first, lines in self.lines(file):
                    for number, line in enumerate(lines, start=first):
                        if line.strip():
                            yield f"{file}, line {number}", parse_record(line, file, number)


def _read_catalog(source: _Source, keys: tuple[str, ...]) -> tuple[Catalog, dict[str, int], dict[str, str]]:
    """Catalogue of exactly ``keys`` with title, brand (store), categories and description."""
    index, clean = {key: i for i, key in enumerate(keys)}, TextCleaner()
    columns = {name: [""] * len(keys) for name in ("title", "brand", "categories", "description")}
    categories: list[tuple[str, ...]] = [()] * len(keys)
    price = np.full(len(keys), np.nan, np.float32)
    seen = np.zeros(len(keys), bool)
    unused = repeated = unreadable = 0
    for where, record in source.records():
        i = index.get(str(record.get("parent_asin")))
        if i is None or seen[i]:
            unused, repeated = unused + (i is None), repeated + (i is not None)
            continue
        seen[i] = True
        for name, key in (("title", "title"), ("brand", "store"), ("description", "description")):
            columns[name][i] = clean.value(record.get(key), f"{where}: {key}")
        path = record.get("categories") or []
        if not isinstance(path, list):
            raise InputError(f"{where}: categories", got=repr(path)[:60], wanted="a list of names")
        if not path and record.get("main_category"):
            path = [record["main_category"]]
        categories[i] = tuple(clean.value(name, f"{where}: categories") for name in path)
        columns["categories"][i] = " > ".join(categories[i])
        price[i], failed = _price(record.get("price"))
        unreadable += failed
    text = text_columns(dict(columns))
    counts = {
        "metadata_lines_unused": unused,
        "metadata_repeats_dropped": repeated,
        "items_without_metadata": int((~seen).sum()),
        "prices_not_numeric": unreadable,
        "items_without_text": count_without_text(text, len(keys)),
        **clean.repairs,
    }
    absent = {name: f"no item of {source.name} has it" for name in columns if name not in text}
    if not np.isfinite(price).any():
        absent["price"] = f"no item of {source.name} has a numeric price"
    catalog = Catalog(
        keys=keys,
        text=text,
        categories=tuple(categories) if any(categories) else None,
        price=None if "price" in absent else price,
    )
    return catalog, counts, absent


def _price(value: Any) -> tuple[float, bool]:
    """Price in dollars (NaN if unknown) and whether there was text that is no number ("from 9.99" has no one price)."""
    text = "" if value is None else str(value).strip()
    if text in ("", "None", "nan"):
        return float("nan"), False
    match = _PRICE.fullmatch(text)
    return (float(match[1].replace(",", "")), False) if match else (float("nan"), True)
