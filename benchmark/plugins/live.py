"""Plugins that live in memory: classes of a notebook or script, without a file in a room and without an entry point."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from sidbench.benchmark.plugins.live_code import Unknown, live_fingerprint
from sidbench.benchmark.plugins.registry import KINDS, Plugin, Registry, installed
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.plugin_names import name_of_class as live_name

LIVE = "this session"
LIVE_KINDS = ("tokenizer", "recommender", "collisions")  # a dataset is given as frames, not as a class
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def kind_of(cls: type[Any]) -> str:
    """Kind of plugin that a class is. Raises ``InputError`` for a class that extends no base of `LIVE_KINDS`."""
    for kind in (KINDS[name] for name in LIVE_KINDS):
        base = getattr(importlib.import_module(f"{kind.package}.base"), kind.base_class)
        if issubclass(cls, base):
            return kind.name
    raise InputError(
        f"class {cls.__name__}",
        got=f"bases {', '.join(b.__name__ for b in cls.__mro__[1:-1]) or 'none'}",
        wanted=f"a class that extends {' or '.join(KINDS[k].base_class for k in LIVE_KINDS)}",
        do=f"write class {cls.__name__}(Tokenizer)",
    )


def live_plugin(cls: type[Any]) -> Plugin:
    """A class as a plugin. Its fingerprint follows its source and whatever of the user's own it uses.

    Where that cannot be told, the fingerprint is one that no other has, so that nothing is reused, and a warning says
    so. Raises ``InputError`` for a class that is no usable plugin.
    """
    kind = KINDS[kind_of(cls)]
    name = live_name(cls)
    if not _NAME.fullmatch(name):
        raise InputError(f"name of class {cls.__name__}", got=repr(name), wanted="letters, digits and _", do="rename it")
    if inspect.isabstract(cls):
        raise InputError(
            f"{kind.name} {name}",
            got=f"a class without {', '.join(sorted(cls.__abstractmethods__))}",
            wanted=f"every method of {kind.base_class}",
            do="define them",
        )
    info = getattr(cls, "info", None)
    if not isinstance(info, _info_class(kind.name)):
        raise InputError(
            f"{kind.name} {name}",
            got=f"info = {info!r}",
            wanted=f"a class attribute info = {kind.info_class}(...)",
            do=f"write it with {', '.join(f.name for f in fields(_info_class(kind.name)) if _required(f))}",
        )
    try:
        fingerprint = live_fingerprint(cls)
    except Unknown as reason:
        fingerprint = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        warnings.warn(
            f"{kind.name} {name}: {reason}, so sidbench cannot see when it is edited; nothing of it is kept for later runs",
            stacklevel=2,
        )
    facts = {f.name: getattr(info, f.name) for f in fields(info)}
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    made = Plugin(kind.name, name, cls.__module__, cls.__name__, None, summary, facts, LIVE)
    return replace(made, live=cls, fingerprint=fingerprint)


def _info_class(kind: str) -> type[Any]:
    found: type[Any] = getattr(importlib.import_module(f"{KINDS[kind].package}.base"), KINDS[kind].info_class)
    return found


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def register(cls: type[Any]) -> type[Any]:
    """Make a class known by its name for the rest of this process; usable as a decorator. Returns the class.

    A class that is defined again under the same name, as when a notebook's cell is edited, replaces the earlier one.
    Raises ``InputError`` for a class that is no usable plugin, and for a name that another class has.
    """
    installed().register(live_plugin(cls))
    return cls


def installed_name(cls: type[Any], registry: Registry) -> str | None:
    """The name of an installed plugin whose class this is; ``None`` for any other class."""
    for plugin in registry.plugins(kind_of(cls)).values():
        if plugin.live is None and plugin.module == cls.__module__ and plugin.class_name in ("", cls.__name__):
            return plugin.name
    return None


@contextmanager
def registered(classes: Iterable[type[Any]]) -> Iterator[None]:
    """Know ``classes`` by their names inside the block. What was registered before is known again behind it.

    Raises ``InputError`` for two classes of one name.
    """
    registry = installed()
    new: dict[tuple[str, str], Plugin] = {}
    for cls in dict.fromkeys(classes):
        plugin = live_plugin(cls)
        other = new.setdefault((plugin.kind, plugin.name), plugin)
        if other.live is not cls:
            raise InputError(
                f"{plugin.kind} {plugin.name!r}",
                got="two classes of this name (one may stem from an earlier version of the cell)",
                wanted="one class a name",
                do="rename one of them, or make its objects again",
            )
    before = {key: registry.plugins(key[0]).get(key[1]) for key in new}
    try:
        for plugin in new.values():
            registry.register(plugin)
        yield
    finally:
        for (kind, name), earlier in before.items():
            registry.forget(kind, name)
            if earlier is not None and earlier.live is not None:
                registry.register(earlier)
