"""No training sees a held-out event: redraw those of all users, and everything that is learned from must stay as it is."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.runs.plan import Plan, features_of
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.context import StageContext
from sidbench.benchmark.stages.prepared import Prepared, prepare
from sidbench.benchmark.stages.shared import SharedData
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.base import Dataset
from sidbench.datasets.features.assemble import FeaturesConfig
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.synthetic import Synthetic
from sidbench.recommenders.sasrec import BehaviourConfig

PLANTED = Synthetic(Synthetic.config_class(n_items=40, n_users=80, branching=(3, 2), picture_size=8)).load(LocalFiles())
# A second more an event, so that times leave no doubt which of a user's events come last.
EVENTS = replace(PLANTED.interactions, timestamp=PLANTED.interactions.timestamp + np.arange(len(PLANTED.interactions)))
DATASET = replace(PLANTED, interactions=EVENTS)
LAST_TWO = np.concatenate([np.flatnonzero(EVENTS.user == u)[-2:] for u in range(DATASET.n_users)])
RULES = ["global_time", "per_user_time"]


def prepared(dataset: Dataset, rule: str) -> Prepared:
    return prepare(RunConfig(tokenizer=None, recommenders=(), ranking_split=rule), dataset)


def built(data: Prepared, root: Path) -> ItemFeatures:
    """The features of a run on ``data``. A cache of its own each time, so that nothing is read that other data wrote."""
    context = StageContext(StageCache(root, Reporter()), local_runtime(threads=1))
    config, behaviour = FeaturesConfig(text_dim=8, vision="none"), BehaviourConfig(width=8, epochs=1, patience=0)
    composed = ComposedRun(**{**dict.fromkeys(ComposedRun.__dataclass_fields__), "features": config, "behaviour": behaviour})
    known = {"composed": composed, "prepared": data, "shared": SharedData(), "data_key": "", "locate": LocalFiles()}
    return features_of(Plan(**{**dict.fromkeys(Plan.__dataclass_fields__), **known}), context).value


def redrawn(events: np.ndarray) -> Dataset:
    """The data set with other items and ratings at ``events`` (indices); a mere exchange among users would keep counts."""
    draw = np.random.default_rng(0)
    item, rating = EVENTS.item.copy(), np.array(EVENTS.rating)
    item[events] = draw.integers(DATASET.n_items, size=len(events))
    rating[events] = draw.integers(1, 6, size=len(events))
    return replace(DATASET, interactions=replace(EVENTS, item=item, rating=rating))


def ranking_held_out(of: Prepared) -> np.ndarray:
    assert of.ranking_split is not None
    return np.concatenate([of.ranking_split.validation.row, of.ranking_split.test.row])


def learned_from(features: ItemFeatures) -> dict[str, np.ndarray]:
    arrays = {f"{what}_{m}": a for what in ("modalities", "available") for m, a in getattr(features, what).items()}
    return {
        **arrays,
        "counts": features.train_counts,
        "richness": features.richness,
        "indptr": features.sequences.indptr,
        "items": features.sequences.items,
        "provenance": np.array(features.provenance),
    }


def changed(one: ItemFeatures, two: ItemFeatures) -> set[str]:
    before, after = learned_from(one), learned_from(two)
    assert before.keys() == after.keys()
    return {name for name, array in before.items() if not np.array_equal(array, after[name])}


def test_every_user_is_evaluated_and_no_two_events_of_a_user_share_their_time() -> None:
    assert np.bincount(EVENTS.user).min() >= 3
    assert np.all((np.diff(EVENTS.timestamp) > 0) | (np.diff(EVENTS.user) > 0))
    np.testing.assert_array_equal(EVENTS.row, np.arange(len(EVENTS)))


@pytest.mark.parametrize("rule", RULES)
def test_features_do_not_depend_on_an_event_that_any_protocol_holds_out(rule: str, tmp_path: Path) -> None:
    before = prepared(DATASET, rule)
    held = np.union1d(LAST_TWO, ranking_held_out(before))
    assert len(held) > len(LAST_TWO)  # events that train retrieval and are held out in ranking
    if rule == "global_time":
        assert len(np.setdiff1d(LAST_TWO, ranking_held_out(before)))  # and the other way round
    own = built(before, tmp_path / "before")
    after = built(prepared(redrawn(held), rule), tmp_path / "after")
    assert {"modalities_text", "modalities_behaviour"} <= learned_from(own).keys()
    assert changed(own, after) == set()
    rest = np.setdiff1d(np.arange(len(EVENTS)), held)
    other = built(prepared(redrawn(rest), rule), tmp_path / "other")  # what changes when the training events do
    wanted = {"modalities_behaviour", "counts", "richness", "items", "provenance"}
    assert wanted <= changed(own, other)


@pytest.mark.parametrize("rule", RULES)
def test_training_data_of_retrieval_do_not_depend_on_the_last_two_events(rule: str) -> None:
    before, after = prepared(DATASET, rule), prepared(redrawn(LAST_TWO), rule)
    one, two = before.retrieval, after.retrieval
    np.testing.assert_array_equal(one.train.indptr, two.train.indptr)
    np.testing.assert_array_equal(one.train.items, two.train.items)
    np.testing.assert_array_equal(before.retrieval_counts, after.retrieval_counts)
    assert np.mean(one.validation_target != two.validation_target) > 0.8
    assert np.mean(one.test_target != two.test_target) > 0.8
    for user in range(DATASET.n_users):
        mine = EVENTS.item[EVENTS.user == user].tolist()
        assert one.train.of(user).tolist() == mine[:-2]
        assert one.test_history.of(user).tolist() == mine[:-1]


@pytest.mark.parametrize("rule", RULES)
def test_training_data_of_ranking_do_not_depend_on_its_held_out_events(rule: str) -> None:
    before = prepared(DATASET, rule)
    after = prepared(redrawn(ranking_held_out(before)), rule)
    assert before.ranking is not None and after.ranking is not None
    one, two = before.ranking.rows, after.ranking.rows
    for field in fields(one["train"]):
        np.testing.assert_array_equal(getattr(one["train"], field.name), getattr(two["train"], field.name), field.name)
    np.testing.assert_array_equal(before.ranking_counts, after.ranking_counts)
    assert not np.array_equal(one["test"].item, two["test"].item)
