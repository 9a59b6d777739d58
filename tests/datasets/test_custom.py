"""Import of a user's own files: every problem named at once, nothing written on error, and the folder loads back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sidbench.datasets.base import Dataset
from sidbench.datasets.custom import Custom, CustomConfig
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.importing import ImportReport, import_custom
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.reading.table import as_keys, as_path, as_seconds, read_table

_EVENTS = "user_id,ItemID,ts,stars\nu2,b,20,4\nu1,a,10,5\nu1,b,10,3\nu2,c,5,1\n"
_ITEMS = [
    {"sku": "b", "name": "Big  box", "category": "Home > Boxes", "price": 2.5, "colour": "red"},
    {"sku": "a", "name": "Apple", "category": "Food", "price": None, "colour": None},
    {"sku": "z", "name": "Zoo", "category": None, "price": 1.0, "colour": "grey"},
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Interactions (csv), items (jsonl.gz) and embeddings in the three accepted forms."""
    (tmp_path / "events.csv").write_text(_EVENTS)
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, _ITEMS)).encode()))
    np.save(tmp_path / "text.npy", np.array([[1, 2], [3, 4], [5, 6]], np.float64))
    np.savez(tmp_path / "vision.npz", keys=np.array(["c", "a"]), embeddings=np.ones((2, 3), np.float32))
    pl.DataFrame({"item": ["a", "b"], "vector": [[1.0, 0.0], [0.0, 1.0]]}).write_parquet(tmp_path / "audio.parquet")
    return {path.name: path for path in tmp_path.iterdir()}


def _load(folder: Path, **config: Any) -> Dataset:
    return Custom(CustomConfig(path=str(folder), **config)).load(LocalFiles())


def _whats(report: ImportReport, severity: str) -> list[str]:
    return [problem.what for problem in report.problems if problem.severity == severity]


def test_import_and_load_by_hand(files: dict[str, Path], tmp_path: Path) -> None:
    report = import_custom(
        tmp_path / "mine",
        files["events.csv"],
        files["items.jsonl.gz"],
        {"text": files["text.npy"], "vision": files["vision.npz"], "audio": files["audio.parquet"]},
    )
    assert report.written and not _whats(report, "error")
    assert report.columns["item"] == "ItemID" and report.columns["items.title"] == "name"
    assert report.counts == {
        "interaction_rows": 4,
        "users": 2,
        "items": 3,
        "item_rows": 3,
        "text_embeddings": 3,
        "items_with_text": 2,
        "vision_embeddings": 2,
        "items_with_vision": 2,
        "audio_embeddings": 2,
        "items_with_audio": 2,
    }
    data = _load(tmp_path / "mine")
    assert data.user_keys == ("u1", "u2") and data.catalog.keys == ("a", "b", "c")
    assert data.interactions.item.tolist() == [0, 1, 2, 1] and data.interactions.row.tolist() == [1, 2, 3, 0]
    assert data.interactions.rating is not None and data.interactions.rating.tolist() == [5, 3, 1, 4]
    assert dict(data.catalog.text) == {
        "title": ("Apple", "Big box", ""),
        "categories": ("Food", "Home > Boxes", ""),
        "colour": ("", "red", ""),
    }
    assert data.catalog.categories == (("Food",), ("Home", "Boxes"), ())
    assert data.catalog.price is not None
    np.testing.assert_array_equal(data.catalog.price, np.array([np.nan, 2.5, np.nan], np.float32))
    assert data.card.counts["items_without_metadata"] == 1 and data.card.absent == {}
    assert {"embeddings/text.npz", "embeddings/vision.npz", "embeddings/audio.npz"} < set(data.card.files)
    with np.load(tmp_path / "mine" / "embeddings" / "text.npz", allow_pickle=False) as saved:
        assert saved["keys"].tolist() == ["b", "a", "z"] and saved["embeddings"].dtype == np.float32
        assert saved["embeddings"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_other_embeddings_give_another_content_hash(files: dict[str, Path], tmp_path: Path) -> None:
    def imported(name: str, scale: float) -> str:
        np.savez(tmp_path / "v.npz", keys=np.array(["a"]), embeddings=np.full((1, 2), scale))
        import_custom(tmp_path / name, files["events.csv"], None, {"vision": tmp_path / "v.npz"})
        return _load(tmp_path / name).content_hash()

    assert imported("one", 1.0) == imported("two", 1.0) != imported("three", 2.0)


def test_every_problem_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(
        "user,item,time,rating\nu1,a,10,5\n,b,10,3\nu1,c,soon,1\nu2,d,-5,nan\nu2,e,1452647382000,2\nu3,a,10,\nu1,a,10,5\nu1,a,9,5\n"
    )
    (tmp_path / "i.csv").write_text("item,title,price\na,A,cheap\na,B,1\nq,Q,\n,R,2\n")
    np.savez(tmp_path / "v.npz", keys=np.array(["a", "a", "x"]), embeddings=np.array([[1.0, np.nan], [0, 0], [1, 1]]))
    np.save(tmp_path / "t.npy", np.ones((3, 2)))
    report = import_custom(
        tmp_path / "mine",
        tmp_path / "e.csv",
        tmp_path / "i.csv",
        {"vision": tmp_path / "v.npz", "text": tmp_path / "t.npy"},
    )
    assert not report.written and not (tmp_path / "mine").exists()
    assert _whats(report, "error") == [
        "user missing",
        "timestamp missing or unreadable",
        "timestamp before 1970",
        "timestamp after the year 5138",
        "rating missing, no number or not finite",
        "item key missing",
        "item keys that repeat",
        "price is no finite number",
        "rows with NaN or infinite values",
        "item keys that repeat",
        "row count differs from the number of items",
    ]
    assert {
        "duplicate rows (the first counts)",
        "repeated (user, item) pairs (the earliest counts)",
        "rows that are all zero",
        "items without vision embedding",
        "items without a row in the items file (they have no text)",
        "items of the items file without interactions (left out)",
        "embeddings of items without interactions (not used)",
    } < set(_whats(report, "warning"))
    text = "\n".join(report.lines())
    assert "row 3: 'soon'" in text and "e.csv" in text and "nothing written" in text and "milliseconds" in text
    assert [p.count for p in report.problems if p.what.startswith("rating missing")] == [2]


def test_missing_columns_are_named_with_those_present(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("who,what\n1,2\n")
    report = import_custom(tmp_path / "m", tmp_path / "e.csv")
    assert "columns missing (user, item, timestamp)" in str(report.problems[0]) and "who, what" in str(report.problems[0])
    (tmp_path / "e.csv").write_text("who,what,when\nx,y,2020-01-02\nx,z,2020-01-03\n")
    chosen = {"user": "who", "item": "what", "timestamp": "when"}
    assert import_custom(tmp_path / "m", tmp_path / "e.csv", columns=chosen).written
    assert _load(tmp_path / "m").interactions.timestamp.tolist() == [1577923200, 1578009600]
    assert set(_load(tmp_path / "m").card.absent) == {"rating", "text", "price", "vision"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
def test_formats_agree(files: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    table = pl.DataFrame({"user": ["1", "2"], "item": ["01", "x"], "timestamp": [5, 6], "rating": [1.0, 2.5]})
    path = tmp_path / f"events{suffix}"
    if suffix == ".parquet":
        table.write_parquet(path)
    elif suffix == ".jsonl":
        table.write_ndjson(path)
    else:
        text = table.write_csv(separator="\t" if suffix == ".tsv" else ",").encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    assert import_custom(tmp_path / "out", path).written
    data = _load(tmp_path / "out")
    assert data.catalog.keys == ("01", "x") and data.interactions.rating is not None
    assert data.interactions.rating.tolist() == [1, 2.5]


def test_files_that_cannot_be_read_are_errors(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot open"):
        import_custom(tmp_path / "m", tmp_path / "absent.csv")
    (tmp_path / "events.xlsx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"format of .*\.csv \.tsv"):
        import_custom(tmp_path / "m", tmp_path / "events.xlsx")
    (tmp_path / "bad.jsonl").write_text('{"user": 1}\n{"user": \n')
    with pytest.raises(InputError, match=r"bad\.jsonl, line 2"):
        read_table(tmp_path / "bad.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "bad.parquet")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="without pickling"):
        import_custom(tmp_path / "m", files["events.csv"], files["items.jsonl.gz"], {"text": tmp_path / "object.npy"})


def test_wrong_calls_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    events = files["events.csv"]
    for wrong in ({"columns": {"usr": "x"}}, {"time_unit": "h"}, {"embeddings": {"../x": events}}):
        with pytest.raises(InputError):
            import_custom(tmp_path / "m", events, **wrong)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="exists"):
        import_custom(tmp_path / "precious", events, overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()
    import_custom(tmp_path / "m", events)
    with pytest.raises(InputError, match="exists"):
        import_custom(tmp_path / "m", events)
    assert import_custom(tmp_path / "m", events, overwrite=True).written
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_damaged_imports_say_import_again(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a folder"):
        Custom(CustomConfig()).load(LocalFiles())
    with pytest.raises(InputError, match="is no imported dataset"):
        _load(tmp_path)
    folder = tmp_path / "m"
    import_custom(folder, files["events.csv"], None, {"vision": files["vision.npz"]})
    assert Custom(CustomConfig(path="m")).load(LocalFiles(tmp_path)).n_users == 2  # relative to a data folder
    (folder / "embeddings" / "vision.npz").unlink()
    with pytest.raises(InputError, match="no file for vision"):
        _load(folder)
    (folder / "interactions.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot read"):
        _load(folder)
    (folder / "schema.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="wanted format 1"):
        _load(folder)


def test_conversions() -> None:
    assert as_keys(pl.Series([1.0, 2.0])).to_list() == ["1", "2"]
    assert as_keys(pl.Series([" a ", "", None])).to_list() == ["a", None, None]
    assert as_seconds(pl.Series(["1000", "2999", "x"]), "ms").to_list() == [1, 2, None]
    assert as_seconds(pl.Series(["never", "ever"]), "s").to_list() == [None, None]
    assert [as_path(v) for v in ("A > B", "A|B", ["A", None, " "], None, "A")] == [
        ["A", "B"],
        ["A", "B"],
        ["A"],
        [],
        ["A"],
    ]
