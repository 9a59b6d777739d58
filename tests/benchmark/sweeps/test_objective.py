"""One real trial: what reaches the pruner, that pruning ends the training, and what a cached trial reports."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.sweeps.objective import code_bits, objective_names
from sidbench.benchmark.sweeps.request import SweepRequest
from sidbench.benchmark.sweeps.session import open_session
from sidbench.benchmark.sweeps.worker import Pruned
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.base import SemanticIds

REQUEST = SweepRequest(
    ("opq",),
    "synthetic",
    ("mtp",),
    3,
    budget="smoke",
    threads=1,
    device="cpu",
    overrides=(
        "dataset.n_items=60",
        "dataset.n_users=60",
        "dataset.picture_size=0",
        "features.vision=none",
        "behaviour.epochs=1",
        "retriever.epochs=4",
        "retriever.patience=0",
        "tokenizer.codebook_size=16",
        "tokenizer.code_length=choice(2,4)",
    ),
)


@pytest.mark.slow
def test_a_trial_reports_its_recommenders_epochs_and_pruning_ends_the_training(home: Path) -> None:
    session = open_session(REQUEST, "opq", Reporter())
    values = {**session.plan.space.default, "tokenizer.code_length": 2}
    seen: list[tuple[int, float]] = []

    def prune(step: int, value: float) -> None:
        seen.append((step, value))
        if step == 2:
            raise Pruned("enough")

    with pytest.raises(Pruned):
        session.objective(values, prune)
    assert [step for step, _ in seen] == [1, 2]  # epochs 3 and 4 were not trained, the behaviour encoder's not reported
    assert not list((home / "cache" / "retrieval.fit").glob("*/stage.json"))
    whole: list[tuple[int, float]] = []
    outcome = session.objective(values, lambda step, value: whole.append((step, value)))
    assert [step for step, _ in whole] == [1, 2, 3, 4] and dict(whole[:2]) == pytest.approx(dict(seen))
    assert outcome.values == (max(value for _, value in whole),)
    again: list[tuple[int, float]] = []
    cached = session.objective(values, lambda step, value: again.append((step, value)))
    assert again == whole and cached.values == outcome.values  # from the cache, the pruner learns the same
    assert not list((home / "cache").glob("*.evaluate"))
    assert outcome.facts["measured"]["0"]["code_bits"] == pytest.approx(2 * math.log2(16))
    refused = {**values, "tokenizer.code_length": 3_000}
    with pytest.raises(Exception, match="code_length") as caught:
        session.objective(refused, lambda step, value: None)
    assert type(caught.value).__name__ == "Refused"


def test_bits_count_the_positions_in_use() -> None:
    codes = np.array([[0, 1, 2], [3, -1, 0], [1, -1, -1]], np.int32)
    sids = SemanticIds(codes, np.array([4, 2, 8], np.int32), ordered=False)
    assert code_bits(sids) == pytest.approx(((2 + 1 + 3) + (2 + 3) + 2) / 3)


def test_objectives_have_names_and_old_words_for_them() -> None:
    assert objective_names("retrieval") == ("ndcg",)
    assert objective_names("ndcg, code_bits,retrieval,seconds") == ("ndcg", "code_bits", "seconds")
    for text in ("", "recall"):
        with pytest.raises(InputError, match="objective"):
            objective_names(text)
