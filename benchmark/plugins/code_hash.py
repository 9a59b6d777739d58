"""Hashes of code: what a plugin does, followed through everything that it reaches, whatever it is called and wherever it is.

The hash of a piece of code covers each definition of this project that the code reaches by name, from module to module,
in the form of ``canonical``. A function that moves to another file, or gets another name, keeps every hash; so does code
that stands in the same file and is not reached.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sidbench.benchmark.plugins.canonical import bound_names, canonical, statements

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sidbench"
MACHINERY = tuple(ROOT / place for place in ("benchmark/plugins", "benchmark/store"))  # keys and files, never numbers
_NAMED = re.compile(r"\0(\d+)\0")  # where a text names a definition, by its number; no source text holds a NUL
ROUNDS = 3  # how far the hash of one definition looks into those it names; each of them is covered by itself, too


@dataclass(frozen=True)
class Symbol:
    """A definition of a module; an empty name stands for the statements that define nothing."""

    path: Path
    name: str


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed file: statements by the name they bind, and what its imports, anywhere in it, bring in.

    imports: local name -> (dotted module, name in it; "" where the module itself is bound).
    """

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Empty for a file that is no Python, whose text counts as it is."""
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ast.Module([], [])

    @property
    def opaque(self) -> bool:
        """Whether the file has text that could not be parsed."""
        return not self.tree.body and bool(self.text.strip())

    @cached_property
    def defined(self) -> dict[str, list[ast.stmt]]:
        found: dict[str, list[ast.stmt]] = {}
        for node in statements(self.tree.body):
            for name in bound_names(node) or {""}:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found[name] = (alias.name if alias.asname else name, "")
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = (node.module or "", alias.name)
        return found


@dataclass(frozen=True, eq=False)
class CodeBase:
    """Source trees by the package name they have; modules outside them are named, not followed."""

    packages: Mapping[str, Path] = field(default_factory=lambda: {PACKAGE: ROOT})
    _modules: dict[Path, Module] = field(default_factory=dict, repr=False)
    _texts: dict[Symbol, tuple[str, list[Symbol]]] = field(default_factory=dict, repr=False)
    _digests: dict[tuple[Symbol, int], str] = field(default_factory=dict, repr=False)

    def module(self, path: Path) -> Module:
        """The file, parsed once. Raises ``OSError`` or ``ValueError`` for one that cannot be read."""
        if path not in self._modules:
            self._modules[path] = Module(path, path.read_text(encoding="utf-8"))
        return self._modules[path]

    def symbols(self, path: Path) -> set[Symbol]:
        """Everything that a file defines, or that is below a folder."""
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        parsed = [self.module(file) for file in files]
        return {Symbol(m.path, name) for m in parsed for name in (m.defined or ([""] if m.opaque else []))}

    def hash(self, roots: Iterable[Symbol]) -> str:
        """SHA-256 over the definitions that ``roots`` reach."""
        return hashlib.sha256("".join(sorted({self.digest(s) for s in self.reached(roots)})).encode()).hexdigest()

    def reached(self, roots: Iterable[Symbol]) -> set[Symbol]:
        """``roots`` and all definitions that they name, directly or not, with the loose statements of their modules."""
        waiting, seen = set(roots), set[Symbol]()
        while waiting:
            symbol = waiting.pop()
            seen.add(symbol)
            loose = {Symbol(symbol.path, "")} if "" in self.module(symbol.path).defined else set()
            waiting |= {*self._written(symbol)[1], *loose} - seen
        return seen

    def digest(self, symbol: Symbol, rounds: int = ROUNDS) -> str:
        """SHA-256 of a definition, in which names of other definitions are replaced by digests of one round less."""
        if not rounds:
            return ""
        if (symbol, rounds) not in self._digests:
            text, named = self._written(symbol)
            names = [f"<{self.digest(other, rounds - 1)}>" for other in named]
            text = _NAMED.sub(lambda found: names[int(found[1])], text)
            self._digests[symbol, rounds] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[symbol, rounds]

    def _written(self, symbol: Symbol) -> tuple[str, list[Symbol]]:
        """The canonical text, in which the definitions that it names are numbered, and these."""
        if symbol in self._texts:
            return self._texts[symbol]
        named: list[Symbol] = []
        module = self.module(symbol.path)

        def resolve(name: str, attribute: str) -> str | None:
            found = self._find(module, name, attribute)
            if not isinstance(found, Symbol):
                return found
            # What errors say, and how results are named and kept, is no part of what code computes.
            if found.name.endswith("Error") or any(found.path.is_relative_to(place) for place in MACHINERY):
                return found.name
            named.append(found)
            return f"\0{len(named) - 1}\0"

        nodes = module.defined.get(symbol.name, ())
        text = module.text if module.opaque else "\n".join(canonical(node, resolve) for node in nodes)
        self._texts[symbol] = text, named
        return self._texts[symbol]

    def _find(self, module: Module, name: str, attribute: str) -> Symbol | str | None:
        """What a name of a module, or an attribute of a module that it imports, stands for.

        A text names something outside the packages; ``None``: nothing that modules define.
        """
        if name in module.defined:
            return None if attribute else Symbol(module.path, name)
        if name not in module.imports:
            return None
        dotted, imported = module.imports[name]
        whole = f"{dotted}.{imported}" if imported else dotted
        path = self._path(whole)
        if path is not None:
            return self._find(self.module(path), attribute, "") if attribute else None
        owner = self._path(dotted)
        if owner is not None:
            return None if attribute else self._find(self.module(owner), imported, "")
        return f"{whole}.{attribute}" if attribute else whole

    def _path(self, dotted: str) -> Path | None:
        package, *parts = dotted.split(".")
        if package not in self.packages:
            return None
        place = self.packages[package].joinpath(*parts)
        return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if parts and p.is_file()), None)


def source_hash(*rooms: str) -> str:
    """SHA-256 over the bytes of every Python file of the given folders of this project: which code was there at all."""
    digest = hashlib.sha256()
    for file in sorted(file for room in rooms for file in (ROOT / room).rglob("*.py")):
        digest.update(f"{file.relative_to(ROOT)}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
