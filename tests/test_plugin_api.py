"""``sidbench.plugins`` and ``sidbench.testing``: enough for strangers, light to import, used by guides and templates."""

from __future__ import annotations

import ast
import doctest
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sidbench.plugins
import sidbench.testing
from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.plugins.registry import KINDS, ROOT
from sidbench.datasets.synthetic import Synthetic
from sidbench.recommenders.most_popular import MostPopular
from sidbench.testing import parametrize_with_checks, tokenizer_checks
from sidbench.tokenizers.collisions.bucket import Bucket
from sidbench.tokenizers.random import RandomCodes

API = ("sidbench.plugins", "sidbench.testing")


@pytest.mark.parametrize("module", [sidbench.plugins, sidbench.testing])
def test_all_names_exist_once_and_the_docstring_shows_an_example(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    assert all(getattr(module, name) is not None for name in names)
    assert "import" in (module.__doc__ or "")


def test_every_contract_is_there() -> None:
    for kind in KINDS.values():
        assert {kind.base_class, kind.info_class} <= set(sidbench.plugins.__all__)
    assert not set(sidbench.plugins.__all__) & set(sidbench.testing.__all__)


def test_importing_plugins_is_no_heavier_than_torch() -> None:
    code = (
        "import sys, sidbench.plugins as p\n"
        "heavy = {'polars', 'pandas', 'sklearn', 'faiss', 'hydra', 'pydantic', 'pyarrow', 'matplotlib', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert p.index_events.__module__ == 'sidbench.datasets.reading.events' and 'polars' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"):
        sidbench.plugins.Tokeniser  # noqa: B018


def test_the_examples_of_testing_run() -> None:
    assert doctest.testmod(sidbench.testing) == (0, 4) or doctest.testmod(sidbench.testing).failed == 0
    assert doctest.testmod(sidbench.testing).attempted >= 4


def test_the_tokenizer_of_the_docstring_conforms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (sidbench.plugins.__doc__ or "").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('    """'))
    last = next(i for i, line in enumerate(lines) if line.startswith("``bench plugin check"))
    path = tmp_path / "first_letters.py"
    path.write_text(textwrap.dedent("\n".join(lines[first:last])))
    assert invoke(["plugin", "check", str(path)]) == 0, capsys.readouterr().out


def imported(source: str) -> set[str]:
    """Modules of the suite that a source imports."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {n.module or "" if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes}
    return {n for n in names if n.partition(".")[0] == "sidbench"}


def test_templates_and_guides_import_nothing_else() -> None:
    templates = sorted((ROOT / "benchmark" / "plugins" / "scaffold" / "tokenizer").glob("*.py.template"))
    sources = {t.name: t.read_text().replace("$class_name", "Mine").replace("${class_name}", "Mine") for t in templates}
    for guide in sorted((ROOT / "docs").glob("add-a-*.md")):
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)):
            sources[f"{guide.name} {number}"] = block
    assert len(sources) >= 8
    for name, source in sources.items():
        assert imported(source.replace("$name", "mine")) <= set(API), name
    used = set().union(*(imported(s.replace("$name", "mine")) for s in sources.values()))
    assert used == set(API)


@parametrize_with_checks([RandomCodes, MostPopular, Synthetic, Bucket])
def test_every_kind_is_a_source_of_parameters(check: sidbench.testing.PluginCheck) -> None:
    check()


def test_declared_failures_are_strict_and_named() -> None:
    marked = parametrize_with_checks([RandomCodes]).args[1]
    declared = [p for p in marked if p.marks]
    assert [p.id for p in declared] == ["RandomCodes-more_codes_than_items"]
    assert declared[0].marks[0].kwargs["strict"] is True
    assert declared[0].marks[0].kwargs["reason"] == RandomCodes.expected_failures["more codes than items"]


def test_checks_are_callables_for_tests_of_any_kind() -> None:
    from unittest import SkipTest

    checks = {c.name: c for c in tokenizer_checks(RandomCodes)}
    assert checks["determinism"].__name__ == "RandomCodes-determinism"
    checks["determinism"]()
    for name in ("not finite", "more codes than items"):  # one does not apply, one is declared to fail
        with pytest.raises(SkipTest, match=name):
            checks[name]()

    class Silent(RandomCodes):
        expected_failures = {}

    failing = {c.name: c for c in tokenizer_checks(Silent)}["more codes than items"]
    with pytest.raises(sidbench.testing.ConformanceError, match="Silent: more codes than items: accepts"):
        failing()


def test_what_is_no_plugin_is_refused() -> None:
    with pytest.raises(sidbench.testing.ConformanceError, match="int: must extend Tokenizer, Recommender"):
        parametrize_with_checks([int])
