"""Settings given as Python values: checked against a config dataclass, and written as the words of a run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sidbench.benchmark.config.run_config import BUDGETS
from sidbench.datasets.foundation.errors import unknown_name
from sidbench.datasets.foundation.settings import configured


def build_config(cls: type[Any], settings: Mapping[str, Any], budget: str | None, who: str) -> Any:
    """The config of plugin ``cls``: its defaults, then what ``budget`` sets, then ``settings``.

    Raises ``InputError`` for unknown names (the nearest one is named), wrong types, values out of range, and an unknown
    budget.
    """
    if budget is not None and budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS, do="use one of these, or None for the class's own defaults")
    layer = {} if budget is None else dict(cls.budgets.get(budget, {}))
    return configured(cls.config_class, None, {**layer, **settings}, who)


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
