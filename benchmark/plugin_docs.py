"""One page of documentation per tokenizer of the suite, made from its metadata, docstring, settings and presets.

Pages are a pure function of the source tree: nothing of the machine, the clock or the user's home enters them, so that
a committed page can be compared with a fresh one.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidbench.benchmark.commands.show import setting_range, settings_of
from sidbench.benchmark.config import BUDGETS
from sidbench.benchmark.presets import ANY_DATASET, presets_of
from sidbench.benchmark.registry import Plugin, Registry, installed
from sidbench.datasets.foundation.errors import InputError

MARK = "<!-- Made by `bench plugin docs` from the source of the tokenizers; edit that, not this page. -->"
INDEX = "README.md"
_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)


def pages(registry: Registry | None = None) -> dict[str, str]:
    """File name -> text of every page: one per in-tree tokenizer, and the index ``README.md``.

    Raises ``InputError`` naming a tokenizer that cannot be imported or whose preset cannot be read.
    """
    registry = registry or installed()
    plugins = [p for p in registry.plugins("tokenizer").values() if p.source == "sidbench"]
    if broken := [f"{p.name}: {p.broken}" for p in plugins if p.broken]:
        raise InputError("tokenizers without a page", got="; ".join(broken), wanted="tokenizers that can be read",
                         do="fix their files")
    made = {f"{p.name}.md": tokenizer_page(p, registry) for p in plugins}
    return made | {INDEX: _index(plugins)}


def write_pages(made: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the pages, and delete generated pages of tokenizers that are gone; returns the paths of what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _generated(folder):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)
    return [folder / name for name in made]


def compare_pages(made: Mapping[str, str], folder: Path) -> dict[Path, str]:
    """Path -> what is wrong with it, for every page that is missing, out of date, or of a tokenizer that is gone."""
    wrong = {}
    for name, text in made.items():
        path = folder / name
        if not path.is_file():
            wrong[path] = "missing"
        elif path.read_text(encoding="utf-8") != text:
            wrong[path] = "out of date"
    return wrong | {path: "of a tokenizer that is gone" for path in _generated(folder) if path.name not in made}


def _generated(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.md")) if p.read_text(encoding="utf-8").startswith(MARK)]


def tokenizer_page(plugin: Plugin, registry: Registry) -> str:
    """The page of one tokenizer in markdown."""
    loaded = registry.load("tokenizer", plugin.name)
    path = Path(str(plugin.path))
    inside = path.relative_to(registry.root).as_posix()
    needs = "".join(f" tokenizer.{name}=…" for name in plugin.info["needs_settings"])
    parts = [
        MARK, f"# {plugin.title}",
        _table(("", ""), [
            ("name", f"`{plugin.name}`"), ("paper", str(plugin.info["paper"]) or "none"), ("year", plugin.info["year"]),
            ("kind", _kind(plugin)), ("reads", _modalities(plugin)), ("needs", _required(plugin)),
            ("positions", _order(plugin)), ("length", _length(plugin)), ("source", f"[{inside}](../../{inside})")]),
        f"    bench run --tokenizer {plugin.name} --dataset synthetic --budget quick{needs}",
        "## Method", _docstring(path),
        "## Settings", "Set one with `tokenizer.<setting>=<value>`.", _settings(settings_of(loaded.config_class)),
        "## Budgets", _budgets({b: loaded.budgets.get(b, {}) for b in BUDGETS}),
        "## Where settings come from", _presets(plugin)]
    if plugin.info["deviations"]:
        parts += ["## Deviations from the paper", "\n".join(f"- {_plain(s)}" for s in plugin.info["deviations"])]
    return "\n\n".join(parts) + "\n"


def _kind(plugin: Plugin) -> str:
    return "control" if plugin.info["control"] else "method"


def _modalities(plugin: Plugin) -> str:
    return ", ".join(plugin.info["modalities"]) or "nothing"


def _required(plugin: Plugin) -> str:
    return ", ".join(group.replace("|", " or ") for group in plugin.info["required"]) or "nothing"


def _order(plugin: Plugin) -> str:
    return "ordered: a code is meaningful given those before it" if plugin.info["ordered"] else "unordered"


def _length(plugin: Plugin) -> str:
    if plugin.info["composite"] and plugin.info["control"]:
        return "that of the tokenizer it wraps"
    return "varies: positions an item does not use are PAD" if plugin.info["variable_length"] else "fixed"


def _docstring(path: Path) -> str:
    """The module docstring without its title line; indented blocks and code spans stay as they are."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    body = text.partition("\n")[2].strip("\n")
    blocks = re.split(r"\n\s*\n", body) if body else [text.strip()]
    return "\n\n".join(block if block.startswith("    ") else _plain(block) for block in blocks)


def _plain(text: str) -> str:
    """Prose in which only code spans are markup."""
    pieces = _CODE.split(text)
    return "".join(piece if number % 2 else re.sub(r"([*<$])", r"\\\1", piece) for number, piece in enumerate(pieces))


def _settings(rows: Iterable[Mapping[str, Any]]) -> str:
    cells = [(f"`{r['name']}`", _value(r["default"]), r["unit"], setting_range(r), _value(r["paper"]),
              " ".join(_value(v) for v in r["sweep"] or ()), _plain(r["doc"] or "")) for r in rows]
    return _table(("setting", "default", "unit", "range", "paper", "swept", "what it is"), cells)


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _budgets(budgets: Mapping[str, Mapping[str, Any]]) -> str:
    return _table(("budget", "sets"), [(f"`{name}`", ", ".join(f"{k}={_value(v)}" for k, v in values.items()) or "nothing")
                                       for name, values in budgets.items()])


def _presets(plugin: Plugin) -> str:
    """The plugin's own presets; those of the user's home are theirs."""
    own = [p for p in presets_of(plugin) if plugin.path is not None and p.path.is_relative_to(plugin.path.parent)]
    defaults = "The defaults are those of the table above."
    if not own:
        return f"{defaults} There is no preset."
    rows = [(f"`{p.name}`", "any" if p.dataset == ANY_DATASET else p.dataset,
             ", ".join(f"{k}={_value(v)}" for k, v in p.settings.items()), _plain(p.source), _plain(p.note)) for p in own]
    return f"{defaults} `--preset NAME` sets the following instead; the budget still decides the steps.\n\n" + \
        _table(("preset", "data set", "sets", "source", "note"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads),
             *[["" if c is None else str(c).replace("|", r"\|").replace("\n", " ") for c in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _index(plugins: Sequence[Plugin]) -> str:
    rows = [(f"[{p.name}]({p.name}.md)", p.title, p.info["year"], _modalities(p), "ordered" if p.info["ordered"] else
             "unordered", _length(p)) for p in plugins]
    heads = ("name", "title", "year", "reads", "positions", "length")
    methods = [row for row, p in zip(rows, plugins, strict=True) if not p.info["control"]]
    controls = [row for row, p in zip(rows, plugins, strict=True) if p.info["control"]]
    return "\n\n".join([
        MARK, "# Tokenizers", f"{len(methods)} methods and {len(controls)} controls. How to add one: "
        "[add-a-tokenizer.md](../add-a-tokenizer.md).", _table(heads, methods),
        "Controls stand beside the methods in every table:", _table(heads, controls)]) + "\n"
