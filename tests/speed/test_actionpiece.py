"""Time of ActionPiece's vocabulary construction and encodings, in pure Python on one core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sidbench.datasets.beauty import Beauty
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.base import Sequences
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.tokenizers.blocks.actionpiece.encode import GreedyMerger, merge_greedily, permute_and_merge
from sidbench.tokenizers.blocks.actionpiece.vocabulary import Vocabulary, build_vocabulary

SIZES = np.array([256, 256, 256, 256, 128], np.int32)


@pytest.fixture(scope="module")
def events() -> list[np.ndarray]:
    """Feature tokens of the training events of every user of Beauty, with random codes."""
    beauty = Beauty(Beauty.config_class()).load(LocalFiles())
    split = leave_last_out(beauty.interactions, beauty.n_users, "shuffled", Rng(0))
    sequences = Sequences.from_interactions(split.train, beauty.n_users)
    codes = np.random.default_rng(0).integers(0, SIZES, (beauty.n_items, len(SIZES)))
    rows = codes + np.concatenate([[0], np.cumsum(SIZES[:-1])])
    return [rows[sequences.of(user)] for user in range(sequences.n_users)]


@pytest.fixture(scope="module")
def vocabulary(events: list[np.ndarray]) -> Vocabulary:
    return build_vocabulary(events, SIZES, 10_000)[0]


@pytest.mark.data
def test_beauty_vocabulary_of_40_000(benchmark: Any, events: list[np.ndarray]) -> None:
    """Target 300 s of one core: 22,363 users, 153,776 events of 5 features."""
    found, left = benchmark.pedantic(lambda: build_vocabulary(events, SIZES, 40_000), rounds=1)
    benchmark.extra_info.update(tokens=len(found), tokens_per_event=left / sum(map(len, events)))
    assert len(found) == 40_000


@pytest.mark.data
def test_beauty_permuted_encoding(benchmark: Any, events: list[np.ndarray], vocabulary: Vocabulary) -> None:
    """Target 10 s for all training histories, once an epoch."""
    benchmark.pedantic(lambda: [permute_and_merge(user, vocabulary) for user in events], rounds=1)


@pytest.mark.data
def test_beauty_greedy_encoding(benchmark: Any, events: list[np.ndarray], vocabulary: Vocabulary) -> None:
    """Target 60 s for all training histories."""
    merger = GreedyMerger(vocabulary)
    benchmark.pedantic(lambda: [merge_greedily(user, merger) for user in events], rounds=1)
