"""What a plugin declares about itself, as data: metadata, settings, budgets, presets; and numbers as people read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sidbench.benchmark.config.compose import field_type
from sidbench.benchmark.config.presets import presets_of
from sidbench.benchmark.config.run_config import BUDGETS
from sidbench.benchmark.plugins.registry import find, load


def settings_of(config_class: type[Any]) -> list[dict[str, Any]]:
    """One entry per config field: name, type, default, unit, range or choices, the paper's value, sweep range, doc."""
    rows = []
    for f in dataclasses.fields(config_class):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        row = {"name": f.name, "type": field_type(config_class, f.name), "default": default}
        rows.append(row | {k: f.metadata.get(k) for k in ("unit", "low", "high", "choices", "paper", "sweep", "doc")})
    return rows


def description(kind: str, name: str) -> dict[str, Any]:
    """Metadata, settings and budgets of a plugin. Raises ``InputError`` when it is unknown or cannot be imported."""
    plugin, loaded = find(kind, name), load(kind, name)
    return {
        "kind": kind,
        "name": plugin.name,
        "summary": plugin.summary,
        "source": plugin.source,
        "file": str(plugin.path),
        **dict(plugin.info),
        "settings": settings_of(loaded.config_class),
        "budgets": {b: dict(loaded.budgets.get(b, {})) for b in BUDGETS},
        "presets": [
            {"name": p.name, "dataset": p.dataset, "source": p.source, "note": p.note, "settings": dict(p.settings)}
            for p in presets_of(plugin)
        ]
        if kind == "tokenizer"
        else [],
    }


def setting_range(row: Mapping[str, Any]) -> str:
    """Accepted values of a setting in words: its choices, or ``low..high``; empty when it takes any."""
    if row["choices"] is not None:
        return " | ".join(str(c) for c in row["choices"])
    if row["low"] is None and row["high"] is None:
        return ""
    low, high = ("" if v is None else setting_number(v) for v in (row["low"], row["high"]))
    return f"{low}..{high}"


def setting_number(value: float) -> str:
    """A number as people read it: powers of two beyond 2^16, which stand for "as many as there are", as such."""
    if isinstance(value, int) and value > 1 << 16 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:g}" if isinstance(value, float) or value >= 1_000_000 else str(value)
