"""Settings given as Python values: checked against a config dataclass, and written as the words of a run."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from sidbench.benchmark.config.compose import BUDGETS, field_type
from sidbench.datasets.foundation.errors import InputError, unknown_name


def checked_settings(config_class: type[Any], settings: Mapping[str, Any], who: str) -> dict[str, Any]:
    """``settings`` with lists as tuples and numpy scalars as Python numbers.

    Raises ``InputError`` for a name that ``config_class`` does not have, naming the nearest one, and for a value of
    another type.
    """
    hints = typing.get_type_hints(config_class)
    found: dict[str, Any] = {}
    known = [f.name for f in dataclasses.fields(config_class)]
    for name, given in settings.items():
        if name not in known:
            raise unknown_name(f"setting of {who}", name, known, do="use one of these settings")
        value: Any = given.item() if isinstance(given, np.generic) else given
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hints[name]):
            raise InputError(
                f"{who}: {name}",
                got=f"{given!r} ({type(given).__name__})",
                wanted=field_type(config_class, name),
                do=f"give {name}=<{field_type(config_class, name)}>",
            )
        found[name] = float(value) if hints[name] is float else value
    return found


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is tuple:
        wanted = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[1:] == (...,) else arguments
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def build_config(cls: type[Any], settings: Mapping[str, Any], budget: str | None, who: str) -> Any:
    """The config of plugin ``cls``: its defaults, then what ``budget`` sets, then ``settings``.

    Raises ``InputError`` for unknown names (the nearest one is named), wrong types, values out of range, and an unknown
    budget.
    """
    if budget is not None and budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS, do="use one of these, or None for the class's own defaults")
    layer = {} if budget is None else dict(cls.budgets.get(budget, {}))
    return cls.config_class(**{**layer, **checked_settings(cls.config_class, settings, who)})


def changed_settings(config: Any) -> dict[str, Any]:
    """The fields of a config that are not the defaults of its class."""
    found = {}
    for field in dataclasses.fields(config):
        default = field.default_factory() if callable(field.default_factory) else field.default
        if getattr(config, field.name) != default:
            found[field.name] = getattr(config, field.name)
    return found


def override(name: str, value: Any) -> str:
    """``group.field=value`` in the grammar of the command line, which reads the same value back."""
    return f"{name}={_word(value)}"


def _word(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, str):  # Hydra reads backslashes literally, except before a quote, the closing one included
        return "'" + re.sub(r"(\\*)(\Z|')", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
    return repr(value)
