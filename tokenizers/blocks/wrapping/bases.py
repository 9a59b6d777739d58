"""Tokenizers that run another tokenizer of the suite: which names a setting ``base`` accepts, and how the base is made.

Names come from the files beside this folder, read without importing them, so a new tokenizer is a base at once. Only
these names are ever imported.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sidbench.datasets.foundation.errors import unknown_name
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import Tokenizer, TokenizerConfig

BUDGETS = ("smoke", "quick", "standard", "paper")
_ROOM = Path(__file__).resolve().parents[2]


@cache
def bases() -> Mapping[str, str]:
    """Name -> class of the in-tree tokenizers that run on their own and need no setting without a default."""
    found = {}
    for path in sorted(_ROOM.glob("*.py")):
        if path.stem != "base" and not path.stem.startswith("_") and (name := _plain_tokenizer(path)):
            found[path.stem] = name
    return MappingProxyType(found)


def _plain_tokenizer(path: Path) -> str:
    """Class with ``info = INFO`` of a plugin file; empty for wrappers, for those with ``needs_settings`` and none."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # the registry lists it as broken, with the reason
        return ""
    for node in tree.body:
        if isinstance(node, ast.Assign) and _assigns(node, "INFO") and isinstance(node.value, ast.Call):
            words = {k.arg: k.value for k in node.value.keywords}
            if any(_is_set(words.get(word)) for word in ("composite", "needs_settings")):
                return ""
    return next(
        (
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            and not node.name.startswith("_")
            and any(isinstance(line, ast.Assign) and _assigns(line, "info") for line in node.body)
        ),
        "",
    )


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _is_set(value: ast.expr | None) -> bool:
    return (
        value is not None
        and not (isinstance(value, ast.Constant) and not value.value)
        and not (isinstance(value, (ast.Tuple, ast.List)) and not value.elts)
    )


def base_rng(rng: Rng, name: str) -> Rng:
    """The node that a run of tokenizer ``name`` of its own has, from that of the tokenizer around it.

    With it a base gives the codes of the row that stands beside its wrapper, bit for bit.
    """
    return Rng(rng.seed, rng.path[:-1]).child(name)


def make_base(name: str, budget: str, config: TokenizerConfig) -> Tokenizer:
    """Tokenizer ``name`` at a budget, with the settings that all tokenizers share taken from ``config``.

    Raises ``InputError`` for a name that is no base, or settings that the base refuses.
    """
    if name not in bases():
        raise unknown_name("base tokenizer", name, bases(), do="set tokenizer.base to one of these")
    made: type[Any] = getattr(importlib.import_module(f"sidbench.tokenizers.{name}"), bases()[name])
    shared = {f.name: getattr(config, f.name) for f in fields(TokenizerConfig)}
    tokenizer: Tokenizer = made(made.config_class(**{**made.budgets.get(budget, {}), **shared}))
    return tokenizer
