"""The doors of data sets: reviews, ratings, metadata, films, pictures, archives, and a user's own tables."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_parser import EVENTS, ITEMS, KEYS, ROWS, Parser, as_table, npz, parquets, stored_and_read_back, zipped
from PIL import Image

from sidbench.datasets.amazon.images import WIDTH, read_image_features
from sidbench.datasets.amazon2023 import Amazon2023, Amazon2023Config
from sidbench.datasets.base import Catalog
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.custom import Custom, CustomConfig
from sidbench.datasets.features.pictures import PictureRefused, decode_picture, iterate_pictures
from sidbench.datasets.ml_100k import MovieLens100K, MovieLens100KConfig
from sidbench.datasets.reading.download import extract_member
from sidbench.datasets.reading.importing import import_custom
from sidbench.datasets.reading.locate import LocalFiles


def _beauty(path: Path) -> None:
    stored_and_read_back(Beauty(Beauty.config_class(k_core=1)).load(LocalFiles(path.parent, {})), path.parent)


def _ml(path: Path) -> None:
    stored_and_read_back(MovieLens100K(MovieLens100KConfig()).load(LocalFiles(path.parent, {})), path.parent)


def _custom(path: Path) -> None:
    stored_and_read_back(Custom(CustomConfig(path=str(path.parent))).load(LocalFiles(path.parent, {})), path.parent)


def _amazon2023(path: Path) -> None:
    reviews = "raw" if path.name == "C.jsonl" else "5core"
    config = Amazon2023Config(path=str(path.parent), category="C", k_core=1, reviews=reviews)
    stored_and_read_back(Amazon2023(config).load(LocalFiles(None, {})), path.parent)


REVIEWS = "".join(
    json.dumps(
        {
            "reviewerID": f"u{u}",
            "asin": KEYS[(u + t) % 3],
            "overall": 4.0,
            "unixReviewTime": 10**9 + t,
            "reviewText": "fine \U0001f600",
        }
    )
    + "\n"
    for u in range(3)
    for t in range(3)
).encode()
RATINGS = b"u1,B1,5.0,1000000000\nu1,B2,4.0,1000000001\nu2,B3,1.0,1000000002\nu2,B1,3.5,1000000003\n"
METADATA = b"""{'asin': 'B1', 'title': 'Soap &amp; Water', 'price': 9.99, 'categories': [['Beauty', 'Bath']], 'imUrl': 'http://x'}
{"asin": "B2", "title": "Oil", "brand": "A \\"B\\"", "categories": [["Beauty"], ["Other"]], "description": "d"}
{'asin': 'B3', 'title': u'it\\'s \\u00e9', 'related': {'also_viewed': ['B1', 'B2']}, 'salesRank': {'Beauty': 5}}
"""
UNUSED = b"{'asin': 'B9', 'title': 'unused'}\n"
FILMS = {
    "u.data": b"10\t9\t3\t50\n9\t10\t4\t60\n9\t100\t5\t40\n10\t10\t1\t50\n",
    "u.genre": b"unknown|0\nAction|1\nDrama|2\n\n",
    "u.item": "9|Amélie (2001)|01-Jan-2001||http://x|0|1|1\n10|B &amp; C|||x|1|0|0\n100|D|||x|0|0|1\n".encode("latin-1"),
    "items.jsonl": b'{"movie_id": 9, "overview": "A  film", "poster": "p/9.png"}\n{"movie_id": 10, "overview": ""}\n',
}


def _picture(form: str, mode: str = "RGB", **how: Any) -> bytes:
    array = (np.arange(12 * 10 * 3) % 251).astype(np.uint8).reshape(12, 10, 3)
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, form, **how)
    return buffer.getvalue()


def _pictures() -> list[bytes]:
    frames = [Image.new("P", (9, 9), n) for n in range(3)]
    return [
        _picture("PNG"),
        _picture("PNG", "RGBA"),
        _picture("PNG", "P", transparency=3),
        _picture("JPEG"),
        _picture("JPEG", "CMYK"),
        _picture("GIF"),
        _picture("GIF", "P", save_all=True, append_images=frames),
        _picture("WEBP"),
        _picture("BMP"),
        _picture("TIFF"),
        _picture("TIFF", compression="tiff_lzw"),
        _picture("PPM"),
        _picture("EPS"),
    ]


def _archives() -> list[bytes]:
    files = {"p/9.png": _picture("PNG"), "u.data": FILMS["u.data"], "a/b.txt": b"x" * 99}
    return [zipped(files, how) for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]


def _archive_pictures(path: Path) -> None:
    from collections import Counter

    catalog = Catalog(keys=KEYS, images=("p/9.png", "../p/9.png", "u.data"), image_root=path)
    for _, picture in iterate_pictures(catalog, 8, Counter()):
        if picture.shape != (8, 8, 3):
            raise AssertionError(picture.shape)


def _extract(path: Path) -> None:
    (path.parent / "out").mkdir()
    extract_member(path, "u.data", path.parent / "out" / "target", max_bytes=1 << 20)
    if [p.name for p in (path.parent / "out").iterdir()] != ["target"]:
        raise AssertionError("something else was written")


def _interactions(path: Path) -> None:
    report = import_custom(path.parent / "out" / "set", path)
    if report.written:
        stored_and_read_back(Custom(CustomConfig(path=str(report.folder))).load(LocalFiles(None, {})), path.parent)
    "\n".join(report.lines()).encode()


def _items(path: Path) -> None:
    report = import_custom(path.parent / "out" / "set", path.parent / "events.csv", path)
    if report.written:
        stored_and_read_back(Custom(CustomConfig(path=str(report.folder))).load(LocalFiles(None, {})), path.parent)
    "\n".join(report.lines()).encode()


def _image_records() -> list[bytes]:
    return [b"".join(key + np.full(WIDTH, n, "<f4").tobytes() for n, key in enumerate((b"B000000001", b"B000000002")))]


DATA_SETS: tuple[Parser, ...] = (
    Parser("reviews", "reviews_Beauty_5.json", _beauty, lambda: [REVIEWS], lambda: {"meta_Beauty.json": METADATA}),
    Parser(
        "reviews.gz",
        "reviews_Beauty_5.json.gz",
        _beauty,
        lambda: [gzip.compress(REVIEWS)],
        lambda: {"meta_Beauty.json": METADATA},
        binary=True,
    ),
    Parser("ratings", "ratings_Beauty.csv", _beauty, lambda: [RATINGS], lambda: {"meta_Beauty.json": METADATA}),
    Parser(
        "metadata",
        "meta_Beauty.json",
        _beauty,
        lambda: [METADATA, METADATA + UNUSED],
        lambda: {"reviews_Beauty_5.json": REVIEWS},
        share=2,
    ),
    *(
        Parser(
            f"ml-100k {name}",
            name,
            _ml,
            lambda name=name: [FILMS[name]],  # type: ignore[misc]
            lambda: {**FILMS, "posters.zip": _archives()[0]},
        )
        for name in FILMS
    ),
    Parser("ml-100k posters", "posters.zip", _ml, _archives, lambda: FILMS, binary=True, share=0.5),
    Parser(
        "amazon2023 reviews",
        "C.jsonl",
        _amazon2023,
        lambda: [b'{"user_id": "u", "parent_asin": "B1", "rating": 4.0, "timestamp": 1452647382000}\n'],
        lambda: {"meta_C.jsonl": b'{"parent_asin": "B1", "title": "t"}\n'},
        share=0.03,
    ),
    Parser(
        "amazon2023 metadata",
        "meta_C.jsonl",
        _amazon2023,
        lambda: [
            b'{"parent_asin": "B1", "title": "t", "store": "s", "price": '
            b'"$1,012.50", "categories": ["a", "b"], "description": ["d", "e"]}\n'
        ],
        lambda: {"benchmark/5core/rating_only/C.csv": b"user_id,parent_asin,rating,timestamp\nu,B1,4.0,1452647382000\n"},
        share=0.03,
    ),
    Parser(
        "image records",
        "x.b",
        lambda path: read_image_features(path, ("B000000001", "B000000009")),
        _image_records,
        binary=True,
        share=0.3,
    ),
    Parser(
        "pictures",
        "p",
        lambda path: decode_picture(path.read_bytes(), 8),
        _pictures,
        binary=True,
        also=(PictureRefused,),
        share=8,
    ),
    Parser("picture archives", "p.zip", _archive_pictures, _archives, binary=True),
    Parser("download archives", "d.zip", _extract, _archives, binary=True),
    *(
        Parser(f"interactions {form}", f"e.{form}", _interactions, lambda form=form: [as_table(form, EVENTS)])  # type: ignore[misc]
        for form in ("csv", "tsv", "jsonl")
    ),
    Parser("interactions parquet", "e.parquet", _interactions, lambda: parquets(EVENTS), binary=True, share=2),
    *(
        Parser(
            f"items {form}",
            f"i.{form}",
            _items,
            lambda form=form: [as_table(form, ITEMS)],  # type: ignore[misc]
            lambda: {"events.csv": as_table("csv", EVENTS)},
        )
        for form in ("csv", "jsonl")
    ),
    Parser(
        "items parquet",
        "i.parquet",
        _items,
        lambda: parquets({**ITEMS, "categories": [["A"], [], ["B", "C"]]}),
        lambda: {"events.csv": as_table("csv", EVENTS)},
        binary=True,
    ),
    Parser(
        "custom schema",
        "schema.json",
        _custom,
        lambda: [b'{"format": 1, "embeddings": {"text": 4}, "warnings": ["w"]}'],
        lambda: {
            "interactions.parquet": as_table("parquet", EVENTS),
            "items.parquet": as_table("parquet", {"item": KEYS, "title": ["a", "b", "c"]}),
            "embeddings/text.npz": npz(keys=np.array(KEYS), embeddings=ROWS),
        },
    ),
    Parser(
        "custom interactions",
        "interactions.parquet",
        _custom,
        lambda: parquets(EVENTS),
        lambda: {"schema.json": b'{"format": 1, "embeddings": {}, "warnings": []}'},
        binary=True,
    ),
    Parser(
        "custom items",
        "items.parquet",
        _custom,
        lambda: [
            *parquets({"item": KEYS, "title": ["a", "b", "c"], "categories": [["A"], [], ["B"]], "price": [1.5, None, 2.0]}),
            *parquets({"item": KEYS, "n": [1, 2, 3]}),
        ],
        lambda: {
            "schema.json": b'{"format": 1, "embeddings": {}, "warnings": []}',
            "interactions.parquet": as_table("parquet", EVENTS),
        },
        binary=True,
    ),
)
