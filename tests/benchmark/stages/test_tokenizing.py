"""Stages of the tokenizer: the run's seed reaches it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.tokenizing import encode_items, fit_tokenizer
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig


def test_the_seed_of_a_run_decides_the_codes(tmp_path: Path, runtime: LocalRuntime) -> None:
    features = planted_features(120)

    def codes(root: str, seed: int) -> np.ndarray:
        context = StageContext(StageCache(tmp_path / root, Reporter()), runtime)
        tokenizer = RqKMeans(RqKMeansConfig(code_length=2, codebook_size=8, iterations=3))
        fitted = fit_tokenizer(context, "rqkmeans", tokenizer, features, seed).value
        return encode_items(context, "rqkmeans", tokenizer, fitted, features).value.codes

    first = codes("a", 0)
    np.testing.assert_array_equal(first, codes("b", 0))
    assert not np.array_equal(first, codes("a", 1))
