"""Code that many results share and that is no plugin: each unit has a version of its own.

A unit's version is part of the keys of the stages that run it. Raise it together with a change of the numbers; its hash
in the lock file tells when that is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidbench.benchmark.plugins.code_hash import ROOT


@dataclass(frozen=True)
class Unit:
    """version: raised when numbers change. places: files and folders of the code, relative to the root."""

    version: int
    places: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The places as paths."""
        return tuple(ROOT / place for place in self.places)


UNITS = {
    "splits": Unit(1, ("datasets/splits", "benchmark/stages/tasks.py")),
    "features": Unit(1, ("datasets/features", "benchmark/stages/features.py")),
    "training": Unit(1, tuple(f"benchmark/runtime/{name}.py" for name in ("training", "optimisers", "compiling"))),
    "evaluation": Unit(1, ("benchmark/runtime/sharding.py",)),
    # What computes them, and all that it calls; how a metric is headed, printed and explained changes no number.
    "metrics": Unit(1, tuple(f"benchmark/metrics/{name}.py" for name in ("quantisation", "ranking_at_k", "auc", "strata"))),
}
