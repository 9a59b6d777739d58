"""CPU cores of this machine that this process may use, and how workers divide them. Imports no torch."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that the scheduler gives this process, where the platform tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(threads: int, workers: int) -> int:
    """Threads of one of ``workers`` processes that share ``threads`` (0: all usable cores), at least 1."""
    return max(1, (threads or usable_cores()) // workers)
