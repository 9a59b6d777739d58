"""Validation targets choose the epoch and teach nothing; what is reported as the validation figure is one.

That ``fit`` does not read test data is part of ``check_recommender``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import make_ranking, make_retrieval, make_sids
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import Ranker, Retriever
from sidbench.recommenders.blocks.exact import expected_ndcg
from sidbench.recommenders.blocks.ranking import area_under_curve
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.tokenizers.base import SemanticIds

RUNTIME = local_runtime(threads=1)


def names(task: str) -> list[str]:
    return [n for n, p in installed().plugins("recommender").items() if p.source == "sidbench" and p.info["task"] == task]


def made(name: str, **settings: Any) -> tuple[Any, SemanticIds | None]:
    cls = installed().load("recommender", name)
    known = {k: v for k, v in settings.items() if k in cls.config_class.__dataclass_fields__}
    return cls(cls.config_class(**{**cls.budgets["smoke"], **known})), make_sids() if cls.info.needs_sids else None


def assert_equal_states(one: Retriever | Ranker, two: Retriever | Ranker) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.parametrize("name", names("retrieval"))
def test_retrievers_learn_nothing_from_validation_targets(name: str) -> None:
    data = make_retrieval()
    target = np.random.default_rng(0).permutation(data.validation_target)
    other = replace(data, validation_target=target)
    assert np.any(target != data.validation_target)
    fits = []
    for given in (data, other):  # of one epoch, so that there is nothing to choose
        model, sids = made(name, epochs=1, patience=0)
        fits.append(model.fit(given, sids, Rng(0), RUNTIME))
    assert_equal_states(*fits)


@pytest.mark.parametrize("name", names("ranking"))
def test_rankers_learn_nothing_from_validation_labels(name: str) -> None:
    data = make_ranking()
    held = data.rows["validation"]
    other = replace(data, rows={**data.rows, "validation": replace(held, label=1 - held.label)})
    fits = []
    for given in (data, other):
        model, sids = made(name, epochs=1, patience=0)
        fits.append(model.fit(given, sids, Rng(0), RUNTIME))
    assert_equal_states(*fits)


@pytest.mark.parametrize("name", ["sasrec", "mtp"])
def test_the_figure_that_chose_the_epoch_is_that_of_the_model_on_validation_targets(name: str) -> None:
    data = make_retrieval()
    model, sids = made(name, epochs=4, patience=0, validation_users=10_000)
    model.fit(data, sids, Rng(0), RUNTIME)
    histories = take_sequences(data.train, data.validation_user)
    ranks = model.rank_targets(histories, data.validation_target, sids, RUNTIME)
    assert model.diagnostics()["validation_ndcg_at_10"] == pytest.approx(expected_ndcg(ranks, 10), rel=1e-5)


@pytest.mark.parametrize("name", names("ranking"))
def test_the_figure_that_chose_the_epoch_is_that_of_the_model_on_validation_rows(name: str) -> None:
    data = make_ranking()
    model, sids = made(name, epochs=3, patience=0)
    model.fit(data, sids, Rng(0), RUNTIME)
    auc = area_under_curve(model.predict(data, "validation", sids, RUNTIME), data.rows["validation"].label)
    assert model.diagnostics()["validation_auc"] == pytest.approx(auc, abs=1e-6)
