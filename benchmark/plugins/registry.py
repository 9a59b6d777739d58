"""Finds tokenizers, recommenders, datasets and collision policies without importing them.

A Python file directly in a room is a plugin (``base.py`` and ``_private.py`` are not); other packages add theirs by
entry point. Listing reads docstrings and the literal arguments of ``INFO = ...Info(...)`` from source with ``ast``, so
it imports neither torch nor the plugins; ``load`` imports one plugin. A plugin that cannot be read breaks only itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.plugin_names import canonical_name

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kind:
    """One kind of plugin: its room, the base class every plugin extends, and the metadata class in ``base.py``."""

    name: str
    room: str
    base_class: str
    info_class: str

    @property
    def package(self) -> str:
        """Import name of the room."""
        return "sidbench." + self.room.replace("/", ".")

    @property
    def group(self) -> str:
        """Last part of the room: the heading of the listing."""
        return self.room.rpartition("/")[2]

    @property
    def entry_points(self) -> str:
        """Group of the entry points by which other packages add theirs."""
        return f"sidbench.{self.group}"


KINDS = {
    k.name: k
    for k in (
        Kind("tokenizer", "tokenizers", "Tokenizer", "TokenizerInfo"),
        Kind("recommender", "recommenders", "Recommender", "RecommenderInfo"),
        Kind("dataset", "datasets", "DatasetPlugin", "DatasetInfo"),
        Kind("collisions", "tokenizers/collisions", "CollisionPolicy", "CollisionInfo"),
    )
}


@dataclass(frozen=True)
class Plugin:
    """What can be known of a plugin without importing it.

    name: canonical name. module, class_name: where ``load`` finds the class (no class name: the only public one).
    path: source file, ``None`` when it could not be located. summary: first line of the docstring. info: arguments of
    its ``INFO``. source: "sidbench" or the distribution that adds it. broken: why it cannot be used, empty when it can.
    live: the class itself, of a plugin registered in memory, which has no file. fingerprint: that of its code.
    """

    kind: str
    name: str
    module: str
    class_name: str = ""
    path: Path | None = None
    summary: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    source: str = "sidbench"
    broken: str = ""
    live: type[Any] | None = None
    fingerprint: str = ""

    @property
    def title(self) -> str:
        return str(self.info.get("title") or self.summary)


class _Unreadable(Exception):
    """The source of a plugin does not say what the registry must know."""


def _kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise unknown_name("kind of plugin", kind, KINDS, do="use one of these kinds")
    return KINDS[kind]


def _canonical(kind: str, stem: str) -> str:
    return canonical_name(KINDS[kind].entry_points, stem)


@cache
def _info_fields(kind: str) -> tuple[frozenset[str], Mapping[str, Any]]:
    """Required fields, and literal defaults of the others, of the kind's metadata class; read from ``base.py``."""
    tree = ast.parse((ROOT / KINDS[kind].room / "base.py").read_text(encoding="utf-8"))
    declared = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == KINDS[kind].info_class)
    required: set[str] = set()
    defaults: dict[str, Any] = {}
    for node in declared.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.value is None:
                required.add(node.target.id)
            elif isinstance(node.value, ast.Call):  # field(default_factory=dict): optional, empty
                defaults[node.target.id] = {}
            else:
                defaults[node.target.id] = ast.literal_eval(node.value)
    return frozenset(required), defaults


def _read_info(kind: str, tree: ast.Module) -> dict[str, Any]:
    """Arguments of the module-level ``INFO``. Raises ``_Unreadable`` saying what is missing or not literal."""
    wanted = KINDS[kind].info_class
    call: ast.expr | None = None
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == "INFO" for t in targets):
                call = node.value
    if call is None:
        raise _Unreadable(f"no `INFO = {wanted}(...)` at module level")
    if not isinstance(call, ast.Call) or getattr(call.func, "attr", getattr(call.func, "id", None)) != wanted:
        raise _Unreadable(f"line {call.lineno}: INFO must be a call of {wanted}")
    if call.args or any(k.arg is None for k in call.keywords):
        raise _Unreadable(f"line {call.lineno}: INFO takes keyword arguments only")
    required, defaults = _info_fields(kind)
    info = dict(defaults)
    for keyword in call.keywords:
        if keyword.arg not in required | defaults.keys():
            raise _Unreadable(f"line {keyword.value.lineno}: {wanted} has no field {keyword.arg!r}")
        try:
            info[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            raise _Unreadable(f"line {keyword.value.lineno}: {keyword.arg} of INFO is not a literal") from None
    if missing := sorted(required - info.keys()):
        raise _Unreadable(f"line {call.lineno}: INFO lacks {', '.join(missing)}")
    return info


def _read(
    kind: str,
    name: str,
    module: str,
    path: Path | None,
    *,
    class_name: str = "",
    source: str = "sidbench",
    trouble: str = "",
) -> Plugin:
    """The plugin as its source describes it; anything wrong ends in ``broken``."""
    summary: str = ""
    info: dict[str, Any] = {}
    broken = trouble
    if not broken and path is None:
        broken = f"no source file for module {module!r}"
    if not broken and path is not None:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            summary = (ast.get_docstring(tree) or "").partition("\n")[0].strip()
            info = _read_info(kind, tree)
        except SyntaxError as error:
            broken = f"line {error.lineno}: {error.msg}"
        except (_Unreadable, OSError, ValueError) as error:  # ValueError: not UTF-8, or null bytes
            broken = str(error)
        except (RecursionError, MemoryError):
            broken = "nested too deeply for Python's parser"
    return Plugin(kind, name, module, class_name, path, summary, info, source, broken)


def read_plugin(kind: str, path: Path) -> Plugin:
    """The plugin that ``path`` would be as a file of its room; ``broken`` says what its source lacks."""
    return _read(_kind(kind).name, _canonical(kind, path.stem), path.stem, path)


def _locate(module: str) -> Path | None:
    """Source file of a module, found as the import system would find it but without importing its packages."""
    places: Any = None
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        finders = (finder.find_spec(name, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((s for s in finders if s is not None), None)
        if spec is None:
            return None
        places = spec.submodule_search_locations
        if places is None and depth < len(parts):
            return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _plain(name: str) -> str:
    """A name as it is compared: ``_`` and ``-`` are alike."""
    return name.replace("_", "-")


def _path(cls: type[Any] | None) -> str:
    """Module and name of a class; a class that is defined again keeps them."""
    return "" if cls is None else f"{cls.__module__}.{cls.__qualname__}"


class Registry:
    """All plugins of one installation. ``root``: the folder of the rooms; entry points follow ``sys.path``."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self._plugins: dict[str, dict[str, Plugin]] = {}

    def plugins(self, kind: str) -> dict[str, Plugin]:
        """Canonical name -> plugin, sorted by name, broken ones included."""
        chosen = _kind(kind)
        if kind not in self._plugins:
            found = {}
            for path in sorted((self.root / chosen.room).glob("*.py")):
                if path.stem != "base" and not path.stem.startswith("_"):
                    name = _canonical(kind, path.stem)
                    found[name] = _read(kind, name, f"{chosen.package}.{path.stem}", path)
            for point in sorted(importlib.metadata.entry_points(group=chosen.entry_points), key=lambda p: p.name):
                plugin = self._from_entry_point(chosen, point)
                taken = found.get(plugin.name)
                if taken is not None:
                    plugin = Plugin(
                        kind,
                        f"{plugin.name}@{plugin.source}",
                        plugin.module,
                        path=plugin.path,
                        source=plugin.source,
                        broken=f"the name {plugin.name!r} is taken by {taken.path}",
                    )
                found[plugin.name] = plugin
            self._plugins[kind] = dict(sorted(found.items()))
        return self._plugins[kind]

    @staticmethod
    def _from_entry_point(kind: Kind, point: importlib.metadata.EntryPoint) -> Plugin:
        module, _, class_name = point.value.partition(":")
        source = point.dist.name if point.dist is not None else "entry point"
        trouble = "" if class_name.isidentifier() else f"entry point {point.value!r} must look like pkg.module:Class"
        path = None if trouble else _locate(module.strip())
        return _read(
            kind.name,
            _canonical(kind.name, point.name),
            module.strip(),
            path,
            class_name=class_name.strip(),
            source=source,
            trouble=trouble,
        )

    def find(self, kind: str, name: str) -> Plugin:
        """The plugin called ``name`` (``_`` and ``-`` alike). Raises ``InputError`` when unknown or broken."""
        plugins = self.plugins(kind)
        plugin = {_plain(n): p for n, p in plugins.items()}.get(_plain(name))
        if plugin is None:
            raise unknown_name(kind, name, plugins, do="run `bench list`")
        if plugin.broken:
            raise InputError(
                f"{kind} {plugin.name!r} is broken: {plugin.path or plugin.source}: {plugin.broken}",
                do="fix this file; every other plugin still works",
            )
        return plugin

    def register(self, plugin: Plugin) -> None:
        """Add a plugin that lives in memory (``live.live_plugin``); a later definition of the same class replaces it.

        Raises ``InputError`` when another class has the name.
        """
        taken = next((p for p in self.plugins(plugin.kind).values() if _plain(p.name) == _plain(plugin.name)), None)
        if taken is not None and (taken.live is None or _path(taken.live) != _path(plugin.live)):
            raise InputError(
                f"{plugin.kind} {plugin.name!r}",
                got=f"two classes of this name: {_path(plugin.live)} and {taken.path or _path(taken.live)}",
                wanted="one class a name",
                do="rename the class",
            )
        self._plugins[plugin.kind] = dict(sorted({**self.plugins(plugin.kind), plugin.name: plugin}.items()))

    def forget(self, kind: str, name: str) -> None:
        """Undo ``register``; nothing happens when no plugin of that name lives in memory."""
        plugins = self.plugins(kind)
        if name in plugins and plugins[name].live is not None:
            self._plugins[kind] = {n: p for n, p in plugins.items() if n != name}

    def names(self, kind: str) -> tuple[str, ...]:
        """Names of the usable plugins."""
        return tuple(n for n, p in self.plugins(kind).items() if not p.broken)

    def controls(self) -> tuple[str, ...]:
        """Names of the suite's own tokenizers that are controls, which belong in every table."""
        own = self.plugins("tokenizer").values()
        return tuple(p.name for p in own if not p.broken and p.source == "sidbench" and p.info["control"])

    def load(self, kind: str, name: str) -> type[Any]:
        """Import a plugin and return its class.

        Raises ``InputError`` naming plugin, file and cause when it is unknown, cannot be imported, or does not define
        exactly one public class of its kind.
        """
        plugin, chosen = self.find(kind, name), _kind(kind)
        if plugin.live is not None:
            return plugin.live
        base = getattr(importlib.import_module(f"{chosen.package}.base"), chosen.base_class)

        def broken(cause: str) -> InputError:
            return InputError(
                f"{kind} {plugin.name!r} cannot be loaded: {plugin.path}: {cause}",
                do="fix this file, or see the traceback with `bench --debug`",
            )

        try:
            module = importlib.import_module(plugin.module)
        except Exception as error:  # a stranger's module may raise anything while it is imported
            raise broken(f"{type(error).__name__}: {error}") from error
        if plugin.class_name:
            found = [getattr(module, plugin.class_name, None)]
        else:
            found = [
                c
                for n, c in vars(module).items()
                if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__ and not n.startswith("_")
            ]
        if len(found) != 1 or not (inspect.isclass(found[0]) and issubclass(found[0], base)):
            names = ", ".join(getattr(c, "__name__", "nothing") for c in found) or "none"
            raise broken(f"wanted one public subclass of {chosen.base_class}, found {names}")
        only: Any = found[0]
        if inspect.isabstract(only):
            raise broken(f"{only.__name__} does not define {', '.join(sorted(only.__abstractmethods__))}")
        return only


@cache
def installed() -> Registry:
    """The registry of this installation; plugins are discovered once per process."""
    return Registry()


def plugins(kind: str) -> dict[str, Plugin]:
    """``Registry.plugins`` of this installation."""
    return installed().plugins(kind)


def find(kind: str, name: str) -> Plugin:
    """``Registry.find`` of this installation."""
    return installed().find(kind, name)


def load(kind: str, name: str) -> type[Any]:
    """``Registry.load`` of this installation."""
    return installed().load(kind, name)
