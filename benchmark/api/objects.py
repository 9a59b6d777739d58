"""What stands in the lists of ``sidbench.run``: names, classes, objects with settings, and how they become names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidbench.benchmark.api.settings import changed_settings
from sidbench.benchmark.api.tokenizers import SidTokenizer
from sidbench.benchmark.plugins.live import installed_name, kind_of, live_name
from sidbench.benchmark.plugins.registry import installed
from sidbench.datasets.foundation.errors import InputError


@dataclass(frozen=True)
class Chosen:
    """One entry of a list. name: of the plugin, or a word of the command line ("all"). settings: those of this entry
    alone. cls: its class, where it lives in memory and is to be registered for the run."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cls: type[Any] | None = None


def choose(kind: str, given: Any) -> Chosen:
    """The entry that a name, a class or an object stands for. Raises ``InputError`` for anything else."""
    if isinstance(given, str):
        plugin = installed().plugins(kind).get(given)
        return Chosen(given, cls=None if plugin is None else plugin.live)
    if isinstance(given, SidTokenizer):
        cls, settings = type(given.plugin), given.settings
    elif isinstance(given, type):
        cls, settings = given, {}
    else:
        cls, settings = type(given), changed_settings(given.config) if hasattr(given, "config") else {}
    if kind_of(cls) != kind:
        raise InputError(f"{kind}s of a run", got=repr(given)[:120], wanted=f"a name or an object of a {kind}")
    settings = dict(sorted(settings.items()))  # so that equal settings make equal runs
    known = installed_name(cls, installed())
    return Chosen(known, settings) if known is not None else Chosen(live_name(cls), settings, cls)


def choose_all(kind: str, given: Any) -> tuple[Chosen, ...]:
    """The entries of a list, or of a single name or object."""
    entries = given if isinstance(given, Iterable) and not isinstance(given, (str, type)) else [given]
    return tuple(choose(kind, entry) for entry in entries)


def several(given: Any) -> Sequence[Any]:
    """A list, or a single value as a list of one."""
    return [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
