"""Shared fixtures: a quiet CPU runtime, a private home folder, and the rules for skipping."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime


@pytest.fixture(scope="session")
def runtime() -> LocalRuntime:
    """A quiet CPU runtime without checkpoints."""
    return local_runtime(threads=1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private ``SIDBENCH_HOME``."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SIDBENCH_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """``wait_until(told, seconds, command)``: what ``told()`` gives once it is true.

    Fails after ``seconds``, and when the ``command`` (a ``Popen``, if given) ended before.
    """

    def wait(told: Callable[[], Any], seconds: float, command: subprocess.Popen[str] | None = None) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := told()):
            if command is not None and command.poll() is not None:
                pytest.fail(f"the command ended too early, with {command.returncode}: {command.communicate()}")
            if time.monotonic() > deadline:
                pytest.fail(f"waited {seconds:g} s in vain")
            time.sleep(0.02)
        return found

    return wait


def pytest_configure() -> None:
    """Commands that tests start can be interrupted, also when a script runs the suite in the background.

    Such a script's processes ignore Ctrl-C, and pass that on to what they start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with a reason what this machine cannot run."""
    no_data = not os.environ.get("SIDBENCH_DATA")
    no_gpu = None
    for item in items:
        if no_data and item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="SIDBENCH_DATA is not set: no real data sets on this machine"))
        if item.get_closest_marker("gpu"):
            if no_gpu is None:
                import torch

                no_gpu = not torch.cuda.is_available()
            if no_gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
