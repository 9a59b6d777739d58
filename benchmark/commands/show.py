"""`bench show`: everything a plugin declares about itself, its settings and its budgets."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from sidbench.benchmark.commands.printing import print_json
from sidbench.benchmark.config.compose import BUDGETS, field_type
from sidbench.benchmark.config.presets import presets_of
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


def _settings_table(rows: list[dict[str, Any]]) -> list[str]:
    from tabulate import tabulate

    cells = [
        [
            r["name"],
            str(r["default"]),
            r["unit"] or "",
            setting_range(r),
            "" if r["paper"] is None else str(r["paper"]),
            "" if r["sweep"] is None else " ".join(str(v) for v in r["sweep"]),
            r["doc"] or "",
        ]
        for r in rows
    ]
    heads = ["setting", "default", "unit", "range", "paper", "sweep", "what it is"]
    table = tabulate(cells, headers=heads, tablefmt="simple", disable_numparse=True, maxcolwidths=[None] * 6 + [60])
    return table.splitlines()


def show_command(kind: str, name: str, as_json: bool) -> None:
    """Print one plugin's description."""
    facts = description(kind, name)
    if as_json:
        print_json(facts)
        return
    settings, budgets, presets = facts.pop("settings"), facts.pop("budgets"), facts.pop("presets")
    deviations, notes, bibtex = facts.pop("deviations", ()), facts.pop("notes", ()), facts.pop("bibtex", "")
    lines = [f"{facts.pop('kind')} {facts.pop('name')}: {facts.pop('title', '')}", ""]
    for key, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {v}" for k, v in value.items())
        lines.append(f"  {key:<12} {shown if shown not in ('', None) else '-'}")
    for heading, sentences in (("deviations from the paper", deviations), ("notes", notes)):
        if sentences:
            lines += ["", heading]
            lines += [textwrap.fill(s, 110, initial_indent="  - ", subsequent_indent="    ") for s in sentences]
    lines += ["", *_settings_table(settings), "", "budgets (settings each one changes)"]
    lines += [f"  {b:<9} {', '.join(f'{k}={v}' for k, v in values.items()) or '-'}" for b, values in budgets.items()]
    if presets:
        lines += ["", "presets (--preset NAME; data set, settings, source)"]
        lines += [
            f"  {p['name']} for {p['dataset']}: {', '.join(f'{k}={v}' for k, v in p['settings'].items())}; {p['source']}"
            for p in presets
        ]
    if bibtex:
        lines += ["", "cite", *textwrap.indent(bibtex, "  ").splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")
