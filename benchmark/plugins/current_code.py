"""The entries that the lock file should have: every plugin of this source tree and every shared unit, as they are now."""

from __future__ import annotations

from sidbench.benchmark.plugins.code_hash import ROOT
from sidbench.benchmark.plugins.identity import plugin_code, unit_code
from sidbench.benchmark.plugins.lock import Entry, entry_name
from sidbench.benchmark.plugins.registry import KINDS, installed
from sidbench.benchmark.plugins.units import UNITS


def current_entries() -> dict[str, Entry]:
    """Name -> version and hash. Plugins of other packages are left out: their authors guard them."""
    found = {entry_name("unit", name): Entry(unit.version, unit_code(name)) for name, unit in UNITS.items()}
    for kind in KINDS:
        for plugin in installed().plugins(kind).values():
            if not plugin.broken and plugin.path is not None and plugin.path.is_relative_to(ROOT):
                entry = Entry(int(plugin.info["version"]), plugin_code(kind, plugin.name))
                found[entry_name(kind, plugin.name)] = entry
    return found
