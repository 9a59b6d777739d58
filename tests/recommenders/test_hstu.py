"""HSTU: its attention by hand and by loops, a packed pass against prefixes, and the planted chain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.hstu import Hstu, HstuConfig, _Layer, _Network, pointwise_attention

N, KEEP = 30, 0.8


def test_conformance() -> None:
    check_recommender(Hstu)


def test_the_planted_chain_is_found() -> None:
    data = make_chain(500)
    config = HstuConfig(width=32, layers=1, dropout=0.1, epochs=12, batch_positions=256, learning_rate=5e-3)
    model = Hstu(config).fit(data, None, Rng(0), local_runtime())
    ranks = model.rank_targets(data.test_history, data.test_target, None, local_runtime())
    recall = float(np.mean((ranks.better == 0) / ranks.tied))
    popular = float(np.mean(data.test_target == np.bincount(data.train.items, minlength=N).argmax()))
    oracle = KEEP + (1 - KEEP) / N
    assert popular + 0.5 < recall < oracle + 3 * (oracle * (1 - oracle) / len(data.test_target)) ** 0.5


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def test_attention_of_three_positions_worked_by_hand() -> None:
    # One head of width 1, window length n = 4: o_t = (1/4) sum_{s<=t} SiLU(q_t k_s + bias[t - s]) v_s.
    q, k, v = ([1.0, -2.0, 0.5], [2.0, 1.0, -1.0], [3.0, 1.0, -4.0])
    bias = [0.5, -1.0, 2.0, 9.0]
    query, key, value = (torch.tensor(x).view(1, 1, 3, 1) for x in (q, k, v))
    made = pointwise_attention(query, key, value, torch.tensor(bias)).flatten()
    expected = [
        silu(2.5) * 3 / 4,
        (silu(-4 - 1) * 3 + silu(-2 + 0.5) * 1) / 4,
        (silu(1 + 2) * 3 + silu(0.5 - 1) * 1 + silu(-0.5 + 0.5) * -4) / 4,
    ]
    torch.testing.assert_close(made, torch.tensor(expected))


def normalised(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + eps).sqrt()


def test_a_layer_equals_equations_one_to_three_in_loops() -> None:
    width, heads, length = 6, 2, 5
    generator = torch.Generator().manual_seed(0)
    layer = _Layer(width, heads, 0.0, 7).eval()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 1.0, generator=generator)
        x = torch.randn(2, length, width, generator=generator)
        made = layer(x)
        for b in range(2):
            parts = [
                torch.nn.functional.silu(layer.project.weight @ normalised(x[b, t], 1e-5) + layer.project.bias)
                for t in range(length)
            ]
            u, v, q, k = ([p[i * width : (i + 1) * width] for p in parts] for i in range(4))
            for t in range(length):
                mixed = torch.zeros(width)
                for h in range(heads):
                    of = slice(3 * h, 3 * h + 3)
                    for s in range(t + 1):
                        weight = silu(float(q[t][of] @ k[s][of] + layer.position_bias[t - s])) / 7
                        mixed[of] += weight * v[s][of]
                expected = x[b, t] + layer.output.weight @ (normalised(mixed, 1e-8) * u[t]) + layer.output.bias
                torch.testing.assert_close(made[b, t], expected, atol=1e-4, rtol=1e-4)


def network_of(layers: int, max_length: int) -> _Network:
    network = _Network(HstuConfig(width=16, layers=layers, max_length=max_length), 12).eval()
    generator = torch.Generator().manual_seed(1)
    network.initialise(generator)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "position_bias" in name:
                parameter.normal_(generator=generator)
    return network


def contexts(network: _Network, items: Tensor) -> Tensor:
    return network(items, torch.full((len(items),), items.shape[1]))


def test_one_pass_equals_every_prefix_alone() -> None:
    network = network_of(3, 9)
    items = torch.randint(12, (4, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = contexts(network, items)
        for t in range(9):
            torch.testing.assert_close(whole[:, t], contexts(network, items[:, : t + 1])[:, -1], atol=1e-5, rtol=1e-5)


def test_the_bias_orders_items_and_is_learned() -> None:
    network = network_of(1, 5)  # in one layer nothing but the bias tells the order of earlier items
    items = torch.tensor([[1, 2, 3]])
    swapped = torch.tensor([[2, 1, 3]])
    assert not torch.allclose(contexts(network, items)[:, -1], contexts(network, swapped)[:, -1])
    contexts(network, items)[:, -1, 0].sum().backward()
    gradient = dict(network.named_parameters())["layers.0.position_bias"].grad
    assert gradient is not None and gradient.ne(0).tolist() == [True] * 3 + [False] * 2
    assert gradient[:3].abs().min() > 1e-6
    with torch.no_grad():
        network.get_parameter("layers.0.position_bias").zero_()
    torch.testing.assert_close(contexts(network, items)[:, -1], contexts(network, swapped)[:, -1])


def test_state_of_another_catalogue_and_unfitted_models_are_refused() -> None:
    model = Hstu(HstuConfig(**Hstu.budgets["smoke"]))
    with pytest.raises(InputError, match="not fitted"):
        model.rank_targets(as_sequences([[0]]), np.array([1], np.int32), None, local_runtime())
    with pytest.raises(InputError, match="item_table"):
        model.load_state_dict({})
    with pytest.raises(InputError, match="width"):
        HstuConfig(width=9, heads=2)
