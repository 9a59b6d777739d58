"""`bench list`: the installed plugins, read from source; imports none of them."""

from __future__ import annotations

import sys
from typing import Any

from sidbench.benchmark.commands.printing import print_json
from sidbench.benchmark.plugins.registry import KINDS, Plugin, installed

COLUMNS = {
    "tokenizer": ("paper", "year", "modalities", "ordered", "control"),
    "recommender": ("paper", "year", "task", "needs_sids"),
    "dataset": ("source", "licence", "modalities", "tasks"),
    "collisions": ("source", "unique", "adds", "moves"),
}


def entry(plugin: Plugin) -> dict[str, Any]:
    """One plugin of the listing as plain values; ``broken`` is present only when it is."""
    row: dict[str, Any] = {"name": plugin.name, "title": plugin.title}
    row |= {c: plugin.info[c] for c in COLUMNS[plugin.kind] if c in plugin.info}
    if plugin.source != "sidbench":
        row["source_package"] = plugin.source
    if plugin.broken:
        row["broken"] = f"{plugin.path or plugin.source}: {plugin.broken}"
    return row


def listing() -> dict[str, list[dict[str, Any]]]:
    """Room -> its plugins; collision policies stand under "collisions"."""
    return {kind.group: [entry(p) for p in installed().plugins(kind.name).values()] for kind in KINDS.values()}


def _facts(row: dict[str, Any]) -> str:
    modalities = "+".join(row.get("modalities", ()))
    facts = [
        row.get("task"),
        str(row["year"]) if row.get("year") is not None else None,
        modalities or None,
        "control" if row.get("control") else None,
        "item IDs" if row.get("needs_sids") is False else None,
        "adds a token" if row.get("adds") else None,
        "moves items" if row.get("moves") else None,
        "unique SIDs" if row.get("unique") else None,
        row.get("source_package"),
    ]
    return ", ".join(f for f in facts if f)


def list_command(as_json: bool) -> None:
    """Print every plugin with its title; broken ones last in their room, with file and reason."""
    rooms = listing()
    if as_json:
        print_json(rooms)
        return
    lines = []
    for room, rows in rooms.items():
        lines.append(f"{room} ({len(rows)})")
        width = max((len(r["name"]) for r in rows), default=0)
        for row in sorted(rows, key=lambda r: ("broken" in r, r["name"])):
            if "broken" in row:
                lines.append(f"  {row['name']:<{width}}  BROKEN {row['broken']}")
            else:
                facts = _facts(row)
                lines.append(f"  {row['name']:<{width}}  {row['title']}" + (f"  [{facts}]" if facts else ""))
        lines.append("")
    sys.stdout.write("\n".join(lines))
