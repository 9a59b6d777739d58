"""State that moves between steps keeps its periods when optimiser steps take several batches (``--accumulate``)."""

from __future__ import annotations

import torch

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.losses.code_diversity import CodeGroups
from sidbench.tokenizers.blocks.quantisers.dead_codes import DeadCodeRestart


def test_dead_codes_restart_when_a_period_is_over() -> None:
    latents = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0))
    codes = torch.zeros(6, 1, dtype=torch.int64)  # code 1 is dead
    replaced = {}
    for stride in (1, 3, 4):
        restart = DeadCodeRestart(torch.zeros(1, 2, 2), Rng(0), every=10, decay=0.0, last_step=25)
        replaced[stride] = [
            step + 1 for step in range(stride - 1, 60, stride) if restart.after_step(latents, codes, step=step)
        ]
    assert replaced == {1: [10, 20], 3: [12, 21], 4: [12, 20]}  # after 25 batches none, whatever the stride


def test_code_groups_are_refreshed_once_a_period(runtime: LocalRuntime) -> None:
    books = torch.randn(1, 16, 2, generator=torch.Generator().manual_seed(0))
    refreshed = {}
    for stride in (1, 3, 25):
        groups = CodeGroups(books.clone(), 10, Rng(0), runtime)
        refreshed[stride] = []
        for step in range(stride - 1, 60, stride):
            before = groups.groups
            groups.after_step(step)
            if groups.groups is not before:
                refreshed[stride].append(step + 1)
    assert refreshed == {1: [10, 20, 30, 40, 50, 60], 3: [12, 21, 30, 42, 51, 60], 25: [25, 50]}
    again = CodeGroups(books.clone(), 10, Rng(0), runtime)
    again.load_state(groups.state())
    assert again.periods == groups.periods == 5
