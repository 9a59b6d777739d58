"""MovieLens 100K: numeric ids, Latin-1 titles, genres, and posters that are declared absent when they are."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.ml_100k import MovieLens100K, MovieLens100KConfig
from sidbench.datasets.reading.locate import LocalFiles

needs_data = pytest.mark.skipif(not os.environ.get("SIDBENCH_DATA"), reason="$SIDBENCH_DATA is not set")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of three films and two users without overviews and posters."""
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    made = tmp_path / "ml-100k"
    made.mkdir()
    (made / "u.data").write_text("10\t9\t3\t50\n9\t10\t4\t60\n9\t100\t5\t40\n10\t10\t1\t50\n")
    (made / "u.genre").write_text("unknown|0\nAction|1\nDrama|2\n\n")
    (made / "u.item").write_text(
        "9|Amélie (2001)|01-Jan-2001||http://x|0|1|1\n10|B &amp; C|||x|1|0|0\n100|D|||x|0|0|1\n", encoding="latin-1"
    )
    return made


def _load(folder: Path, **config: int) -> object:
    return MovieLens100K(MovieLens100KConfig(**config)).load(LocalFiles(folder.parent))


def test_ids_sort_as_numbers_and_text_is_decoded(folder: Path) -> None:
    data = _load(folder)
    assert data.user_keys == ("9", "10") and data.catalog.keys == ("9", "10", "100")
    assert data.interactions.user.tolist() == [0, 0, 1, 1]
    assert data.interactions.item.tolist() == [2, 1, 0, 1]
    assert data.interactions.rating.tolist() == [5, 4, 3, 1]
    assert data.catalog.text["title"] == ("Amélie (2001)", "B & C", "D")
    assert data.catalog.text["genres"] == ("Action, Drama", "", "Drama")
    assert data.catalog.categories == (("Action", "Drama"), (), ("Drama",))
    assert set(data.card.absent) == {"overview", "vision"}
    assert data.catalog.images is None and data.card.counts["published_mismatches"] == 3


def test_overviews_and_posters_when_present(folder: Path) -> None:
    records = [
        {"movie_id": 9, "overview": "A  film", "poster": "posters/9.jpg"},
        {"movie_id": 10, "overview": ""},
        {"movie_id": 100, "overview": "x", "poster": "posters/100.jpg"},
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert set(_load(folder).card.absent) == {"vision"}
    with zipfile.ZipFile(folder / "posters.zip", "w") as bundle:
        bundle.writestr("posters/9.jpg", b"jpeg")
    data = _load(folder)
    assert data.catalog.text["overview"] == ("A film", "", "x") and not data.card.absent
    assert data.catalog.images == ("posters/9.jpg", "", "")
    assert data.catalog.image_root == folder / "posters.zip"
    assert data.card.counts["items_with_picture"] == 1 and data.card.counts["pictures_missing_in_archive"] == 1
    assert data.card.counts["items_without_overview"] == 1
    (folder / "posters.zip").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match="damaged zip"):
        _load(folder)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("u.data", "1\t9\t3\n", r"u\.data, line 1"),
        ("u.data", "1\t9\tx\t5\n", r"u\.data, line 1: no number"),
        ("u.data", "1\t9\t3\t5\nnew line\n", r"u\.data, line 2"),
        ("u.data", "1\t7\t3\t5\n", "lacks items of u.data"),
        ("u.item", "9|A|||x|0|1\n", r"u\.item, line 1: no film"),
        ("u.item", "9|A|||x|0|1|2\n", r"u\.item, line 1: no film"),
        ("u.genre", "Action\n", r"u\.genre, line 1: no genre"),
        ("items.jsonl", '{"movie_id": "9"}\n', r"items\.jsonl, line 1"),
    ],
)
def test_malformed_files_name_the_line(folder: Path, name: str, text: str, reason: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        _load(folder)


def test_missing_archive_names_its_address(folder: Path) -> None:
    (folder / "u.item").unlink()
    with pytest.raises(InputError, match=r"u\.item not found.*files\.grouplens\.org/datasets/movielens/ml-100k\.zip"):
        _load(folder)


@pytest.mark.data
@needs_data
def test_real_counts() -> None:
    data = MovieLens100K(MovieLens100KConfig()).load(LocalFiles())
    x = data.interactions
    assert (data.n_users, data.n_items, len(x)) == (943, 1682, 100000)
    assert data.catalog.keys == tuple(str(i) for i in range(1, 1683))
    assert np.bincount(x.rating.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert sum(map(bool, data.catalog.images)) == 1663 and data.card.counts["pictures_missing_in_archive"] == 0
    assert sum(map(bool, data.catalog.text["overview"])) == 1664
    assert not data.card.absent and data.card.counts["published_mismatches"] == 0
    smoke = MovieLens100K(MovieLens100KConfig(**MovieLens100K.budgets["smoke"])).load(LocalFiles())
    assert smoke.user_keys == tuple(str(i) for i in range(1, 101))
