"""Multi-layer perceptrons with explicit, seeded initialisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def linear(inputs: int, outputs: int, generator: torch.Generator, activation: str = "") -> nn.Linear:
    """A linear layer on the generator's device; bias 0, weights He-normal before ReLU or GELU, else Xavier."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, device=generator.device)
    if activation in ("relu", "gelu"):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    else:
        nn.init.xavier_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(widths: Sequence[int], generator: torch.Generator, activation: str = "relu") -> nn.Sequential:
    """Linear layers ``widths[0] -> ... -> widths[-1]`` with ``activation`` between them, none after the last.

    Weights before an activation are He-normal (before tanh: Xavier), those of the last layer Xavier-normal, biases 0;
    drawn from ``generator``, never from torch's global state.
    """
    layers: list[nn.Module] = []
    pairs = list(zip(widths, widths[1:], strict=False))
    for inputs, outputs in pairs[:-1]:
        layers += [linear(inputs, outputs, generator, activation), ACTIVATIONS[activation]()]
    layers.append(linear(*pairs[-1], generator))
    return nn.Sequential(*layers)
