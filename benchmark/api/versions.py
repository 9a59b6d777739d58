"""Which versions of plugins are installed, beside those that made the rows of a table. Imports no pandas."""

from __future__ import annotations

from collections.abc import Sequence

from sidbench.benchmark.plugins.identity import plugin_version
from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.board.recorded_versions import Plugin, versions_of
from sidbench.leaderboards.board.store import StoredRun


def installed_versions(runs: Sequence[StoredRun]) -> dict[Plugin, str]:
    """Versions of the installed plugins that these runs used; those that are not installed are left out."""
    found: dict[Plugin, str] = {}
    for plugin in dict.fromkeys(p for run in runs for p in versions_of(run.record)):
        try:
            found[plugin] = plugin_version(*plugin)
        except InputError:  # not installed, which the row will say
            continue
    return found
