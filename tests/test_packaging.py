"""The repository root is the package ``sidbench`` and hides nobody: Hugging Face packages keep their names."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import sidbench as sb

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
    found = {"sidbench", *(f"sidbench.{room}" for room in ROOMS)}
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


@pytest.mark.slow
def test_the_wheel_is_importable_typed_and_whole(tmp_path: Path) -> None:
    """From a copy, so that the build leaves nothing here; unpacked elsewhere, ``import sidbench`` finds every part."""
    source, target = tmp_path / "source", tmp_path / "unpacked"
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, cwd=ROOT, text=True).stdout
    for name in listed.split("\0"):
        if name and not name.startswith(("leaderboards/studies/", "tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = ["wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    at_root = {p.name for p in (target / "sidbench").iterdir() if p.is_file()}
    assert at_root == {"py.typed", "__init__.pyi", *(p.name for p in ROOT.glob("*.py"))}
    assert not (target / "sidbench" / "tests").exists()
    rows = "len(sb.load_board('beauty').to_frame())"
    code = f"import sidbench as sb; print(sb.__file__, sb.list_tokenizers().index[0], sb.tokenizer('opq').name, {rows})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=target, env={"PYTHONPATH": str(target)}
    ).stdout.split()
    assert found == [
        str(target / "sidbench" / "__init__.py"),
        "actionpiece",
        "opq",
        str(len(sb.load_board("beauty").to_frame())),
    ]
    assert not list((target / "sidbench" / "leaderboards" / "boards").rglob("record.json"))
