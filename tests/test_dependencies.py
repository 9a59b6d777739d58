"""What the code imports is declared in ``pyproject.toml``, and what is declared is imported; extras load on use."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("benchmark", "datasets", "leaderboards", "recommenders", "tokenizers")
DISTRIBUTIONS = {"PIL": "pillow", "hydra": "hydra-core", "sklearn": "scikit-learn"}  # where the import name is another
# Needed without an import statement.
NAMED = {
    "psycopg2-binary": "SQLAlchemy's driver of postgresql:// storages",
    "pymysql": "SQLAlchemy's driver of mysql:// storages",
}


def _normal(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {_normal(r) for r in PROJECT["dependencies"]}
EXTRAS = {_normal(r) for extra, rs in PROJECT["optional-dependencies"].items() if extra != "test" for r in rs}


def imported(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Distribution of every import of a third party, and whether it runs when the module is loaded."""

    def walk(node: ast.AST, at_load: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                names = [child.module]
            for name in names:
                top = name.partition(".")[0]
                if top != "sidbench" and top not in sys.stdlib_module_names:
                    yield DISTRIBUTIONS.get(top, _normal(top)), at_load
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from walk(child, at_load and not inside and not checking)

    return walk(tree, True)


@pytest.fixture(scope="module")
def found() -> dict[str, list[tuple[str, bool]]]:
    """Distribution -> where it is imported, and whether the import runs when the module is loaded."""
    where: dict[str, list[tuple[str, bool]]] = {}
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            for name, at_load in imported(ast.parse(path.read_text(encoding="utf-8"))):
                where.setdefault(name, []).append((path.relative_to(ROOT).as_posix(), at_load))
    return where


def test_what_is_imported_is_declared(found: dict[str, list[tuple[str, bool]]]) -> None:
    undeclared = {name: places for name, places in found.items() if name not in CORE | EXTRAS}
    # Checks for plugin authors run below their own pytest; the module loads it when its function is called.
    assert set(undeclared.pop("pytest")) == {("benchmark/testing/parametrize.py", False)}
    assert undeclared == {}


def test_what_is_declared_is_imported(found: dict[str, list[tuple[str, bool]]]) -> None:
    assert sorted((CORE | EXTRAS) - found.keys() - NAMED.keys()) == []


def test_exceptions_are_needed(found: dict[str, list[tuple[str, bool]]]) -> None:
    assert sorted(name for name in NAMED if name in found or name not in CORE | EXTRAS) == []


def test_extras_are_imported_where_they_are_used(found: dict[str, list[tuple[str, bool]]]) -> None:
    """A module that imports an extra when it is loaded breaks every command for those who have not installed it."""
    optional = EXTRAS - CORE
    assert [(n, p) for n in sorted(optional & found.keys()) for p, at_load in found[n] if at_load] == []


def test_the_walk_tells_when_an_import_runs() -> None:
    text = "import numpy\nif TYPE_CHECKING: import ray\ndef f(): from sklearn import svm\nclass C: import PIL.Image"
    assert list(imported(ast.parse(text))) == [
        ("numpy", True),
        ("ray", False),
        ("scikit-learn", False),
        ("pillow", True),
    ]
