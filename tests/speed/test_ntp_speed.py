"""Time of NTP: an epoch over Beauty in packed passes, and what sharing a user's history among hypotheses saves."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.stages.tasks import retrieval_data
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.blocks.causal import CachedDecoder, CausalBlock
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.recommenders.ntp import Ntp, NtpConfig
from sidbench.tokenizers.base import SemanticIds


@pytest.fixture(scope="module")
def data() -> RetrievalData:
    beauty = Beauty(Beauty.config_class()).load(LocalFiles())
    split = leave_last_out(beauty.interactions, beauty.n_users, "shuffled", Rng(0))
    return retrieval_data(split, beauty.n_users, beauty.n_items)


def random_sids(n_items: int) -> SemanticIds:
    codes = np.random.default_rng(0).integers(0, 256, (n_items, 4)).astype(np.int32)
    return SemanticIds(codes, np.full(4, 256, np.int32), ordered=True)


@pytest.mark.data
def test_beauty_epoch_of_four_layers(benchmark: Any, data: RetrievalData) -> None:
    """Target 120 s for 131,413 targets of 4 codes, width 128, validation of ten users included."""
    runtime = LocalRuntime("cpu", threads=os.cpu_count() or 1)
    model = Ntp(NtpConfig(epochs=1, validation_users=10))
    benchmark.pedantic(lambda: model.fit(data, random_sids(data.n_items), Rng(0), runtime), rounds=1)
    benchmark.extra_info.update(examples_per_second=model.diagnostics()["examples_per_second"])


@pytest.mark.data
def test_beauty_beam_of_128(benchmark: Any, data: RetrievalData) -> None:
    """Users a second of the default beam, over 1,024 test users."""
    runtime, sids = LocalRuntime("cpu", threads=os.cpu_count() or 1), random_sids(data.n_items)
    some = np.arange(1024)
    model = Ntp(NtpConfig(epochs=1, validation_users=10))
    model.fit(
        replace(
            data,
            train=take_sequences(data.train, some),
            validation_user=some,
            validation_target=data.validation_target[some],
        ),
        sids,
        Rng(0),
        runtime,
    )
    histories = take_sequences(data.test_history, some)
    benchmark.pedantic(
        lambda: model.rank_targets(histories, data.test_target[some], sids, runtime), rounds=3, warmup_rounds=1
    )
    benchmark.extra_info.update(users_per_second=1e3 / model.diagnostics()["ms_per_user"])


def test_shared_history_against_running_every_hypothesis_from_the_start(benchmark: Any) -> None:
    """Target: three steps of 64 hypotheses at least 5 times faster than whole sequences (8 items of 4 codes)."""
    generator = torch.Generator().manual_seed(0)
    blocks = nn.ModuleList(CausalBlock(128, 4, 512, 0.0) for _ in range(4)).eval()
    users, beam, tokens = 2, 64, 33
    history = torch.randn(users, tokens, 128, generator=generator)
    steps = torch.randn(3, users, beam, 128, generator=generator)
    parent = torch.arange(beam).expand(users, -1)
    seconds = {"shared": float("inf"), "whole": float("inf")}

    @torch.no_grad()
    def shared() -> None:
        cache = CachedDecoder(blocks, history, torch.full((users,), tokens - 1))
        for number, x in enumerate(steps):
            cache.advance(parent if number else torch.zeros_like(parent), x)

    @torch.no_grad()
    def whole() -> None:
        x = history[:, None].expand(-1, beam, -1, -1).flatten(0, 1)
        for step in steps:
            x = torch.cat([x, step.view(users * beam, 1, 128)], dim=1)
            y = x
            for block in blocks:
                y = block(y)

    for _ in range(3):
        for name, work in (("shared", shared), ("whole", whole)):
            start = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    benchmark.pedantic(shared, rounds=3)
    benchmark.extra_info.update(times_faster=seconds["whole"] / seconds["shared"])
