"""Residual codebooks fitted level by level: what RQ-KMeans and the methods that differ in one level's clustering share.

``r_0 = x``; for every position ``C_p`` from the rows ``r_{p-1}``, ``c_p = argmin_k ||r_{p-1} - C_p[k]||^2 + price_p[k]``,
``r_p = r_{p-1} - C_p[c_p]``; ``x_hat = sum_p C_p[c_p]``. Prices are 0 unless a level balances its clusters: they then
reproduce the balanced partition for single items (see ``blocks/clustering/kmeans.py``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.mapped import BLOCK_ROWS
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds, Tokenizer, check_capacity, check_content
from sidbench.tokenizers.blocks.clustering.kmeans import assign
from sidbench.tokenizers.blocks.training.content import (
    content_like,
    content_rows,
    content_widths,
    fitting_rows,
    load_module,
    split_content,
    state_entry,
    widths_from_state,
    widths_state,
)


class Level(NamedTuple):
    """One fitted level: centres ``[K, D]``, codes int64 ``[N]`` of the fitted rows, prices ``[K]`` or ``None`` for zeros."""

    centres: Tensor
    codes: Tensor
    prices: Tensor | None = None


LevelFit = Callable[[Tensor, Rng], Level]  # of residuals [N, D]


@dataclass(frozen=True)
class ResidualLevels:
    """Fitted levels and what they make of the rows they were fitted on.

    centres ``[L, K, D]``; prices ``[L, K]``; codes int64 ``[N, L]``; energies: mean squared residual before the first
    level (about the mean row) and after each, ``L + 1`` numbers.
    """

    centres: Tensor
    prices: Tensor
    codes: Tensor
    energies: tuple[float, ...]


def fit_levels(x: Tensor, levels: int, fit_level: LevelFit, rng: Rng) -> ResidualLevels:
    """Fit ``levels`` codebooks one after another, each on what the earlier ones leave of the rows ``[N, D]``."""
    residual, centres, prices, codes = x.clone(), [], [], []
    mean = x.mean(0)
    energies = [_energy(part - mean for part in x.split(BLOCK_ROWS))]
    for level in range(levels):
        found = fit_level(residual, rng.child("level", level))
        for part, own in zip(residual.split(BLOCK_ROWS), found.codes.split(BLOCK_ROWS), strict=True):
            part -= found.centres[own]  # in place and by blocks: a second copy of the rows may not fit
        energies.append(_energy(residual.split(BLOCK_ROWS)))
        centres.append(found.centres)
        codes.append(found.codes)
        prices.append(found.centres.new_zeros(len(found.centres)) if found.prices is None else found.prices)
    return ResidualLevels(torch.stack(centres), torch.stack(prices), torch.stack(codes, 1), tuple(energies))


def _energy(blocks: Iterable[Tensor]) -> float:
    """Mean squared length of the rows of all blocks ``[n, D]``."""
    return float(torch.cat([block.square().sum(1) for block in blocks]).mean())


def encode_levels(x: Tensor, centres: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int64 ``[N, L]`` of rows ``[N, D]``, and what they leave ``[N, D]``; each row by itself."""
    codes = torch.empty(len(x), len(centres), dtype=torch.int64, device=x.device)
    for level, (centre, price) in enumerate(zip(centres, prices, strict=True)):
        codes[:, level] = assign(x, centre, prices=price)[0]
        x = x - centre[codes[:, level]]
    return codes, x


class ResidualCodebooks(Tokenizer):
    """Base of tokenizers that fit residual codebooks on content: ``centres_ [L, K, D]``, ``prices_ [L, K]``.

    ``tuned_``: module that maps content to what is quantised; ``None`` for none.
    """

    tuned_: nn.Module | None = None

    # -- what methods change -------------------------------------------------------------------------------------
    @abstractmethod
    def fit_level(self, residual: Tensor, rng: Rng, runtime: Runtime) -> Level:
        """One level from the residuals ``[N, D]`` of the fitted items; ``codes`` as ``encode`` will give them."""

    def tune(self, content: Tensor, features: ItemFeatures, rng: Rng, runtime: Runtime) -> nn.Module | None:
        """A module trained to map content ``[N, D_c]`` to what is quantised ``[N, D]``, or ``None``: content itself."""
        return None

    def untrained(self, inputs: int) -> nn.Module | None:
        """A module of the shape that ``tune`` returns for content of width ``inputs``, to load a state into."""
        return None

    # -- the life cycle ------------------------------------------------------------------------------------------
    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c = self.config
        rows = fitting_rows(features, c.fit_items, self.name, runtime)
        check_capacity(c, len(rows), self.name)
        check_content(features, self.name)
        self.widths_ = content_widths(features)
        if self.untrained(sum(self.widths_.values())) is None:
            x = runtime.tensor(content_rows(features, rows))
        else:  # tuning pairs any two items, so all of them are held
            content = runtime.tensor(features.concatenated())
            self.tuned_ = self.tune(content, features, rng.child("tuning"), runtime)
            x = embed(self.tuned_, content)[torch.as_tensor(rows, device=runtime.device)]
        levels = fit_levels(x, c.code_length, lambda residual, node: self.fit_level(residual, node, runtime), rng)
        self.centres_, self.prices_ = to_numpy(levels.centres), to_numpy(levels.prices)
        first = max(levels.energies[0], 1e-12)
        for level in range(c.code_length):
            counts = torch.bincount(levels.codes[:, level], minlength=c.codebook_size)
            self._diagnostics[f"residual_level_{level + 1}"] = levels.energies[level + 1] / first
            self._diagnostics[f"largest_over_mean_level_{level + 1}"] = float(counts.max()) * c.codebook_size / len(rows)
        self._diagnostics["loss_native"] = levels.energies[-1]
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        x = embed(self.tuned_, runtime.tensor(content_like(features, self.widths_, self.name)))
        codes, left = encode_levels(x, runtime.tensor(self.centres_), runtime.tensor(self.prices_))
        decoded = split_content(to_numpy(x - left), self.widths_) if self.tuned_ is None else {}
        sizes = np.full(len(self.centres_), self.centres_.shape[1], np.int32)
        return SemanticIds(to_numpy(codes).astype(np.int32), sizes, ordered=True, reconstruction=decoded)

    def code_costs(self, features: ItemFeatures, runtime: Runtime) -> np.ndarray:
        """Distance (plus price) of each item's last residual to every code of the last level, float32 ``[N, K]``."""
        x = embed(self.tuned_, runtime.tensor(content_like(features, self.widths_, self.name)))
        centres, prices = runtime.tensor(self.centres_), runtime.tensor(self.prices_)
        left = encode_levels(x, centres[:-1], prices[:-1])[1]
        offset = centres[-1].square().sum(1) + prices[-1]
        return to_numpy(torch.addmm(offset, left, centres[-1].t(), alpha=-2) + left.square().sum(1, keepdim=True))

    def state_dict(self) -> dict[str, np.ndarray]:
        tuned = {} if self.tuned_ is None else self.tuned_.state_dict()
        return {
            "centres": self.centres_,
            "prices": self.prices_,
            **widths_state(self.widths_),
            **{f"tuned/{name}": to_numpy(tensor) for name, tensor in tuned.items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c = self.config
        self.widths_ = widths_from_state(state, self.name)
        self.tuned_ = self.untrained(sum(self.widths_.values()))
        if self.tuned_ is not None:
            load_module(self.tuned_, state, self.name, prefix="tuned/")
        width = sum(self.widths_.values()) if self.tuned_ is None else None
        self.centres_ = state_entry(state, "centres", (c.code_length, c.codebook_size, width), self.name)
        self.prices_ = state_entry(state, "prices", (c.code_length, c.codebook_size), self.name)


@torch.no_grad()
def embed(tuned: nn.Module | None, content: Tensor) -> Tensor:
    """What is quantised ``[N, D]``: the content vectors, or their tuned embedding."""
    return content if tuned is None else tuned.to(content.device)(content)
