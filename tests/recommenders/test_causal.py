"""The causal transformer block: against torch's own encoder layer, and its cached decoding against teacher forcing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.causal import CachedDecoder, CausalBlock, causal_attention, shared_attention


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (96, 2), (7, 3), (12, 5), (5, 51), (3, 33), (10, 16), (2, 204)])
def test_spans_equal_plain_attention_and_its_gradients(batch: int, length: int) -> None:
    packed, weight = draw(batch, length, 3 * 24, seed=batch), draw(batch, length, 24, seed=batch + 1)
    ours, theirs = packed.clone().requires_grad_(), packed.clone().requires_grad_()
    q, k, v = (x.transpose(1, 2) for x in theirs.view(batch, length, 3, 3, 8).unbind(2))
    left = causal_attention(ours, 3)
    right = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, 24)
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    (left * weight).sum().backward()
    (right * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_sequences_of_a_span_do_not_see_each_other() -> None:
    packed = draw(8, 4, 3 * 8)
    changed = packed.clone()
    changed[2] = 1e4
    left, right = causal_attention(packed, 2), causal_attention(changed, 2)
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(left[others], right[others])


def block_of(width: int, heads: int, seed: int) -> CausalBlock:
    block = CausalBlock(width, heads, 4 * width, 0.0)
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed + number) * 0.3)
    return block.eval()


def test_a_block_is_torchs_pre_norm_encoder_layer_under_a_causal_mask() -> None:
    block = block_of(16, 4, 3)
    oracle = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    names = {
        "attention_norm": "norm1",
        "forward_norm": "norm2",
        "query_key_value.": "self_attn.in_proj_",
        "output": "self_attn.out_proj",
        "feed_forward.0": "linear1",
        "feed_forward.2": "linear2",
    }
    state = {}
    for name, value in block.state_dict().items():
        ours = next(n for n in names if name.startswith(n))
        state[name.replace(ours, names[ours])] = value
    oracle.load_state_dict(state)
    x = draw(6, 7, 16)
    with torch.no_grad():
        expected = oracle(x, src_mask=nn.Transformer.generate_square_subsequent_mask(7), is_causal=True)
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_a_shared_history_equals_the_history_repeated_for_every_hypothesis() -> None:
    batch, width, heads, past, recent, size = 2, 5, 3, 4, 2, 6
    query, history = draw(batch, width, heads, size), draw(2, batch, heads, past, size, seed=1)
    own = draw(2, batch, width, heads, recent, size, seed=2)
    hidden = torch.zeros(batch, 1, 1, past)
    hidden[1, ..., 2:] = -torch.inf
    mixed = shared_attention(query, (history[0], history[1]), hidden, (own[0], own[1]))
    for b, kept in ((0, 4), (1, 2)):
        for w in range(width):
            keys, values = (torch.cat([history[i, b, :, :kept], own[i, b, w]], dim=1) for i in range(2))
            alone = F.scaled_dot_product_attention(query[b, w, :, None], keys, values, scale=1.0)
            torch.testing.assert_close(mixed[b, w], alone.flatten(), atol=1e-5, rtol=1e-5)


def test_cached_decoding_follows_parents_and_equals_the_whole_sequence_at_once() -> None:
    blocks = nn.ModuleList(block_of(16, 2, seed) for seed in (5, 50))
    generator = torch.Generator().manual_seed(9)
    lengths = torch.tensor([4, 1, 6])
    history = draw(3, 6, 16)
    with torch.no_grad():
        cache = CachedDecoder(blocks, history, lengths - 1)

        def whole(tokens: Tensor) -> Tensor:
            for block in blocks:
                tokens = block(tokens)
            return tokens[0, -1]

        for b in range(3):
            torch.testing.assert_close(cache.newest[b], whole(history[b : b + 1, : lengths[b]]), atol=1e-5, rtol=1e-5)
        paths = [[history[b, : lengths[b]]] for b in range(3)]
        for step, width in enumerate((3, 5, 2)):
            parent = torch.randint(len(paths[0]), (3, width), generator=generator)
            x = draw(3, width, 16, seed=70 + step)
            made = cache.advance(parent, x)
            paths = [[torch.cat([paths[b][int(parent[b, w])], x[b, w : w + 1]]) for w in range(width)] for b in range(3)]
            for b in range(3):
                for w in range(width):
                    torch.testing.assert_close(made[b, w], whole(paths[b][w][None]), atol=1e-5, rtol=1e-5)
