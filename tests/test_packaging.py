"""The repository root is the namespace ``sidbench`` and hides nobody: Hugging Face packages keep their names."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("benchmark", "datasets", "leaderboards", "recommenders", "tokenizers")


def from_root(*words: str) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("name", ["datasets", "tokenizers"])
def test_hugging_face_packages_win_from_the_root(name: str) -> None:
    """``-c`` and ``-m`` put the root on ``sys.path``; a regular package must win over our namespace portion."""
    code = f"import importlib.util as u; print(u.find_spec({name!r}).origin)"
    origin = Path(from_root("-c", code).strip())
    assert origin.name == "__init__.py" and not origin.is_relative_to(ROOT / name)
    assert f"{name}/__init__.py" in from_root("-m", "timeit", "-n", "1", "-r", "1", "-s", code, "pass")


def test_hugging_face_packages_really_import_from_the_root() -> None:
    assert from_root("-c", "import tokenizers; print(tokenizers.Tokenizer.__module__)").strip() == "tokenizers"


@pytest.mark.parametrize("name", ["datasets", "tokenizers"])
def test_the_two_rooms_stay_namespace_portions(name: str) -> None:
    assert not (ROOT / name / "__init__.py").exists()


def test_every_package_folder_is_declared_and_exists() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = set(settings["tool"]["setuptools"]["packages"])
    found = {f"sidbench.{room}" for room in ROOMS}
    found |= {
        "sidbench." + ".".join(p.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for p in (ROOT / room).rglob("__init__.py")
    }
    assert declared == found


def test_the_citation_names_the_version_and_licence_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = dict(line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines() if ": " in line)
    found = {name: cited[name].strip('"') for name in ("title", "version", "license", "abstract")}
    assert found == {
        "title": "sidbench",
        **{n: project[n] for n in ("version", "license")},
        "abstract": project["description"],
    }


def test_the_import_name_is_sidbench() -> None:
    assert (
        from_root("-c", "import sidbench.datasets.foundation.errors as e; print(e.__name__)").strip()
        == "sidbench.datasets.foundation.errors"
    )
