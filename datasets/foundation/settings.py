"""Config dataclasses are the schema: ``setting`` puts unit, range, the paper's value and the sweep range on a field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from sidbench.datasets.foundation.errors import InputError


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


def check_settings(config: Any) -> None:
    """Check every field of a config dataclass against its declared range and choices.

    Called from ``__post_init__`` of the configs. Raises ``InputError`` naming field, value and accepted range.
    """
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
