"""What a result depends on besides settings and data: the declared versions of plugins and shared units.

A version is a promise of its author: equal versions give equal numbers. For code whose hash is the one in the lock file
the version alone is the identity, so that moving a file or rewording an error changes no key. Code that the lock does not
know (of a stranger's package, or edited since) is identified by its hash as well: nothing that was computed by other code
is taken for its result. Imports no torch: listings and tables ask too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sidbench.benchmark.plugins.code_hash import PACKAGE, ROOT, CodeBase, Symbol
from sidbench.benchmark.plugins.lock import entry_name, read_lock
from sidbench.benchmark.plugins.registry import Plugin, installed
from sidbench.benchmark.plugins.units import UNITS

_SHOWN = 12  # digits of a hash in a version


@dataclass(frozen=True)
class Code:
    """The code of a plugin, for records. version: what keys call it. hash: what it does."""

    version: str
    hash: str


def code_of(kind: str, name: str, base: str = "") -> Code:
    """The installed code of a plugin. Raises ``InputError`` for one that is not installed."""
    return Code(plugin_version(kind, name, base), plugin_code(kind, name, base))


def plugin_version(kind: str, name: str, base: str = "") -> str:
    """The identity of a plugin's code: "2", or "2+<hash>" where the lock file does not hold its code.

    base: of a composite plugin, the one of its kind that its settings make it run: "2/opq 1". Raises ``InputError`` for a
    plugin that is not installed.
    """
    plugin = installed().find(kind, name)
    own = _version(entry_name(kind, plugin.name), int(plugin.info["version"]), plugin_code(kind, name))
    inner = base if base and plugin.info.get("composite", False) else ""
    return f"{own}/{inner} {plugin_version(kind, inner)}" if inner else own


def plugin_code(kind: str, name: str, base: str = "") -> str:
    """SHA-256 of what a plugin's code does, and the code of the ``base`` that a composite one runs."""
    plugin = installed().find(kind, name)
    if plugin.live is not None:
        return plugin.fingerprint
    code, roots = _code_of(plugin)
    if base and plugin.info.get("composite", False):
        roots = roots | _code_of(installed().find(kind, base))[1]
    return code.hash(roots)


def unit_version(name: str) -> str:
    """The identity of a shared unit's code, in the form of ``plugin_version``."""
    return _version(entry_name("unit", name), UNITS[name].version, unit_code(name))


def unit_versions(*names: str) -> dict[str, str]:
    """Unit -> ``unit_version``, as an entry of keys."""
    return {name: unit_version(name) for name in names}


@cache
def unit_code(name: str) -> str:
    """SHA-256 of what a shared unit's code does."""
    return _in_tree().hash(set().union(*(_in_tree().symbols(path) for path in UNITS[name].paths)))


def _version(entry: str, version: int, code: str) -> str:
    locked = read_lock().entries.get(entry)
    known = locked is not None and (locked.version, locked.code) == (version, code)
    return str(version) if known else f"{version}+{code[:_SHOWN]}"


@cache
def _in_tree() -> CodeBase:
    return CodeBase()


def _code_of(plugin: Plugin) -> tuple[CodeBase, set[Symbol]]:
    """The code base of a plugin and what it defines there: its file or, in a package of its own, the whole package."""
    path = plugin.path
    if path is None:  # cannot happen: a plugin without a source is broken, and the registry refuses it
        raise FileNotFoundError(f"{plugin.kind} {plugin.name} has no source")
    if path.is_relative_to(ROOT):
        return _in_tree(), _in_tree().symbols(path)
    return _foreign(path, path.stat().st_mtime_ns)


@cache
def _foreign(path: Path, modified: int) -> tuple[CodeBase, set[Symbol]]:
    """A stranger's file, with the Python files of the package that it belongs to."""
    top = path.parent
    if not (top / "__init__.py").is_file():
        code = CodeBase()
        return code, code.symbols(path)
    while (top.parent / "__init__.py").is_file():
        top = top.parent
    code = CodeBase({PACKAGE: ROOT, top.name: top})
    return code, code.symbols(top)
