"""Errors of plugin code: named, with what to do, whatever the plugin raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.pipeline import StageContext
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.foundation.errors import InputError, StageError


def _huge() -> object:
    return torch.empty(1 << 60, dtype=torch.uint8)


def _no_memory() -> object:
    raise MemoryError("too much")


def _broken() -> object:
    raise KeyError("colour")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (_huge, "tokenizer mine ran out of memory .* lower tokenizer.codebook_size"),
        (_no_memory, "tokenizer mine ran out of memory"),
        (_broken, "tokenizer mine failed: KeyError: 'colour'"),
    ],
)
def test_foreign_errors_are_named(tmp_path: Path, runtime: LocalRuntime, work: Callable[[], object], message: str) -> None:
    with pytest.raises(StageError, match=message):
        StageContext(StageCache(tmp_path, Reporter()), runtime).guarded("tokenizer mine", tmp_path, work)


def test_own_errors_pass_unchanged(tmp_path: Path, runtime: LocalRuntime) -> None:
    def refuse() -> object:
        raise InputError("this setting")

    with pytest.raises(InputError, match="this setting"):
        StageContext(StageCache(tmp_path, Reporter()), runtime).guarded("tokenizer mine", tmp_path, refuse)
