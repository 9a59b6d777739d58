"""What every kind of plugin is held to: literal metadata, a derived name, and settings that are checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.run_config import BUDGETS
from sidbench.benchmark.plugins.registry import read_plugin
from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.testing.checks import must_refuse, require
from sidbench.datasets.foundation.plugin import DerivedName, PluginBase
from sidbench.datasets.foundation.settings import accepts, type_hints


class Case:
    """The class under test with what several checks share. ``kind``: key of the registry's ``KINDS``.

    overrides: settings on top of the class's "smoke" budget and of ``defaults``.
    """

    kind: str
    info_class: type[Any]
    defaults: Mapping[str, Any] = {}

    def __init__(self, cls: type[Any], overrides: Mapping[str, Any] | None = None) -> None:
        self.cls, self.overrides = cls, dict(overrides or {})

    @cached_property
    def runtime(self) -> LocalRuntime:
        return local_runtime()

    def settings(self, **more: Any) -> dict[str, Any]:
        """``defaults``, the smoke budget, the caller's overrides and ``more``; later wins."""
        return {**self.defaults, **self.cls.budgets.get("smoke", {}), **self.overrides, **more}

    def make(self, **more: Any) -> Any:
        """A fresh plugin with ``settings(**more)``."""
        return self.cls(self.cls.config_class(**self.settings(**more)))


def metadata(case: Case) -> None:
    """``info`` and ``config_class`` are of the right classes, budgets set settings that exist, ``INFO`` is literal."""
    cls = case.cls
    info: Any = getattr(cls, "info", None)
    wanted = case.info_class.__name__
    require(isinstance(info, case.info_class), f"info must be a {wanted}, got {type(info).__name__}")
    require(bool(info.title.strip()), "info.title is empty")
    require(type(info.version) is int and info.version >= 1, f"info.version must be 1 or more, got {info.version!r}")
    year = getattr(info, "year", None)
    require(year is None or 1950 <= year <= 2100, f"info.year must be a year or None, got {year!r}")
    require(year is None or bool(info.paper), f"info.year is {year}, though info.paper names no source of it")
    require(not info.url or info.url.startswith("https://"), f"info.url must begin with https://, got {info.url!r}")
    bibtex = info.bibtex.strip()
    require(
        not bibtex or (bibtex.startswith("@") and bibtex.endswith("}")) or re.fullmatch(r"[\w:.-]+", bibtex) is not None,
        f"info.bibtex must be a BibTeX key or a whole entry, got {bibtex[:40]!r}",
    )
    config = getattr(cls, "config_class", None)
    require(inspect.isclass(config) and is_dataclass(config), "config_class must be a dataclass")
    require(bool(getattr(config, "__dataclass_params__").frozen), "config_class must be frozen")  # noqa: B009
    known = {f.name for f in fields(cls.config_class)}
    for budget, changes in cls.budgets.items():
        require(budget in BUDGETS, f"unknown budget {budget!r}, wanted one of {', '.join(BUDGETS)}")
        require(set(changes) <= known, f"budget {budget!r} sets unknown settings {sorted(set(changes) - known)}")
        cls.config_class(**changes)
    described = read_plugin(case.kind, Path(inspect.getsourcefile(cls) or ""))
    require(not described.broken, described.broken)


def name(case: Case) -> None:
    """The name is derived from the file or entry point and stated nowhere."""
    stated = [c.__name__ for c in case.cls.__mro__ if "name" in vars(c) and not isinstance(vars(c)["name"], DerivedName)]
    require(not stated, f"{', '.join(stated)} sets name; it follows from the file or the entry point, take it out")
    require(case.cls.name.replace("-", "_").isidentifier(), f"the name {case.cls.name!r} is no word; rename the file")


def settings(case: Case) -> None:
    """``Cls(config)``, ``Cls(**settings)`` and ``Cls()`` work, and whatever is wrong is refused with what is wanted."""
    cls: Callable[..., PluginBase] = case.cls
    given, config = case.settings(), case.make().config
    require(cls(config).config is config, "the constructor must keep the config that it is given, as self.config")
    require(cls(**given).config == config, f"{case.cls.__name__}(**settings) differs from the one with the same config")
    first = next((f.name for f in fields(config)), "nothing")
    must_refuse(lambda: cls(config, **{first: getattr(config, first, 0)}), "a config and a setting at once")
    must_refuse(lambda: cls(object()), "a config of another class")
    error = must_refuse(lambda: cls(**{**given, first + "_": 1}), f"a setting {first}_ that does not exist")
    require(first == "nothing" or first in error.do, f"the error for {first}_ does not name {first}, the nearest setting")
    hints = type_hints(case.cls.config_class)
    for f in fields(config):
        if not accepts(hints[f.name], _NoSetting()):
            must_refuse(_with(cls, given, f.name, _NoSetting()), f"{f.name} of a wrong type: call check_settings")
        for bound, beyond in (("low", -1), ("high", 1)):
            if f.metadata.get(bound) is not None:
                value = f.metadata[bound] + beyond
                must_refuse(_with(cls, given, f.name, value), f"{f.name}={value}, beyond its {bound}: call check_settings")


class _NoSetting:
    """A value that no setting takes."""


def _with(cls: Callable[..., PluginBase], given: Mapping[str, Any], name: str, value: Any) -> Callable[[], object]:
    return lambda: cls(**{**given, name: value})


COMMON: Mapping[str, Callable[[Any], None]] = {"metadata": metadata, "name": name, "settings": settings}
