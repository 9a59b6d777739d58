"""Config dataclasses are the schema: ``setting`` puts unit, range, the paper's value and the sweep range on a field."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np

from sidbench.datasets.foundation.errors import InputError, unknown_name


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] | None = None,
    paper: Any = None,
    sweep: Sequence[Any] | None = None,
) -> Any:
    """Declare one field of a config dataclass.

    Parameters
    ----------
    default: value when nobody says otherwise (a budget or preset may override it).
    doc: one line for `bench show`.
    unit: unit of the value ("steps", "nats", "items").
    low, high: closed range of accepted values.
    choices: accepted values, when the field is an enumeration.
    paper: the value printed in the method's paper, if it prints one.
    sweep: search space: ``(low, high)`` interval for floats, a list of choices otherwise.
    """
    meta = {
        "doc": doc,
        "unit": unit,
        "low": low,
        "high": high,
        "paper": paper,
        "choices": tuple(choices) if choices is not None else None,
        "sweep": tuple(sweep) if sweep is not None else None,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


def type_hints(config_class: type[Any]) -> Mapping[str, Any]:
    """Field name -> resolved type of a config dataclass."""
    return typing.get_type_hints(config_class)


def type_words(hint: Any) -> str:
    """A type as people write it ("int", "tuple[int, ...]", "float | None")."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def accepts(hint: Any, value: Any) -> bool:
    """Whether ``value`` is of the type of a field: a whole number is a float too, and ``True`` is no number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(part, value) for part in args)
    if origin is tuple:
        several = len(args) == 2 and args[1] is Ellipsis
        wanted = args[:1] * len(value) if several and isinstance(value, tuple) else args
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(accepts, wanted, value))
    if origin is typing.Literal:
        return value in args
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    checked = origin or hint
    return checked is Any or not isinstance(checked, type) or isinstance(value, checked)


def configured(config_class: type[Any], config: Any, settings: Mapping[str, Any], who: str) -> Any:
    """The config that a plugin ``who`` is constructed with: ``config`` itself, or the class with ``settings``.

    Lists become tuples, numpy scalars Python numbers and whole numbers of a float field floats, as on the command line,
    so that equal settings are equal configs. Raises ``InputError``, see ``PluginBase``.
    """
    if config is not None and settings:
        raise InputError(
            f"{who}(...)",
            got=f"a config and {', '.join(settings)}",
            wanted="one of the two",
            do=f"write dataclasses.replace(config, {next(iter(settings))}=...) for a changed config",
        )
    if config is not None:
        if not isinstance(config, config_class):
            raise InputError(
                f"{who}(config)",
                got=f"{type(config).__name__} {config!r}"[:120],
                wanted=f"a {config_class.__name__}, or settings by name",
                do=f"write {who}({_first_field(config_class)}=...)",
            )
        return config
    known = [f.name for f in dataclasses.fields(config_class)]
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {who}", name, known, do="use one of these settings")
    hints = type_hints(config_class)
    return config_class(**{name: _plain(hints[name], value) for name, value in settings.items()})


def _first_field(config_class: type[Any]) -> str:
    return next((f.name for f in dataclasses.fields(config_class)), "")


def _plain(hint: Any, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list) and not accepts(hint, value):
        value = tuple(value)
    if isinstance(value, int) and accepts(hint, value) and not accepts(hint, True) and accepts(hint, 0.5):
        value = float(value)
    return value


def check_settings(config: Any) -> None:
    """Check every field of a config dataclass against its type and its declared range and choices.

    Called from ``__post_init__`` of the configs. Raises ``InputError`` naming field, value and what is accepted.
    """
    hints = type_hints(type(config))
    for f in dataclasses.fields(config):
        value, meta = getattr(config, f.name), f.metadata
        where = f"setting {type(config).__name__}.{f.name}"
        if meta.get("choices") is not None and value not in meta["choices"]:
            raise InputError(
                where,
                got=repr(value),
                wanted=f"one of {', '.join(map(repr, meta['choices']))}",
                do=f"set {f.name}=<one of these>",
            )
        if not accepts(hints[f.name], value):
            words = type_words(hints[f.name])
            raise InputError(where, got=f"{value!r} ({type(value).__name__})", wanted=words, do=f"set {f.name}=<{words}>")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, high = meta.get("low"), meta.get("high")
        below, above = low is not None and value < low, high is not None and value > high
        if math.isnan(value) or below or above:
            raise InputError(
                where,
                got=value,
                do=f"set {f.name} inside the range",
                wanted=f"{'-inf' if low is None else low} <= {f.name} <= {'inf' if high is None else high}",
            )
