"""TIGER beside transformers' T5 of the same size in one run: same weights, data, threads and allocator, processor time.

Part of `make speed` only. Each test prints what it measured (run with ``-s``); nothing here fails on a slow machine.
transformers pads every history to 20 items, as the published trainers do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.stages.tasks import retrieval_data
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.blocks.prefixes import PrefixInstances, in_parts, prefix_windows, similar_rows
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.blocks.t5 import T5, T5Shape, to_transformers
from sidbench.recommenders.blocks.t5_session import T5Session
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.recommenders.decoding.beam import beam_search
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds

RUNTIME = local_runtime(1)
LENGTH, CODES, WINDOW = 4, 256, 20
SHAPE = T5Shape(1 + LENGTH * CODES, 128, 6, 64, 1024, 4, 4)
ROWS = 32  # transformers' batch: its fastest on a CPU
MORE = 12  # times as many users for ours, so that its batches are of the size they have on all users


@pytest.fixture(scope="module")
def beauty() -> RetrievalData:
    dataset = Beauty(Beauty.config_class()).load(LocalFiles())
    split = leave_last_out(dataset.interactions, dataset.n_users, "shuffled", Rng(0))
    return retrieval_data(split, dataset.n_users, dataset.n_items)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def say(line: str) -> None:
    """Print a measurement, all of processor time."""
    print("\n" + line)  # noqa: T201 - the measurement is what this file is for


def models(dropout: float) -> tuple[T5, T5ForConditionalGeneration]:
    """Ours and transformers' with the same weights."""
    ours = T5(SHAPE, dropout)
    ours.initialise(torch.Generator().manual_seed(0))
    config = T5Config(
        vocab_size=SHAPE.vocabulary,
        d_model=SHAPE.width,
        d_kv=SHAPE.head_width,
        d_ff=SHAPE.hidden,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=SHAPE.heads,
        dropout_rate=dropout,
        pad_token_id=0,
        eos_token_id=None,
        decoder_start_token_id=0,
    )
    theirs = T5ForConditionalGeneration(config)
    theirs.load_state_dict(to_transformers(ours.state_dict(), SHAPE))
    return ours, theirs


def catalogue(n_items: int) -> SemanticIds:
    """Distinct random SIDs: no model is faster for the values."""
    flat = np.random.default_rng(0).choice(CODES**LENGTH, n_items, replace=False)
    codes = np.stack([flat // CODES**p % CODES for p in range(LENGTH)], 1).astype(np.int32)
    return SemanticIds(codes, np.full(LENGTH, CODES, np.int32), ordered=True)


def padded(items: np.ndarray, tokens_of: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens padded to the whole window, and their mask."""
    items = np.pad(items, ((0, 0), (0, WINDOW - items.shape[1])), constant_values=-1)
    mask = torch.as_tensor(np.repeat(items >= 0, LENGTH, axis=1)).long()
    return tokens_of[np.maximum(items, 0)].flatten(1) * mask, mask


@pytest.mark.data
def test_training_examples_a_second(beauty: RetrievalData) -> None:
    """Target 2.5 times transformers."""
    sids = catalogue(beauty.n_items)
    tokens_of = torch.as_tensor(1 + CodeLayout.of(sids).rows(sids.codes))
    instances = PrefixInstances(beauty.train, WINDOW, 256, Rng(0))
    ours, theirs = models(0.1)
    parameters = list(ours.parameters())
    optimisers = [torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for m in (ours, theirs)]

    def our_step(index: int) -> None:
        parts = instances.batch(0, index)

        def part_loss(at: int) -> Tensor:
            part = parts[at]
            length = torch.as_tensor(part.length * LENGTH)
            tokens = tokens_of[np.maximum(part.items, 0)].flatten(1)
            return ours.loss(tokens, length, tokens_of[part.targets]) / len(parts)

        optimisers[0].zero_grad()
        in_parts(part_loss, len(parts), parameters).backward()
        optimisers[0].step()

    def their_step(index: int) -> None:
        part = instances.batch(0, index)[-1]
        tokens, mask = padded(part.items[:ROWS], tokens_of)
        optimisers[1].zero_grad()
        theirs(input_ids=tokens, attention_mask=mask, labels=tokens_of[part.targets[:ROWS]]).loss.backward()
        optimisers[1].step()

    our_rate, their_rate = [], []
    for index in range(4):
        our_rate.append(256 / seconds(lambda at=index: our_step(at))[0])
        their_rate.append(ROWS / seconds(lambda at=index: their_step(at))[0])
    ours_best, theirs_best = max(our_rate[1:]), max(their_rate[1:])
    say(
        f"TIGER training: {ours_best:.0f} examples/s, transformers {theirs_best:.0f}: {ours_best / theirs_best:.1f} times "
        "(target 2.5)"
    )


@pytest.mark.data
@pytest.mark.parametrize(("beams", "target"), [(20, 3), (50, 5)])
def test_beam_search_users_a_second(beauty: RetrievalData, beams: int, target: int) -> None:
    """Target 3 and 5 times ``generate``, same lists."""
    sids = catalogue(beauty.n_items)
    layout, trie = CodeLayout.of(sids), SidTrie.of(sids, RUNTIME)
    tokens_of = torch.as_tensor(1 + layout.rows(sids.codes))
    ours, theirs = (m.eval() for m in models(0.0))
    some = np.random.default_rng(0).permutation(beauty.test_history.n_users)[: 16 * MORE]
    histories = take_sequences(beauty.test_history, some)
    groups = list(similar_rows(histories, WINDOW, 64))
    allowed: dict[tuple[int, ...], set[int]] = {}
    for row in tokens_of.tolist():
        for depth in range(LENGTH):
            allowed.setdefault(tuple(row[:depth]), set()).add(row[depth])
    children = {prefix: sorted(found) for prefix, found in allowed.items()}

    @torch.no_grad()
    def search() -> dict[int, Tensor]:
        found = {}
        for group in groups:
            items, length = prefix_windows(histories, group, WINDOW)
            session = T5Session(
                ours, layout, tokens_of[np.maximum(items, 0)].flatten(1), torch.as_tensor(length * LENGTH), 1.0
            )
            beam = beam_search(session, trie, beams)
            found.update(zip(group.tolist(), beam.sid, strict=True))
        return found

    items, _ = prefix_windows(histories, np.arange(16), WINDOW)
    tokens, mask = padded(items, tokens_of)

    @torch.no_grad()
    def generate() -> Tensor:
        return theirs.generate(
            tokens,
            attention_mask=mask,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=LENGTH,
            length_penalty=0.0,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, seen: children[tuple(seen.tolist()[1:])],
        )

    our_time, found = seconds(search)
    their_time, made = seconds(generate)
    first = torch.as_tensor(1 + layout.offsets[:-1])
    lists = made.view(len(items), beams, -1)[..., 1:]
    same = [torch.equal(first + trie.classes[found[user]], list_) for user, list_ in enumerate(lists)]
    mine, peer = len(some) / our_time, len(items) / their_time
    say(
        f"TIGER beam {beams}: {mine:.0f} users/s, generate {peer:.0f}: {mine / peer:.1f} times (target {target}); "
        f"{sum(same)} of {len(same)} lists equal"
    )
