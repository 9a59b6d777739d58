"""The lowest versions that ``pyproject.toml`` allows, as a requirements file: ``>=`` of a direct dependency becomes ``==``.

``make lowest`` installs them into an environment of its own and runs the smoke tests there, so that a lower bound is a
version that was tried. Torch alone stays as the lock file pins it: its wheels are large and old ones have no CPU-only
build on every index. Prints to standard output; raises ``SystemExit`` naming a dependency without a lower bound.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNNERS = ("pytest", "hypothesis")  # of the extra `test`: what the smoke tests themselves need
PINNED = "torch"
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<version>[0-9][0-9.]*)")


def lowest(requirement: str) -> str:
    """``name>=version`` as ``name==version``."""
    found = _BOUND.fullmatch(requirement)
    if found is None:
        raise SystemExit(f"pyproject.toml: got {requirement!r}, wanted name>=version, so that the lowest version is known")
    return f"{found['name']}=={found['version']}"


def requirements() -> list[str]:
    """One line a direct dependency, those of the smoke tests' runners included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runners = [r for r in project["optional-dependencies"]["test"] if r.partition(">")[0] in RUNNERS]
    pinned = re.search(rf"^{PINNED}==\S+$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        raise SystemExit(f"requirements.lock: no line {PINNED}==version; run `make lock`")
    given = [r for r in (*project["dependencies"], *runners) if r.partition(">")[0] != PINNED]
    return [pinned.group(), *(lowest(r) for r in given)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements()) + "\n")
