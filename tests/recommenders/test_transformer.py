"""Attention blocks: rotary properties, causality, dropout that keeps expectations."""

import pytest
import torch

from sidbench.recommenders.blocks.attention import rotary_angles, rotate
from sidbench.recommenders.blocks.transformer import (
    Dropout,
    PreNormBlock,
    SasrecBlock,
    initialise,
)

CPU = torch.device("cpu")


def rotated(vector: torch.Tensor, position: int) -> torch.Tensor:
    angles = rotary_angles(position + 1, len(vector), 10000.0, CPU)
    return rotate(vector.expand(1, position + 1, 1, -1), angles)[0, position, 0]


def test_rotation_by_hand():
    # width 2 has the single frequency 1: position 1 turns (1, 0) by one radian.
    torch.testing.assert_close(rotated(torch.tensor([1.0, 0.0]), 1), torch.tensor([0.5403023, 0.8414710]))
    # width 4, second pair: frequency 10000^(-1/2) = 0.01.
    torch.testing.assert_close(rotated(torch.tensor([0.0, 0.0, 1.0, 0.0]), 3)[2:], torch.tensor([0.9995500, 0.0299955]))


def test_rotated_products_depend_on_the_distance_only_and_norms_stay():
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    near = rotated(q, 3) @ rotated(k, 1)
    torch.testing.assert_close(rotated(q, 12) @ rotated(k, 10), near, atol=1e-5, rtol=1e-5)
    assert abs(float(rotated(q, 12) @ rotated(k, 3) - near)) > 1e-3
    torch.testing.assert_close(rotated(q, 9).norm(), q.norm())
    torch.testing.assert_close(rotated(q, 0), q)


@pytest.mark.parametrize("block", [PreNormBlock(8, 2, 16, 0.5, 1e4), SasrecBlock(8, 2, 0.5)])
def test_blocks_are_causal_so_padding_behind_the_end_changes_nothing(block):
    generator = torch.Generator().manual_seed(1)
    initialise(block, generator)
    block.eval()
    x = torch.randn(3, 6, 8, generator=generator)
    changed = x.clone()
    changed[:, 4:] = 100.0
    torch.testing.assert_close(block(x)[:, :4], block(changed)[:, :4])
    torch.testing.assert_close(block(x[:, :4]), block(x)[:, :4])
    assert not torch.allclose(block(x)[:, 4:], block(changed)[:, 4:])


def test_rotary_block_sees_order():
    block = PreNormBlock(8, 2, 16, 0.0, 1e4).eval()
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(block(x)[0, 2], block(x[:, [1, 0, 2]])[0, 2], atol=1e-5)


def test_initialise_depends_on_the_generator_only():
    a, b = SasrecBlock(8, 2, 0.0), SasrecBlock(8, 2, 0.0)
    for block in (a, b):
        initialise(block, torch.Generator().manual_seed(5))
    for left, right in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    layer, x = Dropout(rate), torch.ones(1000, 333)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = layer.train()(x)
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(round(256 * rate) / 256, abs=4 * (0.25 / x.numel()) ** 0.5)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(y.max()) == pytest.approx(256 / (256 - round(256 * rate)))
    assert layer.eval()(x) is x
