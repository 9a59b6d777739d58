"""Conformance checks of recommenders, for every one of the suite and for strangers' (``bench plugin check``).

On 23 planted items whose SIDs hold every difficulty (shared SIDs, PAD), with the "smoke" budget of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from sidbench.benchmark.testing.checks import (
    CheckResult,
    ConformanceError,
    NotApplicable,
    PluginCheck,
    checks_of,
    conforming,
    must_refuse,
    plugin_class,
    require,
)
from sidbench.benchmark.testing.contract import COMMON, Case, metadata
from sidbench.benchmark.testing.planted import (
    N_ITEMS,
    N_USERS,
    as_sequences,
    make_chain,
    make_ranking,
    make_retrieval,
    make_sids,
)
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import (
    COMBINATIONS,
    Ranker,
    RankingData,
    RankingRows,
    Recommender,
    RecommenderInfo,
    RetrievalData,
    Retriever,
    TargetRanks,
)
from sidbench.tokenizers.base import SemanticIds

POISON = -(10**6)
COVER = 4  # items that a narrow beam must reach

__all__ = [
    "N_ITEMS",
    "N_USERS",
    "as_sequences",
    "check_recommender",
    "make_chain",
    "make_ranking",
    "make_retrieval",
    "make_sids",
    "recommender_checks",
]


def recommender_checks(cls: type[Recommender], config: Mapping[str, Any] | None = None) -> list[PluginCheck]:
    """Every conformance check of a retriever or ranker class.

    config: overrides of the class's settings, on top of its "smoke" budget.
    """
    plugin_class(cls, Recommender)
    if issubclass(cls, Retriever):
        return checks_of(cls, Retriever, RETRIEVER_CHECKS, RetrieverCase(cls, config))
    if issubclass(cls, Ranker):
        return checks_of(cls, Ranker, RANKER_CHECKS, RankerCase(cls, config))
    raise ConformanceError(f"{cls.__name__}: a Recommender must extend Retriever or Ranker.")


def check_recommender(cls: type[Recommender], config: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run ``recommender_checks``; the results. Raises one ``ConformanceError`` that names every failed check."""
    return conforming(cls, recommender_checks(cls, config))


class RecommenderCase(Case):
    """What checks of retrievers and rankers share."""

    kind = "recommender"
    info_class = RecommenderInfo

    def make(self, **more: Any) -> Any:
        """As for every plugin; one without a "smoke" budget would train for minutes in each check."""
        if "smoke" not in self.cls.budgets:
            raise NotApplicable('needs budgets["smoke"]')
        return super().make(**more)

    def has(self, *names: str) -> bool:
        """Whether the config has these settings."""
        return set(names) <= {f.name for f in fields(self.cls.config_class)}

    @cached_property
    def sids(self) -> SemanticIds | None:
        """SIDs of the planted catalogue, ``None`` for a model that reads none."""
        return make_sids() if self.make().reads_sids else None

    def without_sids(self) -> SemanticIds:
        """SIDs of the planted catalogue; the check does not apply to a model that reads none."""
        if self.sids is None:
            raise NotApplicable("reads no SIDs")
        return self.sids

    @property
    def single(self) -> SemanticIds | None:
        """SIDs of a catalogue of one item."""
        return None if self.sids is None else make_sids(1, pad=False)


class RetrieverCase(RecommenderCase):
    """A retriever class, fitted once."""

    @cached_property
    def data(self) -> RetrievalData:
        return make_retrieval()

    def fit(self, data: RetrievalData, sids: SemanticIds | None, **settings: Any) -> Retriever:
        model: Retriever = self.make(**settings)
        return model.fit(data, sids, Rng(7), self.runtime)

    def rank(self, model: Retriever, data: RetrievalData | None = None, sids: SemanticIds | None = None) -> TargetRanks:
        """Ranks of the test targets; by default of the planted data with its SIDs."""
        data = self.data if data is None else data
        return model.rank_targets(data.test_history, data.test_target, self.sids if sids is None else sids, self.runtime)

    @cached_property
    def model(self) -> Retriever:
        return self.fit(self.data, self.sids)

    @cached_property
    def ranks(self) -> TargetRanks:
        return self.rank(self.model)


class RankerCase(RecommenderCase):
    """A ranker class, fitted once."""

    @cached_property
    def data(self) -> RankingData:
        return make_ranking()

    def fit(self, data: RankingData, sids: SemanticIds | None) -> Ranker:
        model: Ranker = self.make()
        return model.fit(data, sids, Rng(7), self.runtime)

    def score(self, model: Ranker, data: RankingData | None = None) -> np.ndarray:
        """Scores of the test rows; by default of the planted ones."""
        return model.predict(self.data if data is None else data, "test", self.sids, self.runtime)

    @cached_property
    def model(self) -> Ranker:
        return self.fit(self.data, self.sids)

    @cached_property
    def scores(self) -> np.ndarray:
        return self.score(self.model)


def _metadata(case: RecommenderCase) -> None:
    metadata(case)
    task = "retrieval" if issubclass(case.cls, Retriever) else "ranking"
    require(case.cls.info.task == task, f"info.task is {case.cls.info.task!r}, but the base class says {task!r}")
    require("smoke" in case.cls.budgets, 'budgets must hold "smoke"')


def _figures(case: RetrieverCase | RankerCase) -> None:
    _ = case.ranks if isinstance(case, RetrieverCase) else case.scores  # a ranking adds its own figures
    require(case.model.n_parameters > 0, "n_parameters must be positive")
    _declared_figures(case.model)


def _declared_figures(model: Recommender) -> None:
    """Finite numbers, each declared with how those of several processes become one."""
    found, declared = model.diagnostics(), model.combinations()
    require(bool(np.isfinite(list(found.values())).all()), "diagnostics must be finite numbers")
    require(set(declared.values()) <= set(COMBINATIONS), f"diagnostic_combine may hold {', '.join(COMBINATIONS)} only")
    missing = ", ".join(sorted(set(found) - set(declared)))
    words = ", ".join(COMBINATIONS)
    require(not missing, f"diagnostic_combine must say how {missing} of several processes combine: {words}")


def _foreign_state(case: RetrieverCase | RankerCase) -> None:
    broken = dict(case.model.state_dict())
    broken.popitem()
    must_refuse(lambda: case.make().load_state_dict(broken), "a saved state without one entry")


def _missing_sids(case: RetrieverCase | RankerCase) -> None:
    case.without_sids()
    must_refuse(lambda: case.make().fit(case.data, None, Rng(7), case.runtime), "missing SIDs")


def _foreign_sids(case: RetrieverCase | RankerCase) -> None:
    case.without_sids()
    must_refuse(lambda: case.make().fit(case.data, make_sids(5), Rng(7), case.runtime), "SIDs of another catalogue")


# -- retrievers ---------------------------------------------------------------------------------------------------------
def _same(a: TargetRanks, b: TargetRanks) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(TargetRanks))


def _check_ranks(ranks: TargetRanks, when: str) -> None:
    for f in fields(TargetRanks):
        column = getattr(ranks, f.name)
        kind = np.float32 if f.name == "score" else np.int64
        require(
            column.shape == (N_USERS,) and column.dtype == kind,
            f"{when}: {f.name} has {column.dtype} {column.shape}, wanted {kind.__name__} ({N_USERS},)",
        )
    for depth in ("depth", "sid_depth"):
        column = getattr(ranks, depth)
        require(bool(((column >= 1) & (column <= N_ITEMS)).all()), f"{when}: {depth} leaves 1..{N_ITEMS}")
    beyond = np.isnan(ranks.score) & (ranks.better >= ranks.depth) & (ranks.depth < N_ITEMS)
    require(
        bool((np.isfinite(ranks.score) | beyond).all()),
        f"{when}: scores must be finite, or NaN for targets beyond the depth",
    )
    for better, tied in (("better", "tied"), ("sid_better", "sid_tied"), ("masked_better", "masked_tied")):
        b, t = getattr(ranks, better), getattr(ranks, tied)
        require(
            bool((b >= 0).all() and (t >= 1).all() and (b + t <= N_ITEMS).all()),
            f"{when}: {better}, {tied} leave 0..{N_ITEMS}",
        )
    require(
        bool((ranks.masked_better <= ranks.better).all() and (ranks.masked_tied <= ranks.tied).all()),
        f"{when}: masking history may only remove candidates",
    )
    require(
        bool((ranks.sid_better <= ranks.better).all() and (ranks.sid_tied <= ranks.tied).all()),
        f"{when}: there cannot be more SIDs than items",
    )


def _ranks(case: RetrieverCase) -> None:
    _check_ranks(case.ranks, "after fit")


def _equal_ranks(case: RetrieverCase) -> None:
    require(_same(case.ranks, case.rank(case.fit(case.data, case.sids))), "equal seeds must give equal ranks")


def _test_fields_unread(case: RetrieverCase) -> None:
    poisoned = replace(
        case.data,
        test_user=np.full(N_USERS, POISON),
        test_target=np.full(N_USERS, POISON, np.int32),
        test_history=as_sequences([[POISON]] * N_USERS),
    )
    require(_same(case.ranks, case.rank(case.fit(poisoned, case.sids))), "fit must not read the test fields")


def _ranks_restored(case: RetrieverCase) -> None:
    loaded: Retriever = case.make()
    loaded.load_state_dict(case.model.state_dict())
    require(_same(case.ranks, case.rank(loaded)), "state_dict and load_state_dict must restore equal ranks")


def _intervals(case: RetrieverCase) -> None:
    """Over all possible targets of one user the rank intervals tile 0..N, in any order of the rows."""
    history = case.data.test_history.of(0).tolist()
    order = np.random.default_rng(0).permutation(N_ITEMS).astype(np.int32)
    ranks = case.model.rank_targets(as_sequences([history] * N_ITEMS), order, case.sids, case.runtime)
    begins = np.sort(ranks.better)
    starts, sizes = np.unique(begins, return_counts=True)
    require(
        bool(np.array_equal(starts, np.concatenate([[0], np.cumsum(sizes)[:-1]]))),
        "over all targets of a user the rank intervals must tile the catalogue",
    )
    require(
        bool((ranks.tied == sizes[np.searchsorted(starts, ranks.better)]).all()),
        "tied must be the number of items with the target's score",
    )
    # By place and not by score: the scores of items with one SID may differ by rounding from row to row.
    above = ranks.better[np.isin(order, np.unique(history))]
    expected = ranks.better - (above[None, :] < ranks.better[:, None]).sum(axis=1)
    require(
        bool(np.array_equal(ranks.masked_better, expected)),
        "masked_better must leave out the user's distinct history items, and nothing else",
    )


def _truncation(case: RetrieverCase) -> None:
    """A history longer than the window is scored from its newest items, and counted."""
    if not case.has("max_length"):
        raise NotApplicable("has no setting max_length")
    model = case.fit(case.data, case.sids, max_length=4)
    long, short = [5, 6, 7, 8, 1, 2, 3, 4], [1, 2, 3, 4]
    ranks = model.rank_targets(as_sequences([long, short]), np.array([9, 9], np.int32), case.sids, case.runtime)
    require(bool(ranks.better[0] == ranks.better[1]), "only the newest max_length items may matter")
    require(
        model.diagnostics().get("truncated_histories") == 1.0,
        'diagnostics must count "truncated_histories" of the last ranking',
    )


def _narrow_beam(case: RetrieverCase) -> None:
    """A beam of one SID widens until it covers what was asked, and scores what it finds as the widest beam does."""
    if not case.has("beam", "cover"):
        raise NotApplicable("has no settings beam and cover")
    narrow: Retriever = case.make(beam=1, cover=COVER)
    narrow.load_state_dict(case.model.state_dict())
    ranks = case.rank(narrow)
    _check_ranks(ranks, "with a beam of one")
    require(bool((ranks.depth >= COVER).all()), f"a beam must widen until it covers {COVER} items")
    found = np.isfinite(ranks.score)
    require(
        bool(np.allclose(ranks.score[found], case.ranks.score[found], atol=1e-3)),
        "a target's score must not depend on the width of the beam",
    )
    _declared_figures(narrow)


def _empty_history(case: RetrieverCase) -> None:
    empty = as_sequences([[], [1]])
    must_refuse(lambda: case.model.rank_targets(empty, np.zeros(2, np.int32), case.sids, case.runtime), "an empty history")


def _one_item(case: RetrieverCase) -> None:
    data = make_retrieval(n_items=1)
    ranks = case.rank(case.fit(data, case.single), data, case.single)
    require(bool((ranks.better == 0).all() and (ranks.tied == 1).all()), "in a one-item catalogue the target is first")


def _missing_text(case: RetrieverCase) -> None:
    if not case.cls.info.reads_text:
        raise NotApplicable("reads no text")
    must_refuse(lambda: case.fit(replace(case.data, item_text=None), case.sids), "a catalogue without texts")


def _one_sid(case: RetrieverCase) -> None:
    sids = case.without_sids()
    same = replace(sids, codes=np.zeros_like(sids.codes))
    ranks = case.rank(case.fit(case.data, same), sids=same)
    whole = (ranks.better == 0) & (ranks.tied == N_ITEMS) & (ranks.sid_tied == 1)
    require(bool(whole.all()), "items that share a SID must tie exactly: rank interval = whole catalogue")


def _shared_sid(case: RetrieverCase) -> None:
    case.without_sids()
    both = case.data.test_target <= 1
    require(bool((case.ranks.tied[both] >= 2).all()), "items 0 and 1 share a SID, so they must tie")


# -- rankers ------------------------------------------------------------------------------------------------------------
def _scores(case: RankerCase) -> None:
    scores, n_test = case.scores, len(case.data.rows["test"])
    require(
        scores.shape == (n_test,) and scores.dtype == np.float32,
        f"predict gave {scores.dtype} {scores.shape}, wanted float32 ({n_test},)",
    )
    require(bool(np.isfinite(scores).all()), "scores must be finite, also for unseen users and empty histories")


def _equal_scores(case: RankerCase) -> None:
    again = case.score(case.fit(case.data, case.sids))
    require(bool(np.array_equal(case.scores, again)), "equal seeds must give equal scores")


def _with_test(data: RankingData, rows: RankingRows) -> RankingData:
    return replace(data, rows={**data.rows, "test": rows})


def _test_rows_unread(case: RankerCase) -> None:
    hidden = case.data.rows["test"]
    poison = RankingRows(*(np.full_like(getattr(hidden, f.name), POISON) for f in fields(RankingRows)))
    blind = case.fit(_with_test(case.data, poison), case.sids)
    require(bool(np.array_equal(case.scores, case.score(blind))), "fit must not read the test rows")


def _labels_unread(case: RankerCase) -> None:
    hidden = case.data.rows["test"]
    other = case.score(case.model, _with_test(case.data, replace(hidden, label=1 - hidden.label)))
    require(bool(np.array_equal(case.scores, other)), "predict must not read labels")


def _row_order(case: RankerCase) -> None:
    hidden = case.data.rows["test"]
    order = np.random.default_rng(0).permutation(len(hidden))
    shuffled = RankingRows(*(getattr(hidden, f.name)[order] for f in fields(RankingRows)))
    moved = case.score(case.model, _with_test(case.data, shuffled))
    require(bool(np.allclose(case.scores[order], moved, atol=1e-5)), "a row's score must not depend on the row order")


def _scores_restored(case: RankerCase) -> None:
    loaded: Ranker = case.make()
    loaded.load_state_dict(case.model.state_dict())
    require(
        bool(np.array_equal(case.scores, case.score(loaded))), "state_dict and load_state_dict must restore equal scores"
    )


def _one_item_scores(case: RankerCase) -> None:
    data, sids = make_ranking(n_items=1), case.single
    scores = case.fit(data, sids).predict(data, "test", sids, case.runtime)
    require(bool(np.isfinite(scores).all()), "in a one-item catalogue scores must be finite")


RETRIEVER_CHECKS: Mapping[str, Callable[[Any], None]] = {
    **COMMON,
    "metadata": _metadata,
    "ranks": _ranks,
    "figures": _figures,
    "determinism": _equal_ranks,
    "test fields unread": _test_fields_unread,
    "save and load": _ranks_restored,
    "foreign state": _foreign_state,
    "rank intervals": _intervals,
    "long histories": _truncation,
    "narrow beam": _narrow_beam,
    "empty history": _empty_history,
    "one item": _one_item,
    "missing text": _missing_text,
    "one SID for all": _one_sid,
    "shared SID": _shared_sid,
    "missing SIDs": _missing_sids,
    "SIDs of another catalogue": _foreign_sids,
}
RANKER_CHECKS: Mapping[str, Callable[[Any], None]] = {
    **COMMON,
    "metadata": _metadata,
    "scores": _scores,
    "figures": _figures,
    "determinism": _equal_scores,
    "test rows unread": _test_rows_unread,
    "labels unread": _labels_unread,
    "row order": _row_order,
    "save and load": _scores_restored,
    "foreign state": _foreign_state,
    "one item": _one_item_scores,
    "missing SIDs": _missing_sids,
    "SIDs of another catalogue": _foreign_sids,
}
