"""Content embeddings tuned on behaviour before they are quantised: the inputs of QARM and of MMQ-v2's RQ-KMeans.

``f(e) = LayerNorm(W e + b)`` is trained with in-batch InfoNCE on items that are neighbours in training sequences (QARM,
arXiv 2411.11739; the RQ-KMeans of the MMQ-v2 paper, arXiv 2510.25622, section 4.1.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import TokenizerConfig
from sidbench.tokenizers.blocks.quantisers.residual_kmeans import ResidualCodebooks
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches
from sidbench.tokenizers.blocks.training.mlp import linear


@dataclass(frozen=True)
class TuningConfig(TokenizerConfig):
    """Settings of the inputs; ``steps`` to ``width`` only act with ``inputs="behaviour_tuned"``."""

    inputs: str = setting(
        "content",
        "raw content or embeddings tuned on behaviour",
        choices=("content", "behaviour_tuned"),
        paper="behaviour_tuned",
        sweep=("content", "behaviour_tuned"),
    )
    steps: int = setting(20000, "optimiser steps of behaviour tuning", unit="steps", low=1, high=10_000_000)
    warmup_steps: int = setting(500, "linear warm-up of the learning rate", unit="steps", low=0, high=1_000_000)
    batch_size: int = setting(1024, "item pairs a step", unit="pairs", low=2, high=1_000_000)
    learning_rate: float = setting(1e-3, "of AdamW", low=1e-8, high=1, sweep=(1e-4, 3e-3))
    temperature: float = setting(0.07, "of InfoNCE", low=1e-3, high=10)
    window: int = setting(3, "positives: items at most this many steps apart", unit="events", low=1, high=50)
    width: int = setting(256, "tuned embedding", unit="dimensions", low=2, high=8192)


class TunedCodebooks(ResidualCodebooks):
    """Residual codebooks on content or, with ``inputs="behaviour_tuned"``, on its tuned embedding."""

    def untrained(self, inputs: int) -> nn.Module | None:
        c: TuningConfig = self.config
        return _projection(inputs, c.width, torch.Generator()) if c.inputs == "behaviour_tuned" else None

    def tune(self, content: Tensor, features: ItemFeatures, rng: Rng, runtime: Runtime) -> nn.Module | None:
        """Raises ``InputError`` when the training sequences hold no two different neighbours."""
        c: TuningConfig = self.config
        if c.inputs != "behaviour_tuned":
            return None
        pairs = features.sequences.adjacent_pairs(c.window)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        if not len(pairs):
            raise InputError(
                f"{self.name}: behaviour tuning",
                wanted="at least one pair",
                got="no two different neighbours in the training sequences",
                do="set tokenizer.inputs=content",
            )
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

        log = runtime.train(
            TrainingPlan(
                name=f"{self.name}.tuning",
                model=model,
                steps_per_epoch=c.steps,
                epochs=1,
                batch=batches,
                loss=loss,
                rng=rng.child("noise"),
                learning_rate=c.learning_rate,
                weight_decay=1e-4,
                warmup_steps=min(c.warmup_steps, c.steps),
                schedule="cosine",
                batch_setting=("batch_size", c.batch_size),
            )
        )
        self._diagnostics.update(tuning_pairs=float(len(pairs)), tuning_loss=log.parts["loss"])
        return model


def _projection(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(linear(inputs, outputs, generator), nn.LayerNorm(outputs, device=generator.device))
