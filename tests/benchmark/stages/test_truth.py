"""Planted truth through the whole pipeline: what must be found is found, what cannot be known is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import normalized_mutual_info_score as nmi

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.planted.oracle import oracle_bounds, oracle_ranks
from sidbench.datasets.synthetic import Synthetic, SyntheticConfig

SIZE = {"n_items": 400, "n_users": 1200}
COMMAND = [
    "run",
    "--dataset",
    "synthetic",
    "--budget",
    "smoke",
    "--threads",
    "1",
    "--json",
    *(f"dataset.{name}={value}" for name, value in SIZE.items()),
    "dataset.branching=[6,3,2]",
]
CONFIG = SyntheticConfig(branching=(6, 3, 2), **SIZE)
TEXT = ["features.text_dim=64"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[RunRecord, Path]]]:
    """Runs of two tokenizers with the SID retriever, and of the item-ID retriever; trained long enough to learn."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("truth")
    patch.setenv("SIDBENCH_HOME", str(home))
    import contextlib
    import io

    found = {}
    sids = [
        "--recommender",
        "mtp",
        "tokenizer.codebook_size=6",
        "tokenizer.code_length=4",
        "retriever.epochs=12",
        "retriever.width=64",
        *TEXT,
    ]
    settings = {
        "rqkmeans": ["--tokenizer", "rqkmeans", *sids],
        "random": ["--tokenizer", "random", *sids],
        "sasrec": [
            "--tokenizer",
            "none",
            "--recommender",
            "sasrec",
            "retriever.epochs=20",
            "retriever.width=32",
            "retriever.learning_rate=0.003",
            "retriever.dropout=0.2",
        ],
    }
    for name, arguments in settings.items():
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = invoke([*COMMAND, *arguments, "retriever.patience=0"])
        assert code == 0
        record = RunRecord.model_validate(json.loads(out.getvalue())["records"][0])
        found[name] = (record, home / "runs" / record.run_id)
    yield found
    patch.undo()


def codes(folder: Path) -> np.ndarray:
    return np.array(pl.read_parquet(folder / "sids.parquet")["codes"].to_list())


def metric(record: RunRecord, name: str, task: str | None = None) -> Any:
    found = record.metric(name, task)
    assert found is not None, name
    return found


def test_residual_kmeans_recovers_the_planted_hierarchy_and_random_codes_do_not(
    runs: dict[str, tuple[RunRecord, Path]],
) -> None:
    top = Synthetic(CONFIG).truth().path[:, 0]
    learned = nmi(top, codes(runs["rqkmeans"][1])[:, 0])
    chance = nmi(top, codes(runs["random"][1])[:, 0])
    permuted = [nmi(top, np.random.default_rng(s).permutation(codes(runs["rqkmeans"][1])[:, 0])) for s in range(20)]
    assert learned > 0.6
    assert chance < max(permuted) + 0.02  # no more than what a shuffled table shows


def test_random_codes_are_at_chance_in_the_probe(runs: dict[str, tuple[RunRecord, Path]]) -> None:
    for modality in ("text", "vision", "behaviour"):
        assert 0.98 <= metric(runs["random"][0], f"probe_{modality}").value <= 1.05
    assert metric(runs["rqkmeans"][0], "probe_text").value < 0.8
    assert metric(runs["rqkmeans"][0], "probe_vision").value < 0.8


def test_the_oracle_meets_its_bound_and_no_model_exceeds_it(runs: dict[str, tuple[RunRecord, Path]]) -> None:
    truth = Synthetic(CONFIG).truth()
    record, folder = runs["sasrec"]
    users = pl.read_parquet(folder / "users_retrieval.parquet")
    user = np.array([int(k.removeprefix("user")) for k in users["user"]])
    target = np.array([int(k.removeprefix("item")) for k in users["target"]])
    last = _last_items(user)
    bound = oracle_bounds(truth, user, last, (10,))
    ranks = oracle_ranks(truth, user, last, target)
    realised = np.clip(10 - ranks["better"], 0, ranks["tied"]) / ranks["tied"]
    error = realised.std() / np.sqrt(len(realised))
    assert abs(realised.mean() - bound["recall@10"]) < 3 * error  # the oracle reaches what it promises
    for name in runs:
        model = metric(runs[name][0], "item_recall_at_10", "retrieval")
        assert model.value < bound["recall@10"] + 3 * error
    popularity = _popularity_recall(target)
    assert metric(record, "item_recall_at_10", "retrieval").value > popularity  # it learned more than counting


def _last_items(user: np.ndarray) -> np.ndarray:
    """The item before the test target of each user: the planted law depends on nothing else of the history."""
    from sidbench.datasets.reading.locate import LocalFiles

    events = Synthetic(CONFIG).load(LocalFiles()).interactions
    ends = np.cumsum(np.bincount(events.user))
    return events.item[ends[user] - 2]


def _popularity_recall(target: np.ndarray) -> float:
    from sidbench.datasets.reading.locate import LocalFiles

    events = Synthetic(CONFIG).load(LocalFiles()).interactions
    starts = np.concatenate([[0], np.cumsum(np.bincount(events.user))])
    held = np.concatenate([starts[1:] - 1, starts[1:] - 2])
    counts = np.bincount(np.delete(events.item, held), minlength=CONFIG.n_items)
    return float(np.isin(target, np.argsort(-counts, kind="stable")[:10]).mean())
