"""Lines, records and events: faults carry file, line and next step; nothing partial is used."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.events import EVENT_SCHEMA, check_events, index_events, k_core
from sidbench.datasets.reading.lines import (
    delimited_columns,
    json_columns,
    line_of_row,
    parse_record,
    read_blocks,
    read_lines,
    read_records,
)
from sidbench.datasets.reading.text import TextCleaner

_JSON = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}


def _event_line(user: str = "u", item: str = "i", rating: object = 4.0, time: object = 10) -> str:
    return json.dumps({"user": user, "item": item, "rating": rating, "timestamp": time})


# --- lines ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=("Cs",)), max_size=20), max_size=12),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_blocks_of_any_size_hold_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "lines.txt"
    raw = "\n".join(lines).encode()
    path.write_bytes(raw)
    blocks = list(read_blocks(path, block_bytes=size))
    assert b"".join(block for _, block in blocks) == raw
    number = 1
    for first, block in blocks:
        assert first == number
        number += block.count(b"\n")
    assert list(read_lines(path)) == [(n, t) for n, t in enumerate(lines, start=1) if t.encode().strip()]


def test_line_separators_of_unicode_do_not_cut_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\u2028still one\x0b\r\ntwo", encoding="utf-8", newline="")
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one\u2028still one\x0b"), (2, "two")]


def test_truncated_gzip_names_file_and_line_reached(tmp_path: Path) -> None:
    path = tmp_path / "cut.json.gz"
    text = "".join(_event_line(user=f"{i}-{sha256(bytes([i % 256])).hexdigest()}", time=i) + "\n" for i in range(20000))
    path.write_bytes(gzip.compress(text.encode())[:-5000])
    with pytest.raises(InputError, match=r"cut\.json\.gz, line (\d+): the file breaks off") as caught:
        json_columns(path, _JSON)
    reached = int(str(caught.value).split("line ")[1].split(":")[0])
    assert 15000 < reached <= 20000


def test_gzip_with_wrong_checksum_is_refused(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress((_event_line() + "\n").encode()))
    raw[-8] ^= 0xFF  # CRC-32 field
    (tmp_path / "bad.gz").write_bytes(raw)
    with pytest.raises(InputError, match="breaks off or is damaged"):
        list(read_lines(tmp_path / "bad.gz"))


def test_error_page_saved_as_gz_is_named(tmp_path: Path) -> None:
    (tmp_path / "reviews.json.gz").write_text("<html>404</html>")
    with pytest.raises(InputError, match="is no gzip file"):
        list(read_lines(tmp_path / "reviews.json.gz"))


def test_decompression_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"x\n" * 3_000_000))
    with pytest.raises(InputError, match="too large when decompressed"):
        list(read_lines(tmp_path / "bomb.gz", max_bytes=1_000_000))


def test_endless_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"ok\n" + b"x" * 5000)
    with pytest.raises(InputError, match="line 2: line too long"):
        list(read_blocks(tmp_path / "long.txt", block_bytes=100, max_line_bytes=1000))


def test_bytes_that_are_no_utf8_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("a\n\nné\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt, line 3: not utf-8"):
        list(read_lines(tmp_path / "latin.txt"))
    assert list(read_lines(tmp_path / "latin.txt", encoding="latin-1")) == [(1, "a"), (3, "né")]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**12), 10**12)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_python_literals_and_json_give_the_value_that_was_written(value: Any) -> None:
    record = {"asin": "B0", "value": value}
    assert parse_record(repr(record), Path("f"), 1) == record
    assert parse_record(json.dumps(record), Path("f"), 1) == record


@pytest.mark.parametrize(
    "text",
    [
        "{'a': __import__('os').system('touch hacked')}",
        "{'a': open('x')}",
        "{'a': 1",
        "nonsense",
        "[1, 2]",
        "{'a': NaN}",
        "{'a': " + "(" * 400 + ")" * 400 + "}",
        '{"a": NaN}',
    ],
)
def test_hostile_or_broken_records_are_refused_without_evaluation(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="meta.json, line 7"):
        parse_record(text, Path("meta.json"), 7)
    assert not (tmp_path / "hacked").exists()


def test_literals_have_a_length_bound() -> None:
    with pytest.raises(InputError, match="line 3: record too long"):
        parse_record("{'a': \"" + "x" * (1 << 20) + '"}', Path("meta.json"), 3)


@pytest.mark.parametrize(
    "bad",
    [
        '{"user": "u"',
        "garbage",
        "[1]",
        "null",
        _event_line(rating="4"),
        _event_line(rating=True),
        _event_line(time=1.5),
        _event_line(time="10"),
        '{"user": "u", "rating": NaN}',
        '{"user": "u", "rating": 1e999}',
        '{"user": "a"} {"user": "b"}',
    ],
)
def test_malformed_json_line_is_named_in_any_block(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "reviews.json"
    path.write_text("\n".join([_event_line(), "", _event_line(), bad, _event_line()]))
    with pytest.raises(InputError, match=r"reviews\.json, line 4: "):
        json_columns(path, _JSON)


def test_fast_and_slow_reader_agree(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{i}", "item": "ü\u2028", "rating": i / 2, "timestamp": i, "reviewText": "ignored"} for i in range(50)
    ]
    (tmp_path / "fast.json").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "slow.json").write_text("\n\n".join(repr(row) for row in rows))  # literal lines: polars refuses the block
    fast, slow = json_columns(tmp_path / "fast.json", _JSON), json_columns(tmp_path / "slow.json", _JSON)
    assert fast.equals(slow)
    assert fast.columns == list(_JSON)
    assert [record for _, record in read_records(tmp_path / "slow.json")] == rows


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("\n\n")
    with pytest.raises(InputError, match="holds no record"):
        json_columns(tmp_path / "empty.json", _JSON)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("u,i,4", "3 cells|missing"),
        ("u,i,x,10", "no number"),
        ("u,i,4,10,5", "5 cells"),
        ("u,i,4,1.5", "no number|wrong type"),
        ("u,i,nan,10", "not finite|wrong type"),
    ],
)
def test_malformed_delimited_line_is_named(tmp_path: Path, bad: str, reason: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(f"u,i,4.0,10\n{bad}\nu,j,3.0,11\n")
    with pytest.raises(InputError, match=rf"ratings\.csv, line 2: .*({reason})"):
        check_events(delimited_columns(path, EVENT_SCHEMA, ","), path)


def test_line_of_row_skips_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x\n\n\ny\nz\n")
    assert [line_of_row(tmp_path / "a", row) for row in range(3)] == [1, 4, 5]


# --- events --------------------------------------------------------------------------------------------------------


def _table(rows: list[tuple[str, str, float | None, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(EVENT_SCHEMA), orient="row")


def _brute_k_core(user: list[int], item: list[int], k: int) -> list[bool]:
    alive = [True] * len(user)
    while True:
        for e in range(len(user)):  # one event at a time: another order of removal, same fixed point
            if alive[e] and (
                sum(alive[j] and user[j] == user[e] for j in range(len(user))) < k
                or sum(alive[j] and item[j] == item[e] for j in range(len(user))) < k
            ):
                alive[e] = False
                break
        else:
            return alive


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_k_core_equals_removal_one_by_one(pairs: list[tuple[int, int]], k: int) -> None:
    user, item = [p[0] for p in pairs], [p[1] for p in pairs]
    mask = k_core(np.array(user, int), np.array(item, int), k)
    assert mask.tolist() == _brute_k_core(user, item, k)


def test_index_events_by_hand() -> None:
    events = index_events(
        _table(
            [
                ("b", "y", 1, 30),
                ("b", "x", 2, 10),
                ("a", "z", 3, 20),
                ("b", "z", 4, 10),
                ("a", "x", 5, 20),
                ("b", "y", 1, 30),  # copy of the first line
                ("b", "y", 5, 5),  # same pair, earlier: this one counts
            ]
        )
    )
    x = events.interactions
    assert events.user_keys == ("a", "b") and events.item_keys == ("x", "y", "z")
    assert events.counts["duplicate_lines_dropped"] == 1 and events.counts["duplicate_pairs_dropped"] == 1
    assert x.user.tolist() == [0, 0, 1, 1, 1]
    assert x.item.tolist() == [2, 0, 1, 0, 2]  # ties (time 20 of a, 10 of b) in file order
    assert x.timestamp.tolist() == [20, 20, 5, 10, 10]
    assert x.rating is not None and x.rating.tolist() == [3, 5, 5, 2, 4]
    assert x.row.tolist() == [1, 3, 4, 0, 2]  # rank in the file among the five kept
    assert x.user.dtype == x.item.dtype == np.int32 and x.timestamp.dtype == x.row.dtype == np.int64


def test_numeric_keys_sort_as_numbers() -> None:
    rows = [("10", "9", 1.0, 1), ("9", "10", 1.0, 1), ("9", "100", 1.0, 2)]
    assert index_events(_table(rows), numeric_keys=True).item_keys == ("9", "10", "100")
    assert index_events(_table(rows)).item_keys == ("10", "100", "9")


def test_max_users_and_core_are_counted() -> None:
    rows = [(u, i, None, 1) for u in "abc" for i in "xy"] + [("d", "x", None, 1)]
    events = index_events(_table(rows).drop("rating"), min_events=2, max_users=2)
    assert events.user_keys == ("a", "b")
    assert events.counts["events_dropped_by_k_core"] == 1 and events.counts["events_dropped_by_max_users"] == 2
    assert events.interactions.rating is None
    with pytest.raises(InputError, match="no interaction left"):
        index_events(_table(rows).drop("rating"), min_events=9)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("", "i", 4, 1), "user missing"),
        (("u", None, 4, 1), "item missing"),
        (("u", "i", 4, None), "timestamp missing"),
        (("u", "i", 4, -1), "before 1970"),
        (("u", "i", None, 1), "rating missing"),
        (("u", "i", float("inf"), 1), "not finite"),
    ],
)
def test_bad_event_names_its_line(tmp_path: Path, row: Any, reason: str) -> None:
    path = tmp_path / "r.json"
    path.write_text("first\n\nsecond\n")
    with pytest.raises(InputError, match=rf"r\.json, line 3: .*{reason}"):
        check_events(_table([("u", "i", 3, 1), row]), path)


def test_rating_missing_everywhere_is_absent_not_wrong(tmp_path: Path) -> None:
    assert "rating" not in check_events(_table([("u", "i", None, 1)]), tmp_path / "r.json").columns


def test_text_cleaner_counts_what_it_changes() -> None:
    clean = TextCleaner()
    assert [clean(t) for t in ("a &amp; b", "a  b\n", "plain & simple", "x&#39;s ")] == [
        "a & b",
        "a b",
        "plain & simple",
        "x's",
    ]
    assert clean.counts == {"html_entities_unescaped": 2, "whitespace_repaired": 2}
    assert clean.value(["a", "b"], "here") == "a b" and clean.value(None, "here") == ""
    with pytest.raises(InputError, match="here"):
        clean.value({"a": 1}, "here")
