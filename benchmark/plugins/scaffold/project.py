"""Writes a new plugin package from the templates beside this file."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import sys
from pathlib import Path
from string import Template

from sidbench.benchmark.plugins.registry import Registry, installed
from sidbench.datasets.foundation.errors import InputError

TEMPLATES = Path(__file__).resolve().parent / "tokenizer"
FILES = {
    "pyproject.toml": "pyproject.toml.template",
    "README.md": "README.md.template",
    "src/{name}/__init__.py": "__init__.py.template",
    "src/{name}/tokenizer.py": "tokenizer.py.template",
    "tests/test_conformance.py": "test_conformance.py.template",
}
RESERVED = ("all", "controls", "none", "sidbench", "tokenizer")


def new_project(name: str, out: Path, registry: Registry | None = None) -> list[Path]:
    """Write the package ``<out>/<name>`` with a first working tokenizer; returns its files.

    The folder appears whole or not at all. Raises ``InputError`` for a name that is no lower-case identifier, that
    another plugin or module has, and when the folder exists.
    """
    folder = out / name
    _check_name(name, registry or installed())
    if folder.exists() or folder.is_symlink():
        raise InputError(
            f"folder {folder}",
            got="it exists",
            wanted="a new folder; nothing is overwritten",
            do="choose another name, or another place with --out",
        )
    _check_import_name(name)
    values = {
        "name": name,
        "class_name": class_name(name),
        "distribution": name.replace("_", "-"),
    }
    temporary = out / f".{name}.{os.getpid()}.tmp"
    written = []
    try:
        for target, template in FILES.items():
            relative = target.format(name=name)
            path = temporary / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values), encoding="utf-8"
            )
            written.append(folder / relative)
        temporary.rename(folder)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}",
            got=f"{type(error).__name__}: {error}",
            wanted="a writable folder",
            do="choose another place with --out",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


def class_name(name: str) -> str:
    """``my_tokenizer`` as ``MyTokenizer``."""
    return "".join(part.capitalize() for part in name.split("_"))


def _check_name(name: str, registry: Registry) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise InputError(
            "name of the tokenizer",
            got=repr(name),
            do="for example my_tokenizer",
            wanted="a Python name of lower-case letters, digits and single underscores",
        )
    if name in RESERVED:
        raise InputError(
            "name of the tokenizer",
            got=repr(name),
            wanted=f"none of {', '.join(RESERVED)}",
            do="these words mean something else; choose another name",
        )
    taken = {n.replace("-", "_"): p for n, p in registry.plugins("tokenizer").items()}
    if name in taken:
        raise InputError(
            "name of the tokenizer",
            got=repr(name),
            do="choose another name",
            wanted=f"one that is free; {taken[name].path or taken[name].source} has it",
        )


def _check_import_name(name: str) -> None:
    """A package of this name would hide a module, or be hidden by it."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if name in sys.modules or name in sys.stdlib_module_names or (spec is not None and spec.origin is not None):
        where = spec.origin if spec is not None else "this Python"
        raise InputError(
            "name of the tokenizer",
            got=repr(name),
            do="choose another name",
            wanted=f"a name that no installed module has; {where} has it",
        )
