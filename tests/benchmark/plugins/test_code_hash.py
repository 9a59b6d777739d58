"""Hashes of code: they follow what code does through everything it reaches, and neither its words nor its places."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidbench.benchmark.plugins.code_hash import MACHINERY, ROOT, CodeBase
from sidbench.benchmark.plugins.units import UNITS

PLUGIN = '''"""A method."""

from __future__ import annotations

import numpy as np

from pkg.errors import InputError
from pkg.maths.helpers import Scale, distance
from pkg.maths import tables

INFO = Info(title="A method", deviations=("none",), version=1)


class Config:
    """Settings."""

    size: int = setting(8, "number of codes", low=1, high=64)


class Method(Base):
    """Does it."""

    info = INFO
    scales = {"unit": Scale, "other": tables.Other}

    def fit(self, x: np.ndarray) -> None:
        """Fit."""
        if not len(x):
            raise InputError("no rows", got=0, wanted="some")
        self.runtime.warn(f"{len(x)} rows")
        self.codes = distance(x, x) * 2.0 + np.sqrt(x)
'''
HELPERS = '''"""Maths."""


class Scale:
    factor = 1.0


def distance(a: float, b: float) -> float:
    """Distance."""
    return (a - b) ** 2


def unrelated() -> int:
    return 1
'''
FILES = {
    "method.py": PLUGIN,
    "maths/__init__.py": "",
    "maths/helpers.py": HELPERS,
    "maths/tables.py": "class Other:\n    factor = 2.0\n",
    "errors.py": "class InputError(Exception):\n    def __str__(self):\n        return 'one'\n",
}


def hashed(folder: Path, **changed: str) -> str:
    """Hash of the method in a package of ``FILES`` with other texts for some files (``a__b`` for ``a/b.py``)."""
    files = {**FILES, **{f"{name.replace('__', '/')}.py": text for name, text in changed.items()}}
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    code = CodeBase({"pkg": folder})
    return code.hash(code.symbols(folder / "method.py"))


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    "changed",
    [
        {
            "method": replaced(
                PLUGIN,
                ('"""Does it."""', '"""Does it well."""'),
                ("        self.codes", "        # why\n        self.codes"),
            )
        },
        {
            "method": replaced(
                PLUGIN, ('"no rows"', '"there are no rows"'), ('wanted="some"', 'wanted="a row", do="add one"')
            )
        },
        {"method": replaced(PLUGIN, ('warn(f"{len(x)} rows")', 'warn("rows")'))},
        {"method": replaced(PLUGIN, ('deviations=("none",)', 'deviations=("one", "two")'), ("version=1", "version=2"))},
        {"method": replaced(PLUGIN, ('"number of codes", low=1, high=64', '"codes", low=2'))},
        {"method": replaced(PLUGIN, ("x: np.ndarray) -> None", "x)"))},
        {"method": replaced(PLUGIN, ("import numpy as np", "import numpy"), ("np.", "numpy."))},
        {"method": replaced(PLUGIN, ("class Method", "class BetterName"))},
        {"maths__helpers": replaced(HELPERS, ("return 1", "return 2"))},
        {"errors": replaced(FILES["errors.py"], ("one", "two"))},
        {"method": replaced(PLUGIN, ("distance", "gap")), "maths__helpers": replaced(HELPERS, ("def distance", "def gap"))},
        {
            "method": replaced(PLUGIN, ("from pkg.maths.helpers import Scale", "from pkg.elsewhere import Scale")),
            "elsewhere": replaced(HELPERS, ("def unrelated", "def other")),
            "maths__helpers": "",
        },
    ],
    ids=[
        "docstring and comment",
        "error text",
        "warning text",
        "metadata",
        "setting docs",
        "annotations",
        "import alias",
        "renamed class",
        "code not reached",
        "what an error prints",
        "renamed helper",
        "moved helpers",
    ],
)
def test_wording_names_and_places_change_no_hash(tmp_path: Path, changed: dict[str, str]) -> None:
    assert hashed(tmp_path / "one") == hashed(tmp_path / "two", **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": replaced(PLUGIN, ("* 2.0", "* 3.0"))},
        {"method": replaced(PLUGIN, ("setting(8,", "setting(9,"))},
        {"method": replaced(PLUGIN, ("size: int", "size: float"))},
        {"method": replaced(PLUGIN, ("np.sqrt", "np.exp"))},
        {"method": replaced(PLUGIN, ("import numpy as np", "import torch as np"))},
        {"method": replaced(PLUGIN, ("not len(x)", "len(x) > 1"))},
        {"method": replaced(PLUGIN, ('"unit": Scale, "other": tables.Other', '"unit": tables.Other, "other": Scale'))},
        {"maths__helpers": replaced(HELPERS, ("** 2", "** 4"))},
        {"maths__helpers": replaced(HELPERS, ("factor = 1.0", "factor = 0.5"))},
        {"maths__tables": "class Other:\n    factor = 3.0\n"},
        {"maths__helpers": HELPERS + "\nregister(distance)\n"},
    ],
    ids=[
        "constant", "default", "type of a setting", "function", "library", "condition", "swapped classes", "helper",
        "class attribute", "attribute of a module", "loose statement",
    ],
)  # fmt: skip
def test_what_code_does_changes_the_hash(tmp_path: Path, changed: dict[str, str]) -> None:
    assert hashed(tmp_path / "one") != hashed(tmp_path / "two", **changed)


def test_only_what_is_reached_counts() -> None:
    code = CodeBase()
    reached = code.reached(code.symbols(ROOT / "tokenizers" / "rqvae.py"))
    found = {str(symbol.path.relative_to(ROOT)) for symbol in reached}
    assert {
        "tokenizers/rqvae.py",
        "tokenizers/base.py",
        "tokenizers/blocks/quantisers/vector_quantiser.py",
        "tokenizers/blocks/clustering/kmeans.py",
    } <= found
    assert not {name for name in found if name.startswith(("benchmark/", "recommenders/", "leaderboards/"))}
    assert "tokenizers/blocks/experts/adaptive_experts.py" not in found and "tokenizers/adasid.py" not in found


def test_imports_inside_functions_count_and_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from pkg.b import x\n    return x\n")
    (tmp_path / "b.py").write_text("from pkg import c\nx = c.y\n")
    (tmp_path / "c.py").write_text("from pkg.a import f\ny = f\n")
    (tmp_path / "d.py").write_text("z = 1\n")
    code = CodeBase({"pkg": tmp_path})
    assert {s.path.name for s in code.reached(code.symbols(tmp_path / "a.py"))} == {"a.py", "b.py", "c.py"}
    assert code.hash(code.symbols(tmp_path / "a.py"))


def test_equal_code_in_two_files_is_one_code(tmp_path: Path) -> None:
    for name, number in (("one", 1), ("two", 1), ("other", 2)):
        (tmp_path / f"{name}.py").write_text(f"class A:\n    x = {number}\n")
    code = CodeBase()
    prints = [code.hash(code.symbols(tmp_path / f"{name}.py")) for name in ("one", "two", "other")]
    assert prints[0] == prints[1] != prints[2]


def test_a_file_that_is_no_python_counts_by_its_text_and_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    prints = []
    for text in ("def torn(:\n", "def torn(:  # other\n", "def torn(:\n"):
        (tmp_path / "torn.py").write_text(text)
        code = CodeBase({"pkg": tmp_path})
        assert code.hash(code.symbols(tmp_path / "good.py"))
        prints.append(code.hash(code.symbols(tmp_path)))
    assert prints[0] == prints[2] != prints[1]


def test_how_results_are_keyed_and_kept_is_no_part_of_any_unit() -> None:
    code = CodeBase()
    for unit in UNITS.values():
        reached = code.reached(symbol for path in unit.paths for symbol in code.symbols(path))
        assert not [s for s in reached if any(s.path.is_relative_to(place) for place in MACHINERY)]
