"""Errors of plugin code: named, with what to do, whatever the plugin raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.context import StageContext
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
    context = StageContext(StageCache(tmp_path, Reporter()), runtime)
    with pytest.raises(StageError, match=message), context.guarded("tokenizer mine", tmp_path):
        work()


def test_own_errors_pass_unchanged(tmp_path: Path, runtime: LocalRuntime) -> None:
    context = StageContext(StageCache(tmp_path, Reporter()), runtime)
    with pytest.raises(InputError, match="this setting"), context.guarded("tokenizer mine", tmp_path):
        raise InputError("this setting")


def test_what_a_plugin_says_and_keeps_is_of_its_stage(tmp_path: Path, runtime: LocalRuntime) -> None:
    context = StageContext(StageCache(tmp_path, Reporter()), runtime)
    with context.guarded("tokenizer mine", tmp_path) as first:
        first.warn("careful")
        assert first.checkpoints == tmp_path
    with context.guarded("tokenizer other", tmp_path) as second:
        assert second.warnings == ()
    assert first.warnings == ("careful",) and runtime.checkpoints is None
