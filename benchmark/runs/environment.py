"""What a record says about the machine and the code it ran on."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata

from sidbench.benchmark.plugins.code_hash import ROOT, source_hash
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.store.records import EnvironmentRecord

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "polars", "accelerate", "sidbench")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(runtime: LocalRuntime, command_line: tuple[str, ...]) -> EnvironmentRecord:
    """The environment of this process; an unknown git commit is the empty string."""
    return EnvironmentRecord(
        device=runtime.device_name,
        precision=runtime.precision,
        threads=runtime.threads,
        allocator=runtime.allocator,
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in LIBRARIES},
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        code=source_hash("benchmark", "datasets", "tokenizers", "recommenders"),
        command_line=command_line,
        platform=f"{sys.platform} {platform.machine()}",
        processes=runtime.process_group.size,
        accumulate=runtime.accumulate,
        compiled=runtime.compiled,
    )
