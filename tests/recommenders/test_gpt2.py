"""The GPT-2 body against the transformers library."""

import pytest
import torch

from sidbench.recommenders.blocks.gpt2 import Gpt2

transformers = pytest.importorskip("transformers")


def oracle_of(ours: Gpt2, heads: int, inner: int) -> torch.nn.Module:
    """transformers' GPT2Model with our weights; its linear layers store the transpose."""
    positions, width = ours.position.shape
    config = transformers.GPT2Config(
        vocab_size=1,
        n_positions=positions,
        n_embd=width,
        n_layer=len(ours.blocks),
        n_head=heads,
        n_inner=inner,
        activation_function="gelu",
    )
    oracle = transformers.GPT2Model(config).eval()
    with torch.no_grad():
        oracle.wpe.weight.copy_(ours.position)
        oracle.ln_f.load_state_dict(ours.final_norm.state_dict())
        for theirs, block in zip(oracle.h, ours.blocks, strict=True):
            theirs.ln_1.load_state_dict(block.attention_norm.state_dict())
            theirs.ln_2.load_state_dict(block.forward_norm.state_dict())
            for target, source in (
                (theirs.attn.c_attn, block.attention.packed),
                (theirs.attn.c_proj, block.attention.output),
                (theirs.mlp.c_fc, block.inner),
                (theirs.mlp.c_proj, block.output),
            ):
                target.weight.copy_(source.weight.T)
                target.bias.copy_(source.bias)
    return oracle


def made() -> Gpt2:
    ours = Gpt2(width=24, layers=2, heads=4, inner=40, positions=40, dropout=0.5)
    generator = torch.Generator().manual_seed(0)
    ours.initialise(generator)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return ours


@pytest.mark.parametrize("batch, length", [(1, 1), (24, 2), (9, 3), (7, 6), (2, 33)])
def test_equals_transformers(batch, length):
    ours = made().eval()
    x = torch.randn(batch, length, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), oracle_of(ours, 4, 40)(inputs_embeds=x).last_hidden_state, atol=2e-5, rtol=1e-4)


def test_padding_behind_the_end_and_neighbours_in_a_span_change_nothing():
    ours = made().eval()
    x = torch.randn(8, 4, 24, generator=torch.Generator().manual_seed(2))
    other = x.clone()
    other[:, 3:], other[1::2] = 9.0, -5.0
    with torch.no_grad():
        torch.testing.assert_close(ours(other)[::2, :3], ours(x)[::2, :3])
        torch.testing.assert_close(ours(x[:1])[0], ours(x)[0])


def test_initialisation_has_gpt2_scales():
    ours = Gpt2(width=64, layers=2, heads=4, inner=128, positions=50, dropout=0.0)
    ours.initialise(torch.Generator().manual_seed(0))
    assert ours.position.std().item() == pytest.approx(0.02, rel=0.1)
    assert ours.blocks[1].inner.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert ours.blocks[1].output.weight.std().item() == pytest.approx(0.01, rel=0.1)
