"""Code fingerprints: a plugin's key follows everything it imports, nothing else, and not its comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidbench.benchmark.plugins import code_hash as fingerprint
from sidbench.benchmark.plugins.code_hash import ROOT, base_of, code_fingerprint, import_closure
from sidbench.benchmark.plugins.sources import plugin_files
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.shuffled import ShuffledConfig


def names(path: Path) -> set[str]:
    return {str(p.relative_to(ROOT)) for p in import_closure(path)}


def test_the_closure_holds_what_is_imported_and_nothing_else() -> None:
    found = names(ROOT / "tokenizers" / "rqvae.py")
    assert {
        "tokenizers/rqvae.py",
        "tokenizers/base.py",
        "tokenizers/blocks/quantisers/vector_quantiser.py",
        "tokenizers/blocks/clustering/kmeans.py",
        "datasets/features/base.py",
    } <= found
    assert not {n for n in found if n.startswith(("benchmark/", "recommenders/", "leaderboards/"))}
    assert "tokenizers/blocks/experts/adaptive_experts.py" not in found and "tokenizers/adasid.py" not in found


def test_imports_inside_functions_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from sidbench.rooms.b import x\n    return x\n")
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "__init__.py").write_text("")
    (tmp_path / "rooms" / "b.py").write_text("import sidbench.rooms.c\nx = 1\n")
    (tmp_path / "rooms" / "c.py").write_text("from sidbench import a\n")  # a circle ends
    (tmp_path / "rooms" / "d.py").write_text("")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    assert {p.name for p in import_closure(tmp_path / "a.py")} == {"a.py", "b.py", "c.py"}


def test_a_strangers_package_comes_along(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    for name in ("__init__", "tokenizer", "helpers"):
        (package / f"{name}.py").write_text("")
    found = import_closure(package / "tokenizer.py")
    assert {p.name for p in found} == {"__init__.py", "tokenizer.py", "helpers.py"}


def test_docstrings_and_comments_do_not_change_the_code(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for folder, text in ((one, "x = 1\n"), (two, '"""Doc."""\n\nx = 1  # why\n'), (other, "x = 2\n")):
        folder.mkdir()
        (folder / "m.py").write_text(text)
    prints = [code_fingerprint([folder / "m.py"]) for folder in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]


def test_a_composite_plugin_follows_the_one_it_runs_and_no_other_of_its_kind() -> None:
    opq, rqvae = ROOT / "tokenizers" / "opq.py", ROOT / "tokenizers" / "rqvae.py"
    composite = plugin_files("tokenizer", "shuffled", "opq")
    assert opq in composite and rqvae not in composite
    assert opq in plugin_files("tokenizer", "actionpiece")  # which imports it
    assert ROOT / "benchmark" / "runtime" / "training.py" in plugin_files("tokenizer", "random")
    assert plugin_files("tokenizer", "random", "opq") == plugin_files("tokenizer", "random")  # wraps nothing
    with pytest.raises(InputError, match="nobody"):
        plugin_files("tokenizer", "shuffled", "nobody")


def test_the_base_is_read_from_settings_and_from_records() -> None:
    assert base_of(ShuffledConfig(base="opq")) == base_of({"base": "opq"}) == "opq"
    assert base_of({}) == base_of(None) == base_of({"base": 3}) == ""
