"""What every run on one dataset shares: the test set is the same for all seeds, and the tie rule is the one asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.stages.prepared import Prepared, prepare
from sidbench.datasets.base import Dataset
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.synthetic import Synthetic

PLANTED = Synthetic(Synthetic.config_class(n_items=40, n_users=60, branching=(3, 2), picture_size=8)).load(LocalFiles())
EVENTS = PLANTED.interactions
# Two events of a user share their time, so that the tie rule decides who the targets are.
POSITION = np.concatenate([np.arange(n) for n in np.bincount(EVENTS.user)])
TIED = replace(PLANTED, interactions=replace(EVENTS, timestamp=10_000 + EVENTS.user * 100 + POSITION // 2))


def prepared(dataset: Dataset, **run: object) -> Prepared:
    config = RunConfig(tokenizer=None, recommenders=(), ranking_split="per_user_time", **run)  # type: ignore[arg-type]
    return prepare(config, dataset)


def test_every_seed_meets_the_same_events() -> None:
    one, two = (prepared(TIED, seed=seed) for seed in (0, 1))
    assert one.retrieval_key == two.retrieval_key and one.ranking_key == two.ranking_key
    np.testing.assert_array_equal(one.retrieval.test_target, two.retrieval.test_target)


def test_texts_reach_only_what_reads_them_and_have_a_key_of_their_own() -> None:
    plain, other = prepared(PLANTED), replace(PLANTED, catalog=replace(PLANTED.catalog, text={}, categories=None))
    bare = prepared(other)
    assert plain.retrieval.item_text is None and bare.retrieval_with_text.item_text is None
    texts = plain.retrieval_with_text.item_text
    assert texts is not None and len(texts) == PLANTED.n_items
    assert all(title in text for title, text in zip(PLANTED.catalog.text["title"], texts, strict=True))
    assert plain.retrieval_key == bare.retrieval_key
    assert len({plain.retrieval_key, plain.retrieval_text_key, bare.retrieval_text_key}) == 3


def test_the_tie_rule_is_the_one_asked_for() -> None:
    file, shuffled = (prepared(TIED, ties=ties) for ties in ("file", "shuffled"))
    last = np.flatnonzero(np.diff(np.append(EVENTS.user, -1)))
    assert file.retrieval.test_target.tolist() == EVENTS.item[last].tolist()
    assert np.mean(file.retrieval.test_target != shuffled.retrieval.test_target) > 0.1
    assert file.protocol("retrieval", (10,))["ties"] == "file"
    assert shuffled.protocol("retrieval", (10,))["ties"] == "shuffled"


def test_without_ratings_there_is_no_ranking_task() -> None:
    silent = replace(PLANTED, interactions=replace(EVENTS, rating=None))
    assert prepared(silent).ranking is None
    assert prepared(PLANTED).ranking is not None
