"""RQ-KMeans: residual k-means, plain or balanced, on content or on behaviour-tuned embeddings.

OneRec (arXiv 2502.18965), QARM (arXiv 2411.11739). ``r_0 = e``; for every position ``C_p = kmeans(r_{p-1}, K)``,
``c_p = argmin_k ||r_{p-1} - C_p[k]||^2``, ``r_p = r_{p-1} - C_p[c_p]``; ``e_hat = sum_p C_p[c_p]``. Levels are fitted
one after another.

``balance="balanced"`` is OneRec's capacity algorithm (Algorithm 1). Its partition only exists for the fitted items, so
each centre also gets a price: the item takes ``argmin_k ||r - C[k]||^2 + price[k]``, which splits the fitted items
almost equally, needs nothing stored per item and encodes any item alone (see ``blocks/kmeans.py``).

``inputs="behaviour_tuned"`` first fine-tunes ``f(e) = LayerNorm(W e + b)`` with in-batch InfoNCE on items that are
neighbours in training sequences, as QARM does and as the RQ-KMeans of the MMQ-v2 paper (arXiv 2510.25622) is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import (
    SemanticIds,
    Tokenizer,
    TokenizerConfig,
    TokenizerInfo,
    check_capacity,
    usable_content,
)
from sidbench.tokenizers.blocks.batches import ShuffledBatches
from sidbench.tokenizers.blocks.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.content import (
    content_like,
    content_widths,
    split_content,
    state_entry,
    widths_from_state,
    widths_state,
)
from sidbench.tokenizers.blocks.kmeans import assign, balanced_kmeans, balancing_prices, kmeans
from sidbench.tokenizers.blocks.mlp import linear
from sidbench.tokenizers.blocks.runtime import Runtime, TrainingPlan, to_numpy

INFO = TokenizerInfo(
    title="RQ-KMeans: residual k-means",
    paper="OneRec, arXiv 2502.18965; QARM, arXiv 2411.11739",
    year=2024,
    modalities=("text", "vision", "sequences"),
    required=("text|vision",),
    ordered=True,
    deviations=(
        "Default inputs are the raw content embeddings; inputs=behaviour_tuned gives the variant of QARM and MMQ-v2.",
        "Behaviour tuning: LayerNorm of one linear map to 256 dimensions, InfoNCE with temperature 0.07 on pairs at "
        "most 3 steps apart in a training sequence; QARM's own pair mining is not public.",
        "With behaviour-tuned inputs there is no reconstruction, since the codes approximate the tuned embedding.",
        "Balanced: capacities differ by at most one, clusters are visited in random order, the best pass is kept; "
        "items are then encoded by distance plus a price per centre, so sizes are equal up to a few items.",
    ),
)


@dataclass(frozen=True)
class RqKMeansConfig(TokenizerConfig):
    """Settings of RQ-KMeans; ``steps`` to ``width`` only act with ``inputs="behaviour_tuned"``."""

    balance: str = setting("none", "cluster sizes: as k-means finds them, or equal", choices=("none", "balanced"),
                           sweep=("none", "balanced"))
    inputs: str = setting("content", "raw content or embeddings tuned on behaviour",
                          choices=("content", "behaviour_tuned"), paper="behaviour_tuned",
                          sweep=("content", "behaviour_tuned"))
    iterations: int = setting(100, "most Lloyd iterations, or passes of the balanced algorithm, per level",
                              unit="iterations", low=1, high=10_000, paper=100)
    steps: int = setting(20000, "optimiser steps of behaviour tuning", unit="steps", low=1, high=10_000_000)
    warmup_steps: int = setting(500, "linear warm-up of the learning rate", unit="steps", low=0, high=1_000_000)
    batch_size: int = setting(1024, "item pairs a step", unit="pairs", low=2, high=1_000_000)
    learning_rate: float = setting(1e-3, "of AdamW", low=1e-8, high=1, sweep=(1e-4, 3e-3))
    temperature: float = setting(0.07, "of InfoNCE", low=1e-3, high=10)
    window: int = setting(3, "positives: items at most this many steps apart", unit="events", low=1, high=50)
    width: int = setting(256, "tuned embedding", unit="dimensions", low=2, high=8192)


class RqKMeans(Tokenizer):
    """RQ-KMeans; ``centres_ [L, K, D]``, ``prices_ [L, K]`` (zeros unless balanced), ``tuned_`` the projection."""

    info = INFO
    config_class = RqKMeansConfig
    budgets = {
        "smoke": {**NEURAL_BUDGETS["smoke"], "iterations": 10},
        "quick": {**NEURAL_BUDGETS["quick"], "iterations": 50},
        "standard": {**NEURAL_BUDGETS["standard"], "iterations": 100},
        "paper": {**NEURAL_BUDGETS["paper"], "iterations": 100, "inputs": "behaviour_tuned"},
    }

    def __init__(self, config: RqKMeansConfig) -> None:
        super().__init__(config)
        self._diagnostics: dict[str, float] = {}
        self.tuned_: nn.Module | None = None

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: RqKMeansConfig = self.config
        rows = features.fit_rows(c.fit_items)
        check_capacity(c, len(rows), "rqkmeans")
        content = runtime.tensor(usable_content(features, "rqkmeans"))
        self.widths_ = content_widths(features)
        if c.inputs == "behaviour_tuned":
            self.tuned_ = self._tune(content, features.sequences.adjacent_pairs(c.window), rng.child("tuning"), runtime)
        residual = _embed(self.tuned_, content)[torch.as_tensor(rows, device=runtime.device)]
        energy = float((residual - residual.mean(0)).square().sum(1).mean())
        centres, prices = [], []
        for level in range(c.code_length):
            centre, price = self._level(residual, rng.child("level", level), runtime)
            codes = assign(residual, centre, prices=price)[0]
            residual = residual - centre[codes]
            centres.append(centre)
            prices.append(price)
            left = float(residual.square().sum(1).mean())
            self._diagnostics[f"residual_level_{level + 1}"] = left / max(energy, 1e-12)
            if c.balance == "balanced":
                share = float(torch.bincount(codes, minlength=c.codebook_size).max()) / len(rows)
                self._diagnostics[f"largest_over_mean_level_{level + 1}"] = share * c.codebook_size
        self._diagnostics["loss_native"] = float(residual.square().sum(1).mean())
        self.centres_, self.prices_ = to_numpy(torch.stack(centres)), to_numpy(torch.stack(prices))
        return self

    def _level(self, residual: Tensor, rng: Rng, runtime: Runtime) -> tuple[Tensor, Tensor]:
        """Centres ``[K, D]`` and prices ``[K]`` of one level."""
        c: RqKMeansConfig = self.config
        if c.balance == "balanced":
            centres = balanced_kmeans(residual, c.codebook_size, rng, runtime, passes=c.iterations).centres
            return centres, balancing_prices(residual, centres)
        centres = kmeans(residual, c.codebook_size, rng, runtime, iterations=c.iterations).centres
        return centres, torch.zeros(len(centres), device=centres.device)

    def _tune(self, content: Tensor, pairs: np.ndarray, rng: Rng, runtime: Runtime) -> nn.Module:
        """``f(e) = LayerNorm(W e + b)`` trained with in-batch InfoNCE on item pairs int ``[P, 2]``."""
        c: RqKMeansConfig = self.config
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        if not len(pairs):
            raise InputError("rqkmeans: behaviour tuning", got="no two different neighbours in the training sequences",
                             wanted="at least one pair", do="set tokenizer.inputs=content")
        model = _projection(content.shape[1], c.width, runtime.generator(rng.child("init")))
        table = runtime.tensor(pairs).long()
        batches = ShuffledBatches(len(table), c.batch_size, rng.child("batches"), runtime)

        def loss(rows: Tensor, step: int) -> Tensor:
            anchor, positive = table[rows].unbind(1)
            left, right = (F.normalize(model(content[items]), dim=1) for items in (anchor, positive))
            logits = left @ right.t() / c.temperature
            same = positive[None, :] == positive[:, None]  # the positive again, or the anchor itself: no negatives
            same = (same | (positive[None, :] == anchor[:, None])).fill_diagonal_(False)
            return F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(rows), device=rows.device))

        log = runtime.train(TrainingPlan(
            name="rqkmeans.tuning", model=model, steps_per_epoch=c.steps, epochs=1, batch=batches, loss=loss,
            rng=rng.child("noise"), learning_rate=c.learning_rate, weight_decay=1e-4,
            warmup_steps=min(c.warmup_steps, c.steps), schedule="cosine"))
        self._diagnostics.update(tuning_pairs=float(len(pairs)), tuning_loss=log.parts["loss"])
        return model

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        content = runtime.tensor(content_like(features, self.widths_, "rqkmeans"))
        centres, prices = runtime.tensor(self.centres_), runtime.tensor(self.prices_)
        target = residual = _embed(self.tuned_, content)
        codes = torch.empty(len(content), len(centres), dtype=torch.int64, device=content.device)
        for level, (centre, price) in enumerate(zip(centres, prices, strict=True)):
            codes[:, level] = assign(residual, centre, prices=price)[0]
            residual = residual - centre[codes[:, level]]
        decoded = split_content(to_numpy(target - residual), self.widths_) if self.tuned_ is None else {}
        sizes = np.full(len(centres), centres.shape[1], np.int32)
        return SemanticIds(to_numpy(codes).astype(np.int32), sizes, ordered=True, reconstruction=decoded)

    def state_dict(self) -> dict[str, np.ndarray]:
        tuned = {} if self.tuned_ is None else self.tuned_.state_dict()
        return {"centres": self.centres_, "prices": self.prices_, **widths_state(self.widths_),
                **{f"tuned/{name}": to_numpy(tensor) for name, tensor in tuned.items()}}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: RqKMeansConfig = self.config
        self.widths_ = widths_from_state(state, "rqkmeans")
        total = sum(self.widths_.values())
        width = c.width if c.inputs == "behaviour_tuned" else total
        self.centres_ = state_entry(state, "centres", (c.code_length, c.codebook_size, width), "rqkmeans")
        self.prices_ = state_entry(state, "prices", (c.code_length, c.codebook_size), "rqkmeans")
        self.tuned_ = None
        if c.inputs == "behaviour_tuned":
            model = _projection(total, width, torch.Generator())
            model.load_state_dict({
                name: torch.as_tensor(state_entry(state, f"tuned/{name}", tuple(tensor.shape), "rqkmeans").copy())
                for name, tensor in model.state_dict().items()})
            self.tuned_ = model.eval()

    def diagnostics(self) -> dict[str, float]:
        return dict(self._diagnostics)


def _projection(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(linear(inputs, outputs, generator), nn.LayerNorm(outputs, device=generator.device))


@torch.no_grad()
def _embed(tuned: nn.Module | None, content: Tensor) -> Tensor:
    """What is quantised ``[N, D]``: the content vectors, or their tuned embedding."""
    return content if tuned is None else tuned.to(content.device)(content)
