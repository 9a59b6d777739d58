"""Fingerprint of a class that lives in memory only, as one that was typed into a notebook.

A notebook has no file whose bytes could be hashed, and a file may have been edited since it was imported. So what is
hashed is what runs: source and code objects of the class's functions and of every function of the user's own that they
reach, and the values of the class attributes, globals and closures among it. What belongs to sidbench is taken as it is
for every plugin, by what its files define and reach; the standard library and installed packages are not looked into.
"""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import inspect
import logging
import re
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from sidbench.benchmark.plugins.code_hash import ROOT, CodeBase
from sidbench.datasets.foundation.hashing import hash_arrays

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice, Path, re.Pattern)
_SKIPPED = re.compile(r"__\w+__|_abc_impl")  # what Python puts on classes by itself


class Unknown(Exception):
    """Something that a class depends on has no fingerprint; the message names it."""


def live_fingerprint(cls: type[Any]) -> str:
    """SHA-256 that changes when anything changes that the class runs. Raises ``Unknown`` where that cannot be told."""
    walk = _Walk()
    walk.add(cls, f"class {cls.__name__}")
    code = CodeBase()
    files = code.hash(symbol for file in walk.files for symbol in code.symbols(file))
    return hashlib.sha256(f"{walk.digest.hexdigest()}:{files}".encode()).hexdigest()


class _Walk:
    """Everything reached from a class, each once; ``files``: those of sidbench among it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.files: set[Path] = set()
        self._seen: dict[int, object] = {}  # holds the objects, so that no address is used twice

    def put(self, *words: object) -> None:
        self.digest.update(("|".join(map(repr, words)) + "\n").encode())

    def add(self, value: Any, where: str) -> None:
        if isinstance(value, _PLAIN):
            self.put(type(value).__name__, value)
        elif id(value) in self._seen:
            self.put("seen", list(self._seen).index(id(value)))
        else:
            self._seen[id(value)] = value
            self._object(value, where)

    def _object(self, value: Any, where: str) -> None:
        if isinstance(value, (staticmethod, classmethod, MethodType)):
            self.add(value.__func__, where)
        elif isinstance(value, (property, cached_property, partial)):
            for name in ("fget", "fset", "fdel", "func", "args", "keywords"):
                self.add(getattr(value, name, None), where)
        elif isinstance(value, ModuleType):
            self._module(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, FunctionType):
            self._function(value, where)
        elif isinstance(value, BuiltinFunctionType):
            self.put("builtin", value.__module__, value.__qualname__)
        elif isinstance(value, Mapping):
            for name in sorted(value, key=repr):
                self.add(name, where)
                self.add(value[name], f"{where}[{name!r}]")
        elif isinstance(value, (list, tuple)):
            self.put(type(value).__name__, len(value))
            for part in value:
                self.add(part, where)
        elif isinstance(value, (set, frozenset)):
            self.add(sorted(value, key=repr), where)
        elif isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
            self.put("array", hash_arrays({"": np.asarray(value)}))
        elif isinstance(value, logging.Logger):
            self.put("logger", value.name)
        elif callable(getattr(value, "__wrapped__", None)):  # functools.cache and its kind
            self.add(value.__wrapped__, where)
        elif dataclasses.is_dataclass(value):
            self.add(type(value), where)
            for field in dataclasses.fields(value):
                self.add(getattr(value, field.name), f"{where}.{field.name}")
        elif _belongs_to(getattr(value, "__module__", None)) == "library" and callable(value):
            self.put("library", value.__module__, getattr(value, "__qualname__", type(value).__qualname__))
        else:
            raise Unknown(f"{where} is a {type(value).__name__}, whose content cannot be told")

    def _module(self, module: ModuleType) -> None:
        owner, file = _belongs_to(module.__name__), getattr(module, "__file__", None)
        if owner == "sidbench":
            self._sidbench(module.__name__)
        elif owner == "library" or file is None:
            self.put("module", module.__name__)
        else:
            self.files.add(Path(file))
            for name, value in sorted(vars(module).items()):  # its helpers may stand in further files of the user's
                if isinstance(value, (ModuleType, type, FunctionType)):
                    self.add(value, f"{module.__name__}.{name}")

    def _sidbench(self, module: str) -> None:
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is not None:
            self.files.add(Path(file).resolve())

    def _class(self, cls: type[Any]) -> None:
        owner = _owner(cls)
        self.put("class", cls.__module__, cls.__qualname__)
        if owner == "sidbench":
            self._sidbench(cls.__module__)
        if owner != "own":
            return
        for base in cls.__mro__[1:]:
            self.add(base, f"base class {base.__name__}")
        if dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                defaults = [d for d in (field.default, field.default_factory) if d is not dataclasses.MISSING]
                self.add([field.name, repr(field.type), *defaults, dict(field.metadata)], f"{cls.__name__}.{field.name}")
        for name, value in vars(cls).items():
            inner = inspect.unwrap(value) if isinstance(value, FunctionType) else None
            generated = isinstance(inner, FunctionType) and inner.__code__.co_filename == "<string>"
            if generated and dataclasses.is_dataclass(cls) and name.startswith("__"):
                continue  # its fields say all of it
            if isinstance(value, FunctionType) or not _SKIPPED.fullmatch(name):
                self.put(name)
                self.add(value, f"{cls.__name__}.{name}")

    def _function(self, function: FunctionType, where: str) -> None:
        owner = _owner(function)
        self.put("function", function.__module__, function.__qualname__)
        if owner == "sidbench":
            self._sidbench(function.__module__)
        if owner != "own":
            return
        try:
            self.put(inspect.getsource(function))
        except (OSError, TypeError) as error:
            raise Unknown(f"{where} has no source ({error})") from error
        self._code(function.__code__)
        self.add([function.__defaults__, function.__kwdefaults__], f"defaults of {where}")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                self.add(cell.cell_contents, f"{name} in {where}")
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            self.put(name)
            self.add(function.__globals__[name], f"global {name} in {where}")

    def _code(self, code: CodeType) -> None:
        self.put(code.co_code, code.co_names, code.co_varnames, code.co_flags, code.co_argcount, code.co_kwonlyargcount)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.add(constant, f"a constant of {code.co_name}")


def _names(code: CodeType) -> set[str]:
    """Global names and attributes that a function and those inside it use."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


@cache
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _owner(value: type[Any] | FunctionType) -> str:
    """``_belongs_to`` of a class or function; one made by ``exec`` without a module name claims to be a builtin."""
    made = value.__module__ == "builtins" and getattr(builtins, value.__qualname__, None) is not value
    return "own" if made else _belongs_to(value.__module__)


def _belongs_to(module: str | None) -> str:
    """Whose code a module is: "sidbench", "library" (standard or installed), or the user's "own"."""
    if module is None or module == "__main__":  # a notebook's module may carry the file of the program that runs it
        return "own"
    if module.partition(".")[0] in sys.stdlib_module_names:
        return "library"
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return "library" if module in sys.builtin_module_names else "own"
    path = Path(file).resolve()
    if module.startswith("sidbench.") and path.is_relative_to(ROOT):
        return "sidbench"
    return "library" if any(path.is_relative_to(folder) for folder in _library_folders()) else "own"
