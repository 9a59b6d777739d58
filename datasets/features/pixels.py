"""The built-in vision encoder: colour, texture and shape statistics, no weights and no network.

Colour: joint RGB and hue, saturation, value histograms (square roots, so that distances are Hellinger's; Swain and
Ballard, IJCV 1991), channel moments and mean colours on a grid. Texture: histograms of gradient orientation on a grid
(Dalal and Triggs, CVPR 2005) and over the whole picture. Shape: the low cosine coefficients of the luminance. Each
group is standardised over the items and divided by the root of its width, so that groups weigh alike, then projected
on principal components. Fitted on the pictures of all catalogue items: side information, no interactions.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sidbench.datasets.base import Catalog
from sidbench.datasets.features.encoding import Encoding, encoding, principal_components
from sidbench.datasets.features.pictures import iterate_pictures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

SIZE = 48
_CHUNK = 128
_CELLS = 4
_ORIENTATIONS = 8
_COSINES = 8


def encode_pixels(catalog: Catalog, dim: int, rng: Rng) -> Encoding:
    """Encode the pictures as float32 ``[N, D]``, ``D = min(dim, pictures - 1, rank)``.

    Items without a usable picture are not available; the reasons are counted. Raises ``InputError`` when fewer than
    two pictures are usable or all are alike.
    """
    counts: Counter[str] = Counter()
    available = np.zeros(len(catalog), bool)
    rows, chunk = [], []
    for item, picture in iterate_pictures(catalog, SIZE, counts):
        available[item] = True
        chunk.append(picture)
        if len(chunk) == _CHUNK:
            rows.append(picture_statistics(np.stack(chunk)))
            chunk = []
    if chunk:
        rows.append(picture_statistics(np.stack(chunk)))
    if available.sum() < 2:
        raise InputError(
            "vision encoder pixels",
            got=f"{available.sum()} usable pictures ({dict(counts)})",
            wanted="at least two",
            do="check the pictures or use features.vision=none",
        )
    groups = [np.concatenate([r[g] for r in rows]) for g in range(len(rows[0]))]
    whole = np.concatenate([_standardised(group) for group in groups], axis=1)
    components = principal_components(whole, dim, rng, "vision encoder pixels")
    return encoding(components, available, dict(counts) | {"vision_width": components.shape[1]})


def picture_statistics(pictures: np.ndarray) -> tuple[np.ndarray, ...]:
    """Colour, colour layout, texture and shape statistics of uint8 ``[B, S, S, 3]``: four float32 ``[B, F_g]``."""
    rgb = pictures.astype(np.float32) / 255.0
    luminance = rgb @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return _colours(rgb), _grid_means(rgb), _orientations(luminance), _low_cosines(luminance)


def _standardised(group: np.ndarray) -> np.ndarray:
    spread = group.std(axis=0, dtype=np.float64)
    centred = group - group.mean(axis=0, dtype=np.float64)
    # A statistic that hardly varies would be blown up to the weight of all others.
    usable = spread > 1e-6
    return np.asarray(centred[:, usable] / spread[usable] / np.sqrt(max(1, usable.sum())), np.float32)


def _histogram(cell: np.ndarray, n_cells: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted shares float32 ``[B, n_cells]`` of integer cells ``[B, ...]``; a picture without weight gets zeros."""
    n = len(cell)
    flat = (cell.reshape(n, -1) + np.arange(n)[:, None] * n_cells).ravel()
    sums = np.bincount(flat, None if weights is None else weights.ravel(), n * n_cells).reshape(n, n_cells)
    return np.asarray(sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-9), np.float32)


def _colours(rgb: np.ndarray) -> np.ndarray:
    """RGB histogram 64, hue 12 (weighted by chroma), saturation 6, value 6, mean, deviation and skew of RGB 9."""
    bins = np.minimum((rgb * 4).astype(np.int64), 3)
    joint = _histogram(bins @ np.array([16, 4, 1]), 64)
    value, low = rgb.max(axis=-1), rgb.min(axis=-1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    safe = np.maximum(chroma, 1e-6)
    sextant = (
        np.where(
            value == red,
            (green - blue) / safe,
            np.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
        )
        % 6.0
    )
    hue = _histogram(np.minimum((sextant * 2).astype(np.int64), 11), 12, chroma)
    others = [_histogram(np.minimum((v * 6).astype(np.int64), 5), 6) for v in (saturation, value)]
    mean = rgb.mean(axis=(1, 2))
    centred = rgb - mean[:, None, None]
    deviation = np.sqrt((centred**2).mean(axis=(1, 2)))
    skew = np.cbrt((centred**3).mean(axis=(1, 2)))
    return np.concatenate([*(np.sqrt(h) for h in (joint, hue, *others)), mean, deviation, skew], axis=1)


def _grid_means(rgb: np.ndarray) -> np.ndarray:
    """Mean colour of each cell of a 4 x 4 grid: 48."""
    n, size = rgb.shape[:2]
    edge = size // _CELLS
    cells = rgb[:, : edge * _CELLS, : edge * _CELLS].reshape(n, _CELLS, edge, _CELLS, edge, 3)
    return cells.mean(axis=(2, 4)).reshape(n, -1)


def _orientations(luminance: np.ndarray) -> np.ndarray:
    """Unsigned gradient orientation, 8 bins, weighted by magnitude: 128 on the 4 x 4 grid, 8 overall, 2 of strength."""
    n, size = luminance.shape[:2]
    down, right = np.gradient(luminance, axis=(1, 2))
    strength = np.hypot(down, right)
    turn = np.arctan2(down, right) / np.pi % 1.0
    # Bins are centred on 0, 22.5, ... degrees: horizontal and vertical edges must not fall on a border.
    bins = np.rint(turn * _ORIENTATIONS).astype(np.int64) % _ORIENTATIONS
    line = np.minimum(np.arange(size) * _CELLS // size, _CELLS - 1)
    cell = (line[:, None] * _CELLS + line[None, :]) * _ORIENTATIONS
    local = _histogram(bins + cell, _CELLS * _CELLS * _ORIENTATIONS, strength)
    overall = _histogram(bins, _ORIENTATIONS, strength)
    energy = np.stack([strength.mean(axis=(1, 2)), strength.std(axis=(1, 2))], axis=1)
    return np.concatenate([np.sqrt(local), np.sqrt(overall), energy], axis=1)


def _low_cosines(luminance: np.ndarray) -> np.ndarray:
    """The 8 x 8 lowest coefficients of the orthonormal cosine transform (DCT-II) without the mean: 63."""
    size = luminance.shape[1]
    steps = np.arange(size)
    basis = np.cos(np.pi * (steps[None, :] + 0.5) * np.arange(_COSINES)[:, None] / size) * np.sqrt(2.0 / size)
    low = np.einsum("ik,bkl,jl->bij", basis, luminance, basis, optimize=True)
    return np.asarray(low.reshape(len(luminance), -1)[:, 1:], np.float32)
