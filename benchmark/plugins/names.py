"""Names of plugins as settings and records state them."""

from __future__ import annotations

from collections.abc import Mapping


def base_of(config: object) -> str:
    """The plugin that settings (a dataclass, or its mapping on a record) name as their ``base``; empty without one."""
    named = config.get("base", "") if isinstance(config, Mapping) else getattr(config, "base", "")
    return named if isinstance(named, str) else ""
