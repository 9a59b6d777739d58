"""What the stages of a run gave, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from sidbench.benchmark.stages.evaluating import TaskResult
from sidbench.benchmark.stages.tokenizing import Quantisation, Tokenized
from sidbench.benchmark.store.records import StageRecord
from sidbench.datasets.features.base import ItemFeatures


@dataclass(frozen=True)
class RunResult:
    """features, tokenized, quantisation (metrics and vectors of the SIDs): ``None`` for baselines. warnings: each once.
    stages: their costs in order, each once."""

    features: ItemFeatures | None
    tokenized: Tokenized | None
    quantisation: Quantisation | None
    tasks: tuple[TaskResult, ...]
    warnings: tuple[str, ...]
    stages: tuple[StageRecord, ...]
