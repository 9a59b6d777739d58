"""``import sidbench``: light, lazy, and described to type checkers by a stub that says the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sidbench
from sidbench.benchmark.cli.app import invoke

ROOT = Path(sidbench.__file__).resolve().parent
HEAVY = ("torch", "numpy", "pandas", "polars", "scipy", "hydra", "pydantic", "typer", "rich", "importlib.metadata")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent).stdout


def loaded_after(code: str) -> set[str]:
    return set(python(f"{code}\nimport sys; print(*(m for m in {HEAVY!r} if m in sys.modules))").split())


def test_the_import_is_light() -> None:
    assert loaded_after("import sidbench as sb; dir(sb)") == set()


def test_listing_and_boards_need_no_torch() -> None:
    code = (
        "import sidbench as sb; sb.list_tokenizers(); sb.load_board('beauty').to_frame(); sb.results('/nowhere'); sb.compare"
    )
    assert not loaded_after(code) & {"torch", "hydra"}


def stub() -> dict[str, str]:
    """Name -> module of every line of the stub, which names each of them twice so that it is exported."""
    found = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            (alias,) = node.names
            assert alias.asname == alias.name
            found[alias.name] = str(node.module)
        else:
            assert isinstance(node, ast.AnnAssign) and ast.unparse(node) == "__version__: str"
    return found


def test_stub_and_table_name_the_same_modules() -> None:
    assert stub() == {name: f"sidbench.{module}" for name, module in sidbench._EXPORTS.items()}
    assert list(sidbench._EXPORTS) == sorted(sidbench._EXPORTS)
    assert set(sidbench.__all__) == {*stub(), "__version__"} <= set(dir(sidbench))


@pytest.mark.parametrize("name", sorted(sidbench._EXPORTS))
def test_every_name_is_defined_there_typed_and_documented(name: str) -> None:
    value: Any = getattr(sidbench, name)
    module = importlib.import_module(f"sidbench.{sidbench._EXPORTS[name]}")
    assert value is getattr(module, name) and value.__module__ == module.__name__
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        hints = inspect.signature(value)
        untyped = [p.name for p in hints.parameters.values() if p.annotation is p.empty]
        assert not untyped and hints.return_annotation is not hints.empty


def test_no_name_hides_a_room() -> None:
    """``sidbench.datasets`` is a package, so no function may be called so."""
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir()} | {p.stem for p in ROOT.glob("*.py")}
    assert not rooms & {*sidbench._EXPORTS}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tokenzier'"):
        sidbench.tokenzier  # noqa: B018 - the access is the test
    assert not hasattr(sidbench, "torch")


def test_the_command_line_has_the_same_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"sidbench {sidbench.__version__}\n"
