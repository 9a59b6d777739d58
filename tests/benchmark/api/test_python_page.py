"""The page of the Python API and the notebook run as they stand, each in a home and a folder of its own."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE, NOTEBOOK = ROOT / "docs" / "python-api.md", ROOT / "docs" / "tutorial.ipynb"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_the_page_runs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^```.*$", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 20
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
    assert result.failed == 0, "".join(told)


def test_the_readme_section_runs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## In Python")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    code = code.replace('"quick"', '"smoke"')
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - the project's own page


def cells() -> list[dict[str, Any]]:
    book: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and book["nbformat_minor"] >= 5
    found: list[dict[str, Any]] = book["cells"]
    assert len({cell["id"] for cell in found}) == len(found)
    return found


RUNNER = """
import ast, io, json, sys
import matplotlib
matplotlib.use("Agg")
import linecache
space, outputs = {"__name__": "__main__"}, []
for number, source in enumerate(json.load(open(sys.argv[1]))):
    name = f"<cell {number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    value = None if last is None else eval(compile(last, name, "eval"), space)
    outputs.append(None if value is None else repr(value))
import matplotlib.pyplot as plt
json.dump({"outputs": outputs, "figures": len(plt.get_fignums())}, open(sys.argv[2], "w"))
"""


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its code cells in one process, as a kernel runs them; committed text outputs are what they give."""
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(["".join(cell["source"]) for cell in code]))
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path / "cells.json"), str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SIDBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["figures"] >= 1
    for cell, value in zip(code, found["outputs"], strict=True):
        shown = ["".join(out["data"]["text/plain"]) for out in cell["outputs"] if "text/plain" in out.get("data", {})]
        assert shown in ([], [value]), f"cell {cell['id']} gives\n{value}"
