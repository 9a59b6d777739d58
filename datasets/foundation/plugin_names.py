"""How plugins are called, for their classes and for the listing that reads files. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Any


def canonical_name(group: str, stem: str) -> str:
    """How a plugin whose file or entry point is called ``stem`` is listed: data sets are written with dashes."""
    return stem.replace("_", "-") if group == "sidbench.datasets" else stem


def name_of_class(cls: type[Any]) -> str:
    """The class name in snake case: ``MyTokenizer`` is ``my_tokenizer``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
