"""Measured times of the main job's parts. Not part of `make test`: run `make speed` on a quiet machine.

Each benchmark prints its median beside the target in its name or docstring; nothing here fails on a slow machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.tasks import retrieval_data
from sidbench.benchmark.store.serialization import load_dataset, save_dataset
from sidbench.benchmark.store.stage_cache import Stage, StageCache
from sidbench.datasets.base import Dataset
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.features.text import item_text
from sidbench.datasets.features.tfidf import encode_tfidf
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.recommenders.mtp import Mtp
from sidbench.tokenizers.base import SemanticIds

Benchmark = Callable[..., Any]


@pytest.fixture(scope="module")
def beauty() -> Dataset:
    return Beauty(Beauty.config_class()).load(LocalFiles())


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_command_start(benchmark: Any, arguments: list[str]) -> None:
    """Target 0.6 s, importing no torch."""
    bench = Path(sys.executable).with_name("bench")
    benchmark.pedantic(
        lambda: subprocess.run([bench, *arguments], check=True, capture_output=True), rounds=5, warmup_rounds=1
    )


@pytest.mark.data
def test_beauty_parsed_split_and_cached(benchmark: Any, tmp_path: Path) -> None:
    """Target 5 s."""
    numbers = iter(range(100))

    def work() -> None:
        dataset = Beauty(Beauty.config_class()).load(LocalFiles())
        leave_last_out(dataset.interactions, dataset.n_users, "shuffled", Rng(0))
        cache = StageCache(tmp_path / str(next(numbers)), Reporter())
        cache.run(Stage("dataset", {}, lambda _: dataset, save_dataset, load_dataset))

    benchmark.pedantic(work, rounds=5, warmup_rounds=1)


@pytest.mark.data
def test_beauty_reloaded(benchmark: Any, tmp_path: Path, beauty: Dataset) -> None:
    """Target 0.3 s, checksums included."""
    StageCache(tmp_path, Reporter()).run(Stage("dataset", {}, lambda _: beauty, save_dataset, load_dataset))

    def work() -> None:
        StageCache(tmp_path, Reporter()).run(Stage("dataset", {}, lambda _: beauty, save_dataset, load_dataset))

    benchmark.pedantic(work, rounds=10, warmup_rounds=1)


@pytest.mark.data
def test_beauty_tfidf(benchmark: Any, beauty: Dataset) -> None:
    """Target 20 s."""
    benchmark.pedantic(lambda: encode_tfidf(item_text(beauty.catalog), 128, Rng(0)), rounds=3, warmup_rounds=1)


@pytest.mark.data
def test_beauty_exact_evaluation(benchmark: Any, beauty: Dataset) -> None:
    """Target 20 s: every user over every item, 6 x 100 codes, model width of the default config."""
    runtime = LocalRuntime("cpu", threads=os.cpu_count() or 1)
    split = leave_last_out(beauty.interactions, beauty.n_users, "shuffled", Rng(0))
    data = retrieval_data(split, beauty.n_users, beauty.n_items)
    codes = np.random.default_rng(0).integers(0, 100, (beauty.n_items, 6)).astype(np.int32)
    sids = SemanticIds(codes, np.full(6, 100, np.int32), ordered=False)
    small = retrieval_data(split, beauty.n_users, beauty.n_items)
    model = Mtp(Mtp.config_class(epochs=1, validation_users=10, batch_positions=8192))
    model.fit(small, sids, Rng(0), runtime)
    benchmark.pedantic(lambda: model.rank_targets(data.test_history, data.test_target, sids, runtime), rounds=3)
