"""What plugins of all four kinds share: how they are constructed and where their name comes from.

A plugin states its name nowhere. A file in its room is called like the file, a plugin of another package like its entry
point, and any other class (of a notebook, of a script) like itself, in snake case; these are the names of tables.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from sidbench.datasets.foundation.plugin_names import canonical_name, name_of_class
from sidbench.datasets.foundation.settings import configured


class DerivedName:
    """Class attribute that reads as the plugin's name, looked up once a class."""

    def __get__(self, instance: object, owner: type[PluginBase]) -> str:
        return _name_of(owner)


class PluginBase(ABC):
    """Base of the four contracts. ``Opq(codebook_size=64)`` is ``Opq(OpqConfig(codebook_size=64))``.

    name: of the file or, in another package, of the entry point, else of the class; derived, never assigned.
    config_class: frozen dataclass of settings. budgets: "smoke", "quick", ... -> settings that the budget changes.
    expected_failures: conformance check -> why this plugin cannot pass it; one that passes all the same is reported.
    """

    name: ClassVar[DerivedName] = DerivedName()
    entry_points: ClassVar[str]  # group that other packages register plugins of this kind in
    config_class: ClassVar[type[Any]]
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any = None, **settings: Any) -> None:
        """A plugin with ``config``, or with the default config in which ``settings`` are changed.

        Raises ``InputError`` for both at once, a config of another class, an unknown setting (naming the nearest one),
        and a value of the wrong type or outside its range.
        """
        self.config = configured(type(self).config_class, config, settings, type(self).__name__)


@cache
def _name_of(cls: type[PluginBase]) -> str:
    module, group = cls.__module__, getattr(cls, "entry_points", "")
    if module.startswith("sidbench."):
        return canonical_name(group, module.rpartition(".")[2])
    for point in importlib.metadata.entry_points(group=group):
        if point.value.replace(" ", "") == f"{module}:{cls.__qualname__}":
            return canonical_name(group, point.name)
    return canonical_name(group, name_of_class(cls))
