"""One page of documentation per tokenizer and recommender of the suite, made from its metadata, docstring, settings,
budgets and presets.

Pages are a pure function of the source tree: nothing of the machine, the clock or the user's home enters them, so that
a committed page can be compared with a fresh one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sidbench.benchmark.pages import recommenders, tokenizers
from sidbench.benchmark.plugins.registry import Plugin, Registry, installed
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.files import write_whole

INDEX = "README.md"
MARKS = {"tokenizers": tokenizers.MARK, "recommenders": recommenders.MARK}


def pages(registry: Registry | None = None) -> dict[str, str]:
    """Path below ``docs`` (``tokenizers/opq.md``) -> text of every page: one per in-tree tokenizer and recommender, and
    an index ``README.md`` in each folder.

    Raises ``InputError`` naming a plugin that cannot be imported or whose preset cannot be read.
    """
    registry = registry or installed()
    tokenizing, recommending = (_in_tree(kind, registry) for kind in ("tokenizer", "recommender"))
    return {
        **{f"tokenizers/{p.name}.md": tokenizers.tokenizer_page(p, registry) for p in tokenizing},
        f"tokenizers/{INDEX}": tokenizers.tokenizer_index(tokenizing),
        **{f"recommenders/{p.name}.md": recommenders.recommender_page(p, registry) for p in recommending},
        f"recommenders/{INDEX}": recommenders.recommender_index(recommending, registry),
    }


def _in_tree(kind: str, registry: Registry) -> list[Plugin]:
    plugins = [p for p in registry.plugins(kind).values() if p.source == "sidbench"]
    if broken := [f"{p.name}: {p.broken}" for p in plugins if p.broken]:
        raise InputError(
            f"{kind}s without a page", got="; ".join(broken), wanted=f"{kind}s that can be read", do="fix their files"
        )
    return plugins


def write_pages(made: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the pages below ``folder``, and delete generated pages of plugins that are gone; returns the paths of what
    was written."""
    for path in _generated(folder):
        if path.relative_to(folder).as_posix() not in made:
            path.unlink()
    for name, text in made.items():
        write_whole(folder / name, text)
    return [folder / name for name in made]


def compare_pages(made: Mapping[str, str], folder: Path) -> dict[Path, str]:
    """Path -> what is wrong with it, for every page that is missing, out of date, or of a plugin that is gone."""
    wrong = {}
    for name, text in made.items():
        path = folder / name
        if not path.is_file():
            wrong[path] = "missing"
        elif path.read_text(encoding="utf-8") != text:
            wrong[path] = "out of date"
    return wrong | {
        path: f"of a {path.parent.name.removesuffix('s')} that is gone"
        for path in _generated(folder)
        if path.relative_to(folder).as_posix() not in made
    }


def _generated(folder: Path) -> list[Path]:
    return [
        path
        for room, mark in MARKS.items()
        for path in sorted((folder / room).glob("*.md"))
        if path.read_text(encoding="utf-8").startswith(mark)
    ]
