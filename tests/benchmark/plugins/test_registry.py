"""Plugins are found by their files and entry points, without importing them; a broken one breaks only itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sidbench.benchmark.plugins.registry import KINDS, ROOT, Registry, find, installed, load, plugins
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.base import Tokenizer

PLUGIN = '''\
"""Mine: codes by the stars.

More words.
"""

from sidbench.tokenizers.base import TokenizerInfo

INFO = TokenizerInfo(title="Mine", paper="none", year=2024, modalities=("text",), ordered=True)
'''


def rooms(folder: Path, **files: str) -> Registry:
    """A registry over a folder with empty rooms and these files in ``tokenizers``."""
    for kind in KINDS.values():
        (folder / kind.room).mkdir(parents=True, exist_ok=True)
    for stem, source in files.items():
        (folder / "tokenizers" / f"{stem}.py").write_text(source, encoding="utf-8")
    return Registry(folder)


def test_a_file_in_the_room_is_a_plugin_and_base_private_and_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "tokenizers" / "blocks").mkdir(parents=True)
    (tmp_path / "tokenizers" / "blocks" / "shared.py").write_text(PLUGIN)
    found = rooms(tmp_path, mine=PLUGIN, base="x = 1", _private="x = 1").plugins("tokenizer")
    assert list(found) == ["mine"]
    mine = found["mine"]
    assert mine.summary == "Mine: codes by the stars."
    assert mine.title == "Mine"
    assert mine.info["modalities"] == ("text",)
    assert mine.info["control"] is False  # default of TokenizerInfo, read from its source
    assert mine.info["deviations"] == ()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def broken(:\n", "line 1"),
        ('"""Title."""\n', "no `INFO = TokenizerInfo(...)`"),
        ("INFO = 3\n", "line 1: INFO must be a call of TokenizerInfo"),
        ("INFO = DatasetInfo(title='x')\n", "must be a call of TokenizerInfo"),
        (PLUGIN.replace("year=2024", "year=1000 + 1024"), "year of INFO is not a literal"),
        (PLUGIN.replace("year=2024", "yaer=2024"), "no field 'yaer'"),
        (PLUGIN.replace(", ordered=True", ""), "INFO lacks ordered"),
        (PLUGIN.replace('title="Mine"', '"Mine"'), "keyword arguments only"),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_breaks_only_itself(tmp_path: Path, source: str, reason: str) -> None:
    registry = rooms(tmp_path, good=PLUGIN, bad=source)
    found = registry.plugins("tokenizer")
    assert reason in found["bad"].broken
    assert not found["good"].broken
    assert registry.names("tokenizer") == ("good",)
    with pytest.raises(InputError, match="bad.py") as caught:
        registry.find("tokenizer", "bad")
    assert reason in str(caught.value)


def test_a_file_that_is_not_utf8_is_broken_not_fatal(tmp_path: Path) -> None:
    registry = rooms(tmp_path, good=PLUGIN)
    (tmp_path / "tokenizers" / "latin.py").write_bytes(b'"""caf\xe9"""\n')
    assert registry.plugins("tokenizer")["latin"].broken
    assert registry.names("tokenizer") == ("good",)


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean 'adasid'"):
        find("tokenizer", "adasit")
    with pytest.raises(InputError, match="unknown kind of plugin.*did you mean 'tokenizer'"):
        plugins("tokeniser")


def test_datasets_show_dashes_and_both_spellings_are_found() -> None:
    assert "ml-100k" in plugins("dataset")
    assert find("dataset", "ml_100k") is find("dataset", "ml-100k")
    assert find("dataset", "ml-100k").path == ROOT / "datasets" / "ml_100k.py"


def test_every_plugin_of_the_tree_is_sound_and_loads_its_single_public_class() -> None:
    for kind in KINDS:
        assert plugins(kind), kind
        for name, plugin in plugins(kind).items():
            assert not plugin.broken, plugin
            loaded = load(kind, name)
            assert loaded.__module__ == plugin.module
            assert {f: getattr(loaded.info, f) for f in plugin.info} == dict(plugin.info)


def test_every_plugin_with_a_paper_says_where_it_is_and_controls_have_no_year() -> None:
    for kind in KINDS:
        for name, plugin in plugins(kind).items():
            info = plugin.info
            paper = str(info.get("paper") or info["source"] if kind == "collisions" else info.get("paper", ""))
            if "arXiv" in paper or (info.get("year") is not None):
                assert info["url"].startswith("https://") and info["bibtex"].startswith("@"), plugin.path
            for number in re.findall(r"arxiv.org/abs/([0-9.]+)", info["url"]):
                assert f"eprint={{{number}}}" in info["bibtex"], plugin.path
                assert kind == "dataset" or number in paper or name in ("random", "item_id", "mbgen", "bucket"), plugin.path
            if info["bibtex"]:
                assert "title={" in info["bibtex"] and info["bibtex"].count("{") == info["bibtex"].count("}"), plugin.path
            if info.get("control"):
                assert info["year"] is None, plugin.path
            elif info.get("year") is not None:
                assert f"year={{{info['year']}}}" in info["bibtex"], plugin.path


def test_every_plugin_of_the_tree_states_its_version() -> None:
    """The default serves third parties; in the tree a reader of the file sees the number that he must raise."""
    for kind in KINDS.values():
        for plugin in plugins(kind.name).values():
            assert plugin.path is not None
            calls = [node for node in ast.walk(ast.parse(plugin.path.read_text())) if isinstance(node, ast.Call)]
            made = [c for c in calls if getattr(c.func, "id", "") == kind.info_class]
            assert [k.arg for k in made[0].keywords].count("version") == 1, plugin.path
            assert plugin.info["version"] >= 1


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed third-party distribution with one good plugin, one in a missing module, one with a taken name."""
    package = tmp_path / "stranger"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('listing must not import me')\n")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "plugin.py").write_text(PLUGIN)
    info = tmp_path / "stranger_codes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-codes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        textwrap.dedent("""\
        [sidbench.tokenizers]
        stars = stranger.deep.plugin:Stars
        ghost = stranger.nowhere:Ghost
        nameless = stranger.deep.plugin
        adasid = stranger.deep.plugin:Stars
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_entry_points_are_found_without_importing_their_package(stranger: Path) -> None:
    registry = Registry()
    found = registry.plugins("tokenizer")
    assert found["stars"].title == "Mine"
    assert found["stars"].source == "stranger-codes"
    assert found["stars"].path == stranger / "deep" / "plugin.py"
    assert "no source file" in found["ghost"].broken
    assert "must look like pkg.module:Class" in found["nameless"].broken
    assert "taken by" in found["adasid@stranger-codes"].broken
    assert found["adasid"].source == "sidbench"
    assert "stranger" not in sys.modules
    with pytest.raises(InputError, match="'stars'.*plugin.py.*RuntimeError: listing must not import me"):
        registry.load("tokenizer", "stars")


def test_an_entry_point_names_its_class(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stranger / "__init__.py").write_text("")
    (stranger / "deep" / "plugin.py").write_text(PLUGIN + "from sidbench.tokenizers.random import RandomCodes as Stars\n")
    for name in [m for m in sys.modules if m.partition(".")[0] == "stranger"]:
        monkeypatch.delitem(sys.modules, name)
    assert issubclass(Registry().load("tokenizer", "stars"), Tokenizer)
    for name in [m for m in sys.modules if m.partition(".")[0] == "stranger"]:
        sys.modules.pop(name)


def copied_tree(folder: Path) -> Path:
    """A second installation of this package, importable before the first one through ``PYTHONPATH``."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for room in ("benchmark", *(k.room for k in KINDS.values()), "leaderboards"):
        shutil.copytree(ROOT / room, folder / "sidbench" / room, ignore=ignore, dirs_exist_ok=True)
    return folder


def test_a_dropped_in_file_is_listed_and_loaded_with_nothing_else_touched(tmp_path: Path) -> None:
    tree = copied_tree(tmp_path)
    source = (ROOT / "tokenizers" / "random.py").read_text()
    (tree / "sidbench" / "tokenizers" / "dropped.py").write_text(source)
    (tree / "sidbench" / "tokenizers" / "two.py").write_text(
        source
        + textwrap.dedent("""
        class Another(RandomCodes):
            pass
        """)
    )
    (tree / "sidbench" / "tokenizers" / "raises.py").write_text(PLUGIN + "import nowhere_to_be_found\n")
    code = textwrap.dedent("""
        from sidbench.benchmark.plugins.registry import ROOT, load, plugins
        from sidbench.datasets.foundation.errors import InputError
        print(ROOT)
        print("dropped" in plugins("tokenizer"), load("tokenizer", "dropped").__module__)
        for name in ("two", "raises"):
            try:
                load("tokenizer", name)
            except InputError as error:
                print(error)
        """)
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, cwd=tmp_path
    )
    root, dropped, two, raises = done.stdout.splitlines()
    assert root == str(tree / "sidbench")
    assert dropped == "True sidbench.tokenizers.dropped"
    assert "'two'" in two and "one public subclass" in two
    assert "'raises'" in raises and "No module named 'nowhere_to_be_found'" in raises and "raises.py" in raises


def test_controls_are_those_that_say_so_and_only_of_the_suite(tmp_path: Path, stranger: Path) -> None:
    assert set(installed().controls()) == {"category_prefix", "hash", "item_id", "popularity", "random", "shuffled"}
    plain = PLUGIN.replace("ordered=True", "ordered=True, control=True")
    (stranger / "deep" / "plugin.py").write_text(plain)
    assert rooms(tmp_path / "mine", mine=plain, other=PLUGIN).controls() == ("mine",)


def test_discovery_happens_once_a_process() -> None:
    assert installed() is installed()
    assert installed().plugins("tokenizer") is installed().plugins("tokenizer")
