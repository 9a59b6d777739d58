"""Measured times of the SID trie and of one step of a beam along it; see ``test_speed.py`` for how to read them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.recommenders.decoding.beam import beam_search
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds

LENGTH, SIZE, USERS, WIDTH = 6, 256, 10, 100


def uniform_sids(n_items: int) -> SemanticIds:
    """The widest trie there is: independent uniform codes."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, SIZE, size=(n_items, LENGTH), dtype=np.uint8).astype(np.int32)
    return SemanticIds(codes, np.full(LENGTH, SIZE, np.int32), False)


class FixedSession:
    """Log-probabilities drawn before, so that only the search is timed; keeps the moments at which it was called."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._table = torch.log_softmax(torch.randn(USERS, WIDTH, SIZE, generator=generator), dim=2)
        self.calls: list[float] = []

    def step(self, parent: Tensor | None, classes: Tensor | None) -> Tensor:
        self.calls.append(time.perf_counter())
        return self._table[:, : 1 if classes is None else classes.shape[1]]


@pytest.mark.parametrize("n_items", [1_000_000, pytest.param(10_000_000, id="10_million_slow")])
def test_trie_build(benchmark: Any, n_items: int) -> None:
    """Target 60 s for 10 million SIDs of six codes."""
    sids, runtime = uniform_sids(n_items), local_runtime()
    benchmark.pedantic(lambda: SidTrie.of(sids, runtime), rounds=1)


@pytest.mark.parametrize("n_items", [1_000_000, pytest.param(10_000_000, id="10_million_slow")])
def test_constrained_step_of_1000_beams(benchmark: Any, n_items: int) -> None:
    """Target 5 ms a step (10 users of width 100), printed for each depth; the benchmark row is the whole search."""
    trie = SidTrie.of(uniform_sids(n_items), local_runtime())
    sessions = []

    def work() -> None:
        sessions.append(FixedSession())
        beam_search(sessions[-1], trie, WIDTH)
        sessions[-1].calls.append(time.perf_counter())

    benchmark.pedantic(work, rounds=20, warmup_rounds=2)
    steps = np.median(np.diff([s.calls for s in sessions], axis=1), axis=0)
    print("\nms a step: " + " ".join(f"{1e3 * s:.2f}" for s in steps))  # noqa: T201 - the measurement is what this file is for
