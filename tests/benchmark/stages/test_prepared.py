"""What every run on one dataset shares: the test set is the same for all seeds, and the tie rule is the one asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sidbench.benchmark.config.compose import ComposedRun, RunConfig
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.pipeline import StageContext
from sidbench.benchmark.stages.prepared import Prepared, prepare
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.base import Dataset
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.synthetic import Synthetic

PLANTED = Synthetic(Synthetic.config_class(n_items=40, n_users=60, branching=(3, 2), picture_size=8)).load(LocalFiles())
EVENTS = PLANTED.interactions
# Two events of a user share their time, so that the tie rule decides who the targets are.
POSITION = np.concatenate([np.arange(n) for n in np.bincount(EVENTS.user)])
TIED = replace(PLANTED, interactions=replace(EVENTS, timestamp=10_000 + EVENTS.user * 100 + POSITION // 2))


def prepared(dataset: Dataset, root: Path, **run: object) -> Prepared:
    config = RunConfig(tokenizer=None, recommenders=(), ranking_split="per_user_time", **run)  # type: ignore[arg-type]
    nothing = dict.fromkeys(ComposedRun.__dataclass_fields__)
    context = StageContext(StageCache(root, Reporter()), local_runtime(threads=1))
    return prepare(ComposedRun(**{**nothing, "run": config}), dataset, context, LocalFiles())


def test_every_seed_meets_the_same_events(tmp_path: Path) -> None:
    one, two = (prepared(TIED, tmp_path, seed=seed) for seed in (0, 1))
    assert one.retrieval_key == two.retrieval_key and one.ranking_key == two.ranking_key
    np.testing.assert_array_equal(one.retrieval.test_target, two.retrieval.test_target)


def test_the_tie_rule_is_the_one_asked_for(tmp_path: Path) -> None:
    file, shuffled = (prepared(TIED, tmp_path, ties=ties) for ties in ("file", "shuffled"))
    last = np.flatnonzero(np.diff(np.append(EVENTS.user, -1)))
    assert file.retrieval.test_target.tolist() == EVENTS.item[last].tolist()
    assert np.mean(file.retrieval.test_target != shuffled.retrieval.test_target) > 0.1
    assert file.protocol("retrieval", (10,))["ties"] == "file"
    assert shuffled.protocol("retrieval", (10,))["ties"] == "shuffled"


def test_without_ratings_there_is_no_ranking_task(tmp_path: Path) -> None:
    silent = replace(PLANTED, interactions=replace(EVENTS, rating=None))
    assert prepared(silent, tmp_path).ranking is None
    assert prepared(PLANTED, tmp_path).ranking is not None
