"""`bench show`: everything a plugin declares about itself, its settings and its budgets."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from sidbench.benchmark.commands.printing import print_json
from sidbench.benchmark.config.describe import description, setting_range


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
