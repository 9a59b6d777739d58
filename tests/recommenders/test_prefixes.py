"""Prefix instances: which, how often, how padded; and gradients taken part by part."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.testing.recommenders import as_sequences
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.blocks.prefixes import (
    PART_ROWS,
    PrefixInstances,
    in_parts,
    prefix_widths,
    prefix_windows,
    similar_rows,
)


def seen(made: PrefixInstances, epoch: int) -> Counter[tuple[tuple[int, ...], int]]:
    """Multiset of (history, target) of one epoch."""
    found: Counter[tuple[tuple[int, ...], int]] = Counter()
    for index in range(made.steps_per_epoch):
        for part in made.batch(epoch, index):
            for row, length, target in zip(part.items, part.length, part.targets, strict=True):
                assert (row[length:] == -1).all()
                found[tuple(row[:length].tolist()), int(target)] += 1
    return found


def test_every_position_after_the_first_is_a_target_with_the_items_before_it() -> None:
    made = PrefixInstances(as_sequences([[4, 5, 6, 7], [8], [9, 1], []]), 2, 3, Rng(0))
    expected = Counter([((4,), 5), ((4, 5), 6), ((5, 6), 7), ((9,), 1)])
    assert seen(made, 0) == seen(made, 1) == expected
    assert (made.n_targets, made.n_without_target, made.n_truncated, made.steps_per_epoch) == (4, 2, 1, 2)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.integers(1, 9), st.integers(1, 80), st.integers(0, 60))
def test_an_epoch_is_a_share_of_a_permutation_and_nothing_repeats_before_all_was_seen(
    lengths: list[int], max_length: int, batch: int, share: int
) -> None:
    ends = np.cumsum(lengths)
    sequences = as_sequences([list(range(e - n, e)) for e, n in zip(ends, lengths, strict=True)])
    if max(lengths) < 2:
        with pytest.raises(InputError, match="two items"):
            PrefixInstances(sequences, max_length, batch, Rng(1), share)
        return
    made = PrefixInstances(sequences, max_length, batch, Rng(1), share)
    steps = -(-made.n_targets // batch)
    assert 1 <= made.steps_per_epoch <= steps
    drawn: list[int] = []
    for step in range(2 * steps):
        parts = made.batch(*divmod(step, made.steps_per_epoch))
        drawn += [int(t) for part in parts for t in part.targets]
        widths = [part.items.shape[1] for part in parts]
        assert widths == sorted(widths) and set(widths) <= set(prefix_widths(max_length).tolist())
        assert all(len(part.items) == PART_ROWS for part in parts[:-1])
    first, second = drawn[: made.n_targets], drawn[made.n_targets :]
    assert len(set(first)) == len(first) and sorted(first) == sorted(second)


def test_batches_are_a_pure_function_of_epoch_and_index() -> None:
    sequences = as_sequences([list(range(9))] * 20)
    one, other = (PrefixInstances(sequences, 20, 16, Rng(3), 40) for _ in range(2))
    order = [(e, i) for e in range(6) for i in range(one.steps_per_epoch)]
    forwards = {at: one.batch(*at) for at in order}
    for at in reversed(order):
        for a, b in zip(forwards[at], other.batch(*at), strict=True):
            assert np.array_equal(a.items, b.items) and np.array_equal(a.targets, b.targets)
    assert not np.array_equal(one.batch(0, 0)[0].targets, PrefixInstances(sequences, 20, 16, Rng(4)).batch(0, 0)[0].targets)


def test_padding_of_lengths_like_those_of_beauty_stays_below_three_tenths() -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(3 + generator.geometric(0.25, 2000), 60)
    made = PrefixInstances(as_sequences([[0] * int(n) for n in lengths]), 20, 256, Rng(0))
    cells = sum(part.items.size for i in range(made.steps_per_epoch) for part in made.batch(0, i))
    real = sum(int(part.length.sum()) for i in range(made.steps_per_epoch) for part in made.batch(0, i))
    assert real / cells > 0.7


def test_windows_of_histories_hold_the_newest_items_and_similar_rows_cover_each_history_once() -> None:
    histories = as_sequences([[1], [1, 2, 3, 4, 5], [7, 8], [9] * 30])
    items, length = prefix_windows(histories, np.array([2, 1]), 3)
    assert items.tolist() == [[7, 8, -1], [3, 4, 5]] and length.tolist() == [2, 3]
    batches = list(similar_rows(histories, 20, 1))
    assert sorted(np.concatenate(batches).tolist()) == [0, 1, 2, 3] and all(len(b) == 1 for b in batches)


def test_gradients_by_parts_equal_those_of_the_sum_and_scale_with_what_follows() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, requires_grad=True)
    idle = torch.zeros(2, requires_grad=True)
    late = torch.ones(4, requires_grad=True)
    x = torch.randn(6, 3, generator=generator)

    def part(i: int) -> torch.Tensor:
        y = torch.tanh(x[2 * i : 2 * i + 2] @ weight)
        return (y * late).sum() if i == 2 else y.square().sum()

    loss = in_parts(part, 3, [weight, idle, late])
    plain = sum((part(i) for i in range(3)), torch.zeros(()))
    torch.testing.assert_close(loss.detach(), plain.detach())
    (3 * loss).backward()
    expected = torch.autograd.grad(3 * plain, [weight, late])
    torch.testing.assert_close([weight.grad, late.grad], list(expected))
    assert idle.grad is None
