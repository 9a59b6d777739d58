"""Inputs that once broke a parser, found by fuzzing or by reading: each must be read or refused, as said beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from accelerate import Accelerator

from sidbench.benchmark.config.compose import compose_run
from sidbench.benchmark.config.presets import read_preset
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.plugins.registry import read_plugin
from sidbench.benchmark.runtime.reporter import Notes, Reporter
from sidbench.benchmark.runtime.training import Training
from sidbench.datasets.amazon.metadata import read_metadata
from sidbench.datasets.amazon.reviews import read_ratings
from sidbench.datasets.custom import Custom, CustomConfig
from sidbench.datasets.features.precomputed import read_precomputed
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.ml_100k import MovieLens100K, MovieLens100KConfig
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.reading.parquet import read_parquet
from sidbench.tokenizers.sid_tables.files import read_table

GOOD = b"u1,B1,5.0,1000000000\nu1,B2,4.0,1000000001\n"


@pytest.mark.parametrize("blank", [b"\n\n\n", b"\r\n", b" \t\n", b"\t", b"\n\x0b\n"])
def test_blank_lines_hold_no_rating(blank: bytes, tmp_path: Path) -> None:
    """polars took them for rows of missing cells, whose line nobody could name: an IndexError."""
    path = tmp_path / "r.csv"
    for data in (
        GOOD + blank,
        blank + GOOD if blank.endswith(b"\n") else GOOD,
        GOOD.replace(b"\nu", b"\n" + blank.strip(b"\n") + b"\nu"),
    ):
        path.write_bytes(data)
        assert read_ratings(path)["timestamp"].to_list() == [10**9, 10**9 + 1]


def test_a_short_line_is_named_by_its_number_behind_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"\nu1,B1,5.0,1000000000\n\nu2\x01B3,1.0,1000000002\n\n\n")
    with pytest.raises(InputError, match="line 4"):
        read_ratings(path)


def test_liberties_of_python_s_numbers_are_refused(tmp_path: Path) -> None:
    """``int`` reads 1_000 and digits of other alphabets; a line that polars refused came out as another number."""
    path = tmp_path / "r.csv"
    for cell in ("1_000", "１２", "1000000000_0"):
        path.write_text(f"u1,B1,5.0,{cell}\n", encoding="utf-8")
        with pytest.raises(InputError, match="no number"):
            read_ratings(path)


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    """A title is repaired and counted, since it could not be written to the cache; a key of a SID table is refused."""
    meta = tmp_path / "meta.json"
    meta.write_text(
        "{\"asin\": \"B1\", \"title\": \"a\\ud800b \\ud83d\\ude00\"}\n{'asin': 'B2', 'title': u'\\ud83d\\ude00'}\n"
    )
    found = read_metadata(meta, ("B1", "B2"))
    assert found.catalog.text["title"] == ("a\ufffdb \U0001f600", "\U0001f600")
    assert found.counts["half_characters_replaced"] == 2
    "".join(found.catalog.text["title"]).encode()
    table = tmp_path / "t.json"
    table.write_text('{"\\ud800": [1], "b": [2]}')
    with pytest.raises(InputError, match="no text"):
        read_table(table)


@pytest.mark.parametrize("price", ["1" + "0" * 400, "-1", "1e300", "True"])
def test_a_price_beyond_every_float(price: str, tmp_path: Path) -> None:
    """``numpy.isfinite`` raises TypeError for a whole number that no float holds."""
    path = tmp_path / "meta.json"
    path.write_text(f"{{'asin': 'B1', 'price': {price}}}\n")
    with pytest.raises(InputError, match="number of dollars"):
        read_metadata(path, ("B1",))


@pytest.mark.parametrize("line", ["Action|²", "Action|999999999999", "Action|-1"])
def test_genre_numbers_are_small_and_ascii(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "²" is a digit to ``str.isdigit`` and none to ``int``; a huge number asked for a list of that length."""
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")
    (tmp_path / "u.data").write_text("1\t9\t3\t50\n")
    (tmp_path / "u.item").write_text("9|A|||x|1\n")
    (tmp_path / "u.genre").write_text(line + "\n", encoding="latin-1")
    with pytest.raises(InputError, match="no genre"):
        MovieLens100K(MovieLens100KConfig()).load(LocalFiles(tmp_path, {}))


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "a = " + "9" * 5000, "a.b.c = 1\n" * 2, "[" * 3000])
def test_toml_that_its_parser_cannot_bear(text: str, tmp_path: Path) -> None:
    """``tomllib`` recurses for every bracket and lets ``int`` complain about long numbers."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="TOML"):
        read_preset(path)


@pytest.mark.parametrize(
    "text", ["tokenizer.codebook_size=" + "[" * 3000, "tokenizer.codebook_size=" + "f(" * 300, "\udcff"]
)
def test_settings_that_hydra_s_grammar_cannot_bear(text: str) -> None:
    with pytest.raises(InputError):
        compose_run(RunConfig(tokenizer="rqkmeans", recommenders=()), [text])


@pytest.mark.parametrize(
    "change",
    [
        {"counters": ["1", 0, 0, 0, 0]},
        {"counters": [1]},
        {"counters": None},
        {"log": {"steps": "many"}},
        {"log": [1]},
        {"done": "no"},
        {"best_value": "high"},
        {"log": {"unknown": 1}},
        {"signature": 3},
    ],
)
def test_a_checkpoint_with_other_entries_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    def training(reporter: Reporter) -> Training:
        model = torch.nn.Linear(2, 1)
        plan = TrainingPlan(
            "p", model, 1, 1, lambda epoch, index: torch.ones(3, 2), lambda batch, step: model(batch).mean(), Rng(0)
        )
        return Training(plan, Accelerator(cpu=True), reporter, path)

    path = tmp_path / "p.safetensors"
    training(Reporter()).run()
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        plain = json.loads(handle.metadata()["plain"])
    save_file(load_file(path), path, metadata={"plain": json.dumps({**plain, **change})})
    with pytest.raises(InputError, match="delete this file"):
        training(Reporter()).restore()
    path.write_bytes(b"torn")
    reporter = Notes()
    training(reporter).restore()
    assert "started anew" in reporter.warnings[0]


def test_types_that_polars_panics_at_or_no_item_file_has(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"key": pa.array([b"a", b"b"], pa.binary()), "e": [1.0, 2.0]}), path)
    with pytest.raises(InputError, match="values of type binary"):
        read_parquet(path)
    for column in ([True, False], [[1], [2]]):
        pl.DataFrame({"key": column, "e": [1.0, 2.0]}).write_parquet(path)
        with pytest.raises(InputError, match="texts or whole numbers"):
            read_precomputed(path, ("a", "b"), "text")


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", keys=np.array([b"\xff", b"b"]), embeddings=np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match="UTF-8"):
        read_precomputed(tmp_path / "e.npz", ("a", "b"), "text")


def test_texts_of_code_points_that_are_no_characters(tmp_path: Path) -> None:
    """numpy keeps any 32-bit number as a character; ``tolist`` then raises SystemError."""
    for point, order in ((0x99000042, "<"), (0xD800, "<"), (0x110000, ">")):
        keys = np.frombuffer(np.array([point, 66], f"{order}u4").tobytes(), f"{order}U1")
        np.savez(tmp_path / "e.npz", keys=keys, embeddings=np.ones((2, 3), np.float32), codes=np.ones((2, 1), np.int32))
        for read in (lambda path: read_precomputed(path, ("a", "B"), "text"), read_table):
            with pytest.raises(InputError, match="no characters"):
                read(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", keys=np.array(["a", "\U0010ffff"], ">U1"), codes=np.ones((2, 1), np.int32))
    assert read_table(tmp_path / "e.npz").keys == ("a", "\U0010ffff")


@pytest.mark.parametrize("text", ["x = " + "[" * 3000, "x = " + "-" * 3000 + "1", "(" * 3000, "x = 1" + "+1" * 20_000])
def test_a_plugin_that_python_s_parser_cannot_bear_breaks_only_itself(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert read_plugin("tokenizer", tmp_path / "mine.py").broken


def test_an_items_file_of_other_types(tmp_path: Path) -> None:
    pl.DataFrame({"user": ["u"], "item": ["B1"], "timestamp": [1]}).write_parquet(tmp_path / "interactions.parquet")
    (tmp_path / "schema.json").write_text('{"format": 1, "embeddings": {}, "warnings": []}')
    for columns in ({"item": ["B1"], "title": [3]}, {"item": ["B1"], "categories": ["A"]}, {"item": ["B1"], "price": ["9"]}):
        pl.DataFrame(columns).write_parquet(tmp_path / "items.parquet")
        with pytest.raises(InputError, match=r"columns of .*items\.parquet"):
            Custom(CustomConfig(path=str(tmp_path))).load(LocalFiles(None, {}))


def test_a_wildcard_in_a_name_means_itself(tmp_path: Path) -> None:
    """polars would read every file that the name matches."""
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "x1.parquet")
    with pytest.raises(InputError, match="cannot read"):
        read_parquet(tmp_path / "x*.parquet")
    pl.DataFrame({"a": [2]}).write_parquet(tmp_path / "x[1].parquet")
    assert read_parquet(tmp_path / "x[1].parquet")["a"].to_list() == [2]


FLIP = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.parquet import read_parquet
from sidbench.tokenizers.sid_tables.files import read_table
path = Path(sys.argv[1])
pq.write_table(pa.table({"item": ["a", "b"], "c0": [1, 2]}), path, use_dictionary=False, compression="none")
whole, refused = path.read_bytes(), 0
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for place in range(footer, len(whole)):
    data = bytearray(whole)
    data[place] ^= 8
    path.write_bytes(data)
    for read in (read_parquet, read_table):
        try:
            read(path)
        except InputError:
            refused += 1
print(refused)
"""


def test_no_flipped_bit_of_a_parquet_footer_ends_the_process(tmp_path: Path) -> None:
    """pyarrow's ``ColumnChunkMetaData`` throws through C++ that nobody catches: abort."""
    done = subprocess.run(
        [sys.executable, "-c", FLIP, str(tmp_path / "t.parquet")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 20
