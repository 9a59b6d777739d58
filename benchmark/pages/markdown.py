"""Parts that the pages of every kind of plugin share: tables, prose, settings, budgets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.describe import setting_number, setting_range, settings_of
from sidbench.benchmark.config.run_config import BUDGETS
from sidbench.benchmark.plugins.registry import Plugin, Registry

_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)


def mark(what: str) -> str:
    """First line of a generated page, by which a page made here is told from one written by hand."""
    return f"<!-- Made by `bench plugin docs` from the source of the {what}; edit that, not this page. -->"


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; bars and line ends in cells are escaped."""
    lines = [
        heads,
        ["---"] * len(heads),
        *[["" if c is None else str(c).replace("|", r"\|").replace("\n", " ") for c in row] for row in rows],
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prose(text: str) -> str:
    """Text in which only code spans are markup."""
    pieces = _CODE.split(text)
    return "".join(piece if number % 2 else re.sub(r"([*<$])", r"\\\1", piece) for number, piece in enumerate(pieces))


def value(of: Any) -> str:
    """A setting's value as a table shows it; empty for none."""
    if of is None:
        return ""
    if isinstance(of, (tuple, list)):
        return "[" + ",".join(map(str, of)) + "]"
    return str(of).lower() if isinstance(of, bool) else setting_number(of) if isinstance(of, int) else str(of)


def source_link(plugin: Plugin, registry: Registry) -> str:
    """Link from a page in ``docs/<room>`` to the plugin's file."""
    inside = Path(str(plugin.path)).relative_to(registry.root).as_posix()
    return f"[{inside}](../../{inside})"


def method(plugin: Plugin) -> str:
    """The module docstring without its title line; indented blocks and code spans stay as they are."""
    text = ast.get_docstring(ast.parse(Path(str(plugin.path)).read_text(encoding="utf-8"))) or ""
    body = text.partition("\n")[2].strip("\n")
    blocks = re.split(r"\n\s*\n", body) if body else [text.strip()]
    return "\n\n".join(block if block.startswith("    ") else prose(block) for block in blocks)


def settings(config_class: type[Any]) -> str:
    """The table of all settings of a config class."""
    cells = [
        (
            f"`{r['name']}`",
            value(r["default"]),
            r["unit"],
            setting_range(r),
            value(r["paper"]),
            " ".join(value(v) for v in r["sweep"] or ()),
            prose(r["doc"] or ""),
        )
        for r in settings_of(config_class)
    ]
    return table(("setting", "default", "unit", "range", "paper", "swept", "what it is"), cells)


def budgets(declared: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of what each budget sets."""
    return table(
        ("budget", "sets"),
        [(f"`{b}`", ", ".join(f"{k}={value(v)}" for k, v in declared.get(b, {}).items()) or "nothing") for b in BUDGETS],
    )


def paper_facts(plugin: Plugin) -> list[tuple[str, str]]:
    """Rows of a page's table: paper, year and where to read it, as far as there is one; the version of the plugin."""
    info = plugin.info
    facts = [("paper", str(info["paper"]) or "none")]
    facts += [("year", str(info["year"]))] if info["year"] is not None else []
    facts += [("read", f"[{info['url'].removeprefix('https://')}]({info['url']})")] if info["url"] else []
    return [*facts, ("version", str(info["version"]))]


def year(plugin: Plugin) -> str:
    """Year of the paper, a dash without one."""
    return "–" if plugin.info["year"] is None else str(plugin.info["year"])


def citation(plugin: Plugin) -> list[str]:
    """Heading and BibTeX entry of the paper; nothing without one."""
    bibtex = str(plugin.info["bibtex"])
    return ["## Cite", f"```bibtex\n{bibtex}\n```"] if bibtex else []


def deviations(plugin: Plugin) -> list[str]:
    """The section on departures from the paper; nothing when none is declared."""
    declared = plugin.info["deviations"]
    return ["## Deviations from the paper", "\n".join(f"- {prose(s)}" for s in declared)] if declared else []
