"""Fingerprints of code: a stage's key changes when the code that computes it changes, and not when comments do."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sidbench"


class _DropDocstrings(ast.NodeTransformer):
    def _strip(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        body = getattr(node, "body", [])
        if (
            body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:]  # type: ignore[attr-defined]
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _strip


@cache
def _file_digest(path: Path, size: int, modified: int) -> str:
    source = path.read_text(encoding="utf-8")
    try:
        tree: ast.AST = _DropDocstrings().visit(ast.parse(source))
    except SyntaxError:
        return hashlib.sha256(source.encode()).hexdigest()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def code_fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over the syntax trees of Python files and of all files in given folders, docstrings left out."""
    files: set[Path] = set()
    for path in paths:
        files.update(path.rglob("*.py") if path.is_dir() else [path])
    digest = hashlib.sha256()
    for path in sorted(files):
        stat = path.stat()
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        digest.update(f"{name}:{_file_digest(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@cache
def _imports(path: Path, size: int, modified: int) -> frozenset[Path]:
    """Files of this project that a file imports, anywhere in its text."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found: set[Path] = set()
    for name in names:
        package, *parts = name.split(".")
        if package == PACKAGE and parts:
            module = ROOT.joinpath(*parts)
            found.update(p for p in (module.with_suffix(".py"), module / "__init__.py") if p.is_file())
    return frozenset(found)


def import_closure(path: Path) -> frozenset[Path]:
    """A file and every file of this project that it imports, directly or not.

    A file outside this project that belongs to a package brings the Python files of that package's folder along.
    """
    waiting = {path}
    if not path.is_relative_to(ROOT) and (path.parent / "__init__.py").is_file():
        waiting.update(path.parent.rglob("*.py"))
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        stat = file.stat()
        waiting |= _imports(file, stat.st_size, stat.st_mtime_ns) - seen
    return frozenset(seen)


def room_code(*names: str) -> str:
    """Fingerprint of files or folders named relative to the package root ("tokenizers/blocks")."""
    return code_fingerprint(ROOT / name for name in names)


def base_of(config: object) -> str:
    """The plugin that settings (a dataclass, or its mapping on a record) name as their ``base``; empty without one."""
    named = config.get("base", "") if isinstance(config, Mapping) else getattr(config, "base", "")
    return named if isinstance(named, str) else ""
