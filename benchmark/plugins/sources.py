"""Which files a plugin's results depend on, and their fingerprint. Imports no torch: listings and tables ask too."""

from __future__ import annotations

from pathlib import Path

from sidbench.benchmark.plugins.code_hash import ROOT, code_fingerprint, import_closure
from sidbench.benchmark.plugins.registry import installed, plugin_path
from sidbench.datasets.foundation.hashing import hash_json

TRAINING_CODE = {ROOT / "benchmark" / "runtime" / name for name in ("training.py", "optimisers.py", "compiling.py")}


def plugin_files(kind: str, name: str, base: str = "") -> set[Path]:
    """A plugin's file, every file of this project it imports, and the training loop.

    base: of a composite plugin, the one of its kind that its settings make it run; that one's files count too.
    Raises ``InputError`` for a plugin that is not installed.
    """
    plugin = installed().find(kind, name)
    files = {*TRAINING_CODE, *import_closure(plugin_path(kind, name))}
    if base and plugin.info.get("composite", False):
        files |= import_closure(plugin_path(kind, base))
    return files


def plugin_code(kind: str, name: str, base: str = "") -> str:
    """Fingerprint of ``plugin_files``: a stage's result is reused only while it stays.

    A plugin registered in memory has no file of its own: its class is fingerprinted instead.
    """
    plugin = installed().find(kind, name)
    if plugin.live is None:
        return code_fingerprint(plugin_files(kind, name, base))
    files = set(TRAINING_CODE)
    if base and plugin.info.get("composite", False):
        files |= import_closure(plugin_path(kind, base))
    return hash_json([plugin.fingerprint, code_fingerprint(files)])
