"""Versions are the identity of known code; code that the lock does not know is identified by its hash as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidbench.benchmark.plugins import identity
from sidbench.benchmark.plugins.identity import plugin_code, plugin_version, unit_versions
from sidbench.benchmark.plugins.lock import Entry, Lock, entry_name, read_lock
from sidbench.benchmark.plugins.names import base_of
from sidbench.benchmark.plugins.registry import KINDS, Plugin, installed
from sidbench.benchmark.plugins.units import UNITS
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.shuffled import ShuffledConfig


def test_known_code_is_its_version() -> None:
    assert plugin_version("tokenizer", "opq") == str(installed().find("tokenizer", "opq").info["version"])
    assert set(unit_versions(*UNITS)) == set(UNITS)
    for unit in UNITS.values():
        assert all(path.exists() for path in unit.paths)


def test_every_plugin_of_the_suite_declares_its_version() -> None:
    for kind in KINDS:
        for plugin in installed().plugins(kind).values():
            if plugin.source == "sidbench" and not plugin.broken:
                assert plugin.path is not None
                assert re.search(r"^    version=\d+,$", plugin.path.read_text(), re.MULTILINE), plugin.path


def test_edited_code_and_another_version_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    name, code = entry_name("tokenizer", "opq"), plugin_code("tokenizer", "opq")
    version = plugin_version("tokenizer", "opq")
    other = {**read_lock().entries, name: Entry(int(version), "0" * 64)}
    monkeypatch.setattr(identity, "read_lock", lambda: Lock(other))
    assert plugin_version("tokenizer", "opq") == f"{version}+{code[:12]}"
    monkeypatch.setattr(identity, "read_lock", lambda: Lock({}))
    assert plugin_version("tokenizer", "opq") == f"{version}+{code[:12]}"


def test_a_composite_plugin_has_the_identity_of_what_it_runs() -> None:
    own, base = plugin_version("tokenizer", "shuffled"), plugin_version("tokenizer", "opq")
    assert plugin_version("tokenizer", "shuffled", "opq") == f"{own}/opq {base}"
    assert plugin_version("tokenizer", "random", "opq") == plugin_version("tokenizer", "random")  # wraps nothing
    assert plugin_code("tokenizer", "shuffled", "opq") != plugin_code("tokenizer", "shuffled", "rqvae")
    with pytest.raises(InputError, match="nobody"):
        plugin_version("tokenizer", "shuffled", "nobody")


def test_a_strangers_package_is_followed_as_a_whole(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    (package / "parts").mkdir(parents=True)
    for name in ("__init__", "parts/__init__"):
        (package / f"{name}.py").write_text("")
    (package / "helpers.py").write_text("x = 1\n")
    (package / "parts" / "tokenizer.py").write_text("class A:\n    pass\n")
    path = package / "parts" / "tokenizer.py"
    code, symbols = identity._code_of(Plugin("tokenizer", "mine", "mine.parts.tokenizer", path=path))
    assert {s.path.name for s in symbols} == {"helpers.py", "tokenizer.py"}
    before = code.hash(symbols)
    (package / "helpers.py").write_text("x = 2\n")
    path.touch()
    identity._foreign.cache_clear()
    code, symbols = identity._code_of(Plugin("tokenizer", "mine", "mine.parts.tokenizer", path=path))
    assert code.hash(symbols) != before


def test_the_base_is_read_from_settings_and_from_records() -> None:
    assert base_of(ShuffledConfig(base="opq")) == base_of({"base": "opq"}) == "opq"
    assert base_of({}) == base_of(None) == base_of({"base": 3}) == ""
