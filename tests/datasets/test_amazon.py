"""Amazon 2014: reviews, metadata, picture features and the three plugins, on small files and on the real ones."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.datasets.amazon.images import (
    iterate_image_features,
    read_image_features,
)
from sidbench.datasets.amazon.metadata import read_metadata
from sidbench.datasets.amazon.reviews import read_ratings, read_reviews
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.sports import Sports, SportsConfig
from sidbench.datasets.toys import Toys

needs_data = pytest.mark.skipif(not os.environ.get("SIDBENCH_DATA"), reason="$SIDBENCH_DATA is not set")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")


def _review(user: str, item: str, rating: float | None, time: int) -> dict[str, Any]:
    record = {"reviewerID": user, "asin": item, "unixReviewTime": time, "reviewText": "fine", "helpful": [0, 1]}
    return record if rating is None else record | {"overall": rating}


def _write(path: Path, records: list[dict[str, Any]], literal: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [repr(record) if literal else json.dumps(record) for record in records]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


_META = [
    {
        "asin": "B02",
        "title": "Soap &amp; Brush",
        "price": 2.5,
        "brand": "Acme",
        "imUrl": "http://x/1.jpg",
        "categories": [["Beauty", "Bath &amp; Body"], ["Gifts"]],
        "description": "Nice\n  soap",
    },
    {"asin": "B01", "title": 'Cup, 5" wide', "categories": [["Beauty"]], "related": {"also_bought": ["B02"]}},
    {"asin": "ZZZ", "title": "never bought"},
]


def _beauty(root: Path, reviews: list[dict[str, Any]], **config: Any) -> Any:
    _write(root / "beauty" / "reviews_Beauty_5.json.gz", reviews)
    _write(root / "beauty" / "meta_Beauty.json.gz", _META, literal=True)
    return Beauty(Beauty.config_class(**config)).load(LocalFiles(root))


def test_plugin_on_a_hand_made_category(tmp_path: Path) -> None:
    data = _beauty(
        tmp_path,
        [
            _review("v", "B02", 5, 300),
            _review("v", "B01", 1, 100),
            _review("u", "B02", 4, 200),
            _review("u", "B01", 2, 200),
            _review("u", "B01", 2, 200),
            _review("w", "B03", 3, 1),
        ],
        k_core=2,
    )
    x = data.interactions
    assert data.user_keys == ("u", "v") and data.catalog.keys == ("B01", "B02")
    assert x.user.tolist() == [0, 0, 1, 1] and x.item.tolist() == [1, 0, 0, 1]
    assert x.rating.tolist() == [4, 2, 1, 5] and x.row.tolist() == [2, 3, 1, 0]
    assert dict(data.catalog.text) == {
        "title": ('Cup, 5" wide', "Soap & Brush"),
        "brand": ("", "Acme"),
        "categories": ("Beauty", "Beauty > Bath & Body"),
        "description": ("", "Nice soap"),
    }
    assert list(data.catalog.text) == ["title", "brand", "categories", "description"]
    assert data.catalog.categories == (("Beauty",), ("Beauty", "Bath & Body"))
    assert np.isnan(data.catalog.price[0]) and data.catalog.price[1] == np.float32(2.5)
    expected = {
        "lines_read": 6,
        "duplicate_lines_dropped": 1,
        "duplicate_pairs_dropped": 0,
        "events_dropped_by_k_core": 1,
        "users": 2,
        "items": 2,
        "interactions": 4,
        "metadata_lines_unused": 1,
        "items_without_metadata": 0,
        "items_with_several_category_paths": 1,
        "items_with_picture_url": 1,
        "html_entities_unescaped": 2,
        "whitespace_repaired": 1,
        "items_without_text": 0,
    }
    assert expected.items() <= data.card.counts.items()
    assert "no pictures are in the files" in data.card.absent["vision"] and set(data.card.absent) == {"vision"}
    reviews = tmp_path / "beauty" / "reviews_Beauty_5.json.gz"
    assert data.card.files[reviews.name] == hash_file(reviews)
    assert str(tmp_path) not in repr(data.card)


def test_other_counts_than_published_are_a_warning_not_a_crash(tmp_path: Path) -> None:
    reviews = [_review(f"u{u}", f"B0{i}", 3, u + i) for u in range(5) for i in range(5)]
    card = _beauty(tmp_path, reviews).card
    assert card.counts["published_mismatches"] == 3
    assert card.notes[0].startswith("WARNING") and "users 5 (published 22,363)" in card.notes[0]
    assert card.counts["items_without_metadata"] == 3 and card.counts["items_without_text"] == 3
    subset = _beauty(tmp_path, reviews, max_users=2).card
    assert subset.counts["published_mismatches"] == 0 and "first 2 users by key" in subset.filters


def test_same_content_hashes_equal_and_a_changed_rating_does_not(tmp_path: Path) -> None:
    reviews = [_review(f"u{u}", f"B0{i}", 3, u + i) for u in range(5) for i in range(5)]
    first, again = (_beauty(tmp_path / name, reviews).content_hash() for name in "ab")
    changed = _beauty(tmp_path / "c", [reviews[0] | {"overall": 1.0}, *reviews[1:]]).content_hash()
    assert first == again != changed


def test_ratings_csv_equals_reviews(tmp_path: Path) -> None:
    rows = [("u", "0001", 5.0, 3), ("v", "0002", 1.0, 2)]
    (tmp_path / "ratings_Beauty.csv").write_text("".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows))
    reviews = _write(tmp_path / "r.json.gz", [_review(*row) for row in rows])
    table = read_ratings(tmp_path / "ratings_Beauty.csv")
    assert table.equals(read_reviews(reviews).select(table.columns))
    assert table["item"].to_list() == ["0001", "0002"]  # numeric-looking ASINs keep their zeros


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_malformed_review_names_file_and_line(tmp_path: Path, suffix: str) -> None:
    text = (json.dumps(_review("u", "i", 3, 1)) + "\n") * 3 + '{"reviewerID": "u", "asin": \n'
    path = tmp_path / f"reviews.json{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
    with pytest.raises(InputError, match=r"reviews\.json(\.gz)?, line 4"):
        read_reviews(path)


def test_rating_some_lines_lack_is_an_error_all_lines_lack_is_absent(tmp_path: Path) -> None:
    some = _write(tmp_path / "some.gz", [_review("u", "i", 3, 1), _review("u", "j", None, 1)])
    with pytest.raises(InputError, match=r"some\.gz, line 2: rating missing"):
        read_reviews(some)
    root = tmp_path / "sports"
    _write(root / "reviews_Sports_and_Outdoors_5.json.gz", [_review("u", "i", None, 1), _review("v", "i", None, 1)])
    _write(root / "meta_Sports_and_Outdoors.json.gz", [{"asin": "i", "brand": "Acme"}], literal=True)
    data = Sports(SportsConfig(k_core=1)).load(LocalFiles(tmp_path))
    assert data.interactions.rating is None
    assert {"rating", "title", "description", "categories", "price", "vision", "keywords"} == set(data.card.absent)


def test_keywords_only_on_demand_and_named_on_the_card(tmp_path: Path) -> None:
    root = tmp_path / "sports"
    _write(root / "reviews_Sports_and_Outdoors_5.json.gz", [_review("u", "i", None, 1), _review("u", "j", None, 2)])
    _write(root / "meta_Sports_and_Outdoors.json.gz", [{"asin": "i", "brand": "Acme"}], literal=True)
    (root / "keywords.tsv").write_text("i\tred  ball\n")
    plain = Sports(SportsConfig(k_core=1)).load(LocalFiles(tmp_path))
    assert "keywords" not in plain.catalog.text and "keywords.tsv" not in plain.card.files
    derived = Sports(SportsConfig(k_core=1, use_keywords=True)).load(LocalFiles(tmp_path))
    assert derived.catalog.text["keywords"] == ("red ball", "") and "keywords.tsv" in derived.card.files
    assert derived.card.counts["items_without_keywords"] == 1
    (root / "keywords.tsv").write_text("i\tred\nno tab here\n")
    with pytest.raises(InputError, match=r"keywords\.tsv, line 2"):
        Sports(SportsConfig(k_core=1, use_keywords=True)).load(LocalFiles(tmp_path))


def test_missing_files_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    with pytest.raises(InputError, match="reviews_Toys_and_Games_5.json.gz.*snap.stanford.edu"):
        Toys(Toys.config_class()).load(LocalFiles(tmp_path))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"asin": "B01", "price": "cheap"}, "price"),
        ({"asin": "B01", "categories": "Beauty"}, "categories"),
        ({"asin": "B01", "categories": [["a", 1]]}, "categories"),
        ({"asin": "B01", "title": {"a": 1}}, "title"),
        ({"title": "no key"}, "no asin"),
    ],
)
def test_wrong_metadata_types_name_the_line(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    path = _write(tmp_path / "meta.json.gz", [{"asin": "B02"}, record], literal=True)
    with pytest.raises(InputError, match=rf"meta\.json\.gz, line 2: {reason}"):
        read_metadata(path, ["B01", "B02"])


def test_metadata_never_runs_code_and_keeps_the_first_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.json").write_text("{'asin': 'B01', 'title': __import__('os').system('touch hacked')}\n")
    with pytest.raises(InputError, match="line 1: neither JSON nor a Python literal"):
        read_metadata(tmp_path / "meta.json", ["B01"])
    assert not (tmp_path / "hacked").exists()
    path = _write(tmp_path / "m.gz", [{"asin": "B01", "title": "a"}, {"asin": "B01", "title": "b"}])
    found = read_metadata(path, ["B01"])
    assert found.catalog.text["title"] == ("a",) and found.counts["metadata_repeats_dropped"] == 1


# --- picture features ----------------------------------------------------------------------------------------------


def _features(path: Path, keys: list[str]) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(keys), 4096)).astype(np.float32)
    path.write_bytes(b"".join(k.encode() + struct.pack("<4096f", *v) for k, v in zip(keys, vectors, strict=True)))
    return vectors


def test_picture_features_keep_the_catalogue_only(tmp_path: Path) -> None:
    path = tmp_path / "image_features_Beauty.b"
    vectors = _features(path, ["B000000003", "B000000009", "B000000001", "B000000003"])
    features, available = read_image_features(path, ["B000000001", "B000000002", "B000000003"])
    assert features.shape == (3, 4096) and features.dtype == np.float32
    assert available.tolist() == [True, False, True]
    np.testing.assert_array_equal(features[[0, 2]], vectors[[2, 0]])
    assert not features[1].any()


def test_damaged_picture_features_name_the_record(tmp_path: Path) -> None:
    path = tmp_path / "f.b"
    _features(path, ["B000000001", "B000000002"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"record 2 at byte 16,394: truncated"):
        list(iterate_image_features(path))
    path.write_bytes(b"\0" * 16394)
    with pytest.raises(InputError, match="record 1 at byte 0: no ASIN"):
        list(iterate_image_features(path))
    path.write_bytes(b"B000000001" + struct.pack("<4096f", *([float("nan")] * 4096)))
    with pytest.raises(InputError, match="features of B000000001"):
        read_image_features(path, ["B000000001"])


# --- the real files ------------------------------------------------------------------------------------------------


@pytest.mark.data
@needs_data
def test_real_beauty_equals_the_published_statistics() -> None:
    data = Beauty(Beauty.config_class()).load(LocalFiles())
    x, counts = data.interactions, data.card.counts
    assert (data.n_users, data.n_items, len(x)) == (22363, 12101, 198502)
    assert counts["published_mismatches"] == counts["events_dropped_by_k_core"] == counts["duplicate_pairs_dropped"] == 0
    assert np.bincount(x.rating.astype(int)).tolist() == [0, 10526, 11456, 22248, 39741, 114531]
    assert np.bincount(x.user).min() == np.bincount(x.item).min() == 5
    assert sorted(x.row.tolist()) == list(range(198502))
    assert list(data.catalog.keys) == sorted(data.catalog.keys) and list(data.user_keys) == sorted(data.user_keys)
    assert counts["items_without_metadata"] == counts["items_without_text"] == 0
    assert [sum(map(bool, data.catalog.text[name])) for name in ("title", "brand", "categories")] == [
        12094,
        10003,
        12101,
    ]
    assert int(np.isfinite(data.catalog.price).sum()) == 11516
    assert not any("&amp;" in title for title in data.catalog.text["title"])
    assert {"vision", "description"} == set(data.card.absent)
    # The last two events of 9,719 users carry the same time: the ordering hazard the card warns of.
    last = np.cumsum(np.bincount(x.user)) - 1
    assert int((x.timestamp[last] == x.timestamp[last - 1]).sum()) == 9719


@pytest.mark.data
@needs_data
def test_real_sports_equals_the_published_statistics() -> None:
    data = Sports(SportsConfig(use_keywords=True)).load(LocalFiles())
    assert (data.n_users, data.n_items, len(data.interactions)) == (35598, 18357, 296337)
    assert data.interactions.rating is None and data.card.counts["published_mismatches"] == 0
    assert sum(map(bool, data.catalog.text["brand"])) == 11037
    assert {"rating", "title", "description", "price", "vision"} == set(data.card.absent)
    assert all(data.catalog.text["keywords"])
