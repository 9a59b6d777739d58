"""Rendered pictures of planted items: level 1 sets the colours, level 2 the stripes, level 3 the shape in the middle.

Deeper levels stay invisible. Every picture has its own position, phase, brightness and pixel noise.
"""

from __future__ import annotations

import numpy as np

from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.planted.tree import Tree

_CHUNK = 4096
_PIXEL_NOISE = 18.0


def _hue(turn: np.ndarray) -> np.ndarray:
    """RGB in [0, 1], ``[..., 3]``, of a hue given in turns."""
    return 0.5 + 0.5 * np.cos(2.0 * np.pi * (turn[..., None] - np.array([0.0, 1.0, 2.0]) / 3.0))


def _shape(kind: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool: inside shape ``kind`` (any integer) centred at 0; four outlines, then the same ones larger and so on."""
    radius = 0.45 + 0.25 * ((kind // 4) % 3)
    ax, ay = np.abs(x) / radius, np.abs(y) / radius
    disc, square, diamond = ax**2 + ay**2 < 1.0, np.maximum(ax, ay) < 0.85, ax + ay < 1.2
    cross = (np.minimum(ax, ay) < 0.3) & (np.maximum(ax, ay) < 1.1)
    return np.select([kind % 4 == 0, kind % 4 == 1, kind % 4 == 2], [disc, square, diamond], cross)


def render_pictures(tree: Tree, size: int, rng: Rng) -> np.ndarray:
    """uint8 ``[N, size, size, 3]``."""
    draw, n = rng.child("pictures").numpy(), tree.n_items
    path = tree.path()
    levels = np.zeros((n, 3), np.int64)
    levels[:, : min(3, tree.depth)] = path[:, :3]
    branching = (*tree.branching, 1, 1, 1)
    axis = np.linspace(-1.0, 1.0, size)
    pictures = np.empty((n, size, size, 3), np.uint8)
    for begin in range(0, n, _CHUNK):
        level = levels[begin : begin + _CHUNK]
        count = len(level)
        shift, phase = draw.uniform(-0.2, 0.2, (2, count, 1, 1)), draw.uniform(0.0, 1.0, (count, 1, 1))
        brightness = draw.uniform(0.8, 1.0, (count, 1, 1, 1))
        x, y = axis[None, None, :], axis[None, :, None]
        hue = (level[:, 0] + draw.normal(0.0, 0.08, count)) / branching[0]
        angle = (np.pi * level[:, 1] / branching[1])[:, None, None]
        stripes = np.sin(2.0 * np.pi * (2.0 * (x * np.cos(angle) + y * np.sin(angle)) + phase)) > 0.0
        inside = _shape(level[:, 2][:, None, None], x - shift[0], y - shift[1])
        ground, stripe, ink = (_hue(hue + turn)[:, None, None, :] for turn in (0.0, 0.08, 0.5))
        colour = np.where(stripes[..., None], 0.45 + 0.5 * stripe, 0.15 + 0.5 * ground)
        colour = np.where(inside[..., None], ink, colour) * brightness * 255.0
        colour += _PIXEL_NOISE * draw.standard_normal(colour.shape, dtype=np.float32)
        pictures[begin : begin + count] = np.clip(np.rint(colour), 0, 255).astype(np.uint8)
    return pictures
