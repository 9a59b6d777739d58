"""``check_recommender(cls)``: the conformance check every recommender plugin must pass, in-tree or not.

Like scikit-learn's ``check_estimator``: it builds tiny data, runs the whole life cycle, and raises ``StageError`` with
the broken promise. The "smoke" budget of the class is used, so a check takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
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
from sidbench.tokenizers.base import PAD, SemanticIds

N_ITEMS, N_USERS = 23, 40
POISON = -(10**6)


def check_recommender(cls: type[Recommender]) -> None:
    """Run every conformance check on ``cls``. Raises ``StageError`` naming the first broken promise."""
    _check_metadata(cls)
    runtime = local_runtime()
    if issubclass(cls, Retriever):
        _check_retriever(cls, runtime)
    elif issubclass(cls, Ranker):
        _check_ranker(cls, runtime)
    else:
        raise StageError(f"{cls.__name__}: must derive from Retriever or Ranker.")


def _require(condition: bool, cls: type[Any], promise: str) -> None:
    if not condition:
        raise StageError(f"{cls.__name__}: {promise}.")


def _check_metadata(cls: type[Recommender]) -> None:
    info = getattr(cls, "info", None)
    if not isinstance(info, RecommenderInfo):
        raise StageError(f"{cls.__name__}: class attribute info must be a RecommenderInfo.")
    kind = "retrieval" if issubclass(cls, Retriever) else "ranking"
    _require(info.task == kind, cls, f"info.task is {info.task!r}, but the base class says {kind!r}")
    config = getattr(cls, "config_class", None)
    _require(is_dataclass(config), cls, "config_class must be a dataclass")
    known = {f.name for f in fields(config)} if is_dataclass(config) else set()
    for budget, values in cls.budgets.items():
        _require(set(values) <= known, cls, f"budget {budget!r} sets unknown fields {sorted(set(values) - known)}")
        cls.config_class(**values)
    _require("smoke" in cls.budgets, cls, 'budgets must hold "smoke"')


def _make(cls: type[Any], **more: Any) -> Any:
    known = {f.name for f in fields(cls.config_class)}
    return cls(cls.config_class(**{**cls.budgets["smoke"], **{k: v for k, v in more.items() if k in known}}))


def make_sids(n_items: int = N_ITEMS, pad: bool = True) -> SemanticIds:
    """SIDs of three positions (sizes 4, 3, 5), with shared SIDs and, if asked, PAD at the last position."""
    index = np.arange(n_items)
    codes = np.stack([index % 4, index % 3, (index // 4) % 5], axis=1).astype(np.int32)
    if pad:
        codes[::5, 2] = PAD
    codes[1:2] = codes[:1]
    return SemanticIds(codes, np.array([4, 3, 5], np.int32), ordered=False)


def as_sequences(rows: list[list[int]]) -> Sequences:
    """Compressed-row form of lists of items."""
    return Sequences(
        np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        np.array([i for r in rows for i in r], np.int32),
    )


def make_retrieval(n_items: int = N_ITEMS, n_users: int = N_USERS, seed: int = 0) -> RetrievalData:
    """Users who step through the catalogue by one or two, with 4 to 9 events each."""
    generator = np.random.default_rng(seed)
    full = []
    for _ in range(n_users):
        steps = generator.integers(1, 3, size=generator.integers(4, 10))
        full.append(((generator.integers(n_items) + np.cumsum(steps)) % n_items).tolist())
    return _last_two_held_out(full, n_items)


def make_chain(n_users: int, n_items: int = 30, keep: float = 0.8, steps: tuple[int, int] = (6, 6)) -> RetrievalData:
    """Users on a chain that goes to a fixed successor with probability ``keep``, else anywhere.

    steps: fewest and most steps of a user. The best possible recall at 1 is ``keep + (1 - keep) / n_items``.
    """
    generator = np.random.default_rng(0)
    successor = np.roll(generator.permutation(n_items), 1)
    full = []
    for _ in range(n_users):
        row = [int(generator.integers(n_items))]
        for _ in range(steps[0] if steps[0] == steps[1] else generator.integers(steps[0], steps[1] + 1)):
            row.append(int(successor[row[-1]]) if generator.random() < keep else int(generator.integers(n_items)))
        full.append(row)
    return _last_two_held_out(full, n_items)


def _last_two_held_out(full: list[list[int]], n_items: int) -> RetrievalData:
    users = np.arange(len(full))
    validation, test = (np.array([s[-back] for s in full], np.int32) for back in (2, 1))
    return RetrievalData(
        n_items, as_sequences([s[:-2] for s in full]), users, validation, users, as_sequences([s[:-1] for s in full]), test
    )


def _same(a: TargetRanks, b: TargetRanks) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(TargetRanks))


def _refuses(cls: type[Any], promise: str, action: Callable[[], object]) -> None:
    try:
        action()
    except InputError:
        return
    raise StageError(f"{cls.__name__}: {promise} must raise InputError.")


def _check_ranks(cls: type[Any], ranks: TargetRanks, n_users: int, n_items: int, when: str) -> None:
    for f in fields(TargetRanks):
        column = getattr(ranks, f.name)
        kind = np.float32 if f.name == "score" else np.int64
        _require(
            column.shape == (n_users,) and column.dtype == kind,
            cls,
            f"{when}: {f.name} has {column.dtype} {column.shape}, wanted {kind.__name__} ({n_users},)",
        )
    for depth in ("depth", "sid_depth"):
        column = getattr(ranks, depth)
        _require(bool(((column >= 1) & (column <= n_items)).all()), cls, f"{when}: {depth} leaves 1..{n_items}")
    beyond = np.isnan(ranks.score) & (ranks.better >= ranks.depth) & (ranks.depth < n_items)
    _require(
        bool((np.isfinite(ranks.score) | beyond).all()),
        cls,
        f"{when}: scores must be finite, or NaN for targets beyond the depth",
    )
    for better, tied in (("better", "tied"), ("sid_better", "sid_tied"), ("masked_better", "masked_tied")):
        b, t = getattr(ranks, better), getattr(ranks, tied)
        _require(
            bool((b >= 0).all() and (t >= 1).all() and (b + t <= n_items).all()),
            cls,
            f"{when}: {better}, {tied} leave 0..{n_items}",
        )
    _require(
        bool((ranks.masked_better <= ranks.better).all() and (ranks.masked_tied <= ranks.tied).all()),
        cls,
        f"{when}: masking history may only remove candidates",
    )
    _require(
        bool((ranks.sid_better <= ranks.better).all() and (ranks.sid_tied <= ranks.tied).all()),
        cls,
        f"{when}: there cannot be more SIDs than items",
    )


def _check_retriever(cls: type[Retriever], runtime: Runtime) -> None:
    data, sids = make_retrieval(), make_sids() if cls.info.needs_sids else None

    def run(model: Retriever, d: RetrievalData, s: SemanticIds | None) -> TargetRanks:
        return model.fit(d, s, Rng(7), runtime).rank_targets(d.test_history, d.test_target, s, runtime)

    model = _make(cls)
    ranks = run(model, data, sids)
    _check_ranks(cls, ranks, N_USERS, N_ITEMS, "after fit")
    _require(model.n_parameters > 0, cls, "n_parameters must be positive")
    _check_diagnostics(cls, model)
    _require(_same(ranks, run(_make(cls), data, sids)), cls, "equal seeds must give equal ranks")
    poisoned = replace(
        data,
        test_user=np.full(N_USERS, POISON),
        test_target=np.full(N_USERS, POISON, np.int32),
        test_history=as_sequences([[POISON]] * N_USERS),
    )
    blind = _make(cls).fit(poisoned, sids, Rng(7), runtime)
    _require(
        _same(ranks, blind.rank_targets(data.test_history, data.test_target, sids, runtime)),
        cls,
        "fit must not read the test fields",
    )
    loaded = _make(cls)
    loaded.load_state_dict(model.state_dict())
    _require(
        _same(ranks, loaded.rank_targets(data.test_history, data.test_target, sids, runtime)),
        cls,
        "state_dict and load_state_dict must restore equal ranks",
    )
    broken = dict(model.state_dict())
    broken.popitem()
    _refuses(cls, "a saved state without one entry", lambda: _make(cls).load_state_dict(broken))
    _check_every_target(cls, model, data, sids, runtime)
    _check_truncation(cls, sids, runtime)
    _check_narrow_beam(cls, model, ranks, data, sids, runtime)

    empty = as_sequences([[], [1]])
    _refuses(cls, "an empty history", lambda: model.rank_targets(empty, np.zeros(2, np.int32), sids, runtime))
    single = make_retrieval(n_items=1)
    one = run(_make(cls), single, make_sids(1, pad=False) if sids else None)
    _require(bool((one.better == 0).all() and (one.tied == 1).all()), cls, "in a one-item catalogue the target is first")
    if sids is None:
        return
    same = replace(sids, codes=np.zeros_like(sids.codes))
    tied = run(_make(cls), data, same)
    whole = (tied.better == 0) & (tied.tied == N_ITEMS) & (tied.sid_tied == 1)
    _require(bool(whole.all()), cls, "items that share a SID must tie exactly: rank interval = whole catalogue")
    _require(bool((ranks.tied[data.test_target <= 1] >= 2).all()), cls, "items 0 and 1 share a SID, so they must tie")
    _refuses(cls, "missing SIDs", lambda: _make(cls).fit(data, None, Rng(7), runtime))
    _refuses(cls, "SIDs of another catalogue", lambda: _make(cls).fit(data, make_sids(5), Rng(7), runtime))


def _check_diagnostics(cls: type[Recommender], model: Recommender) -> None:
    """Finite numbers, each declared with how those of several processes become one."""
    found, declared = model.diagnostics(), cls.combinations()
    _require(bool(np.isfinite(list(found.values())).all()), cls, "diagnostics must be finite numbers")
    _require(set(declared.values()) <= set(COMBINATIONS), cls, f"diagnostic_combine may hold {', '.join(COMBINATIONS)} only")
    missing = sorted(set(found) - set(declared))
    _require(
        not missing,
        cls,
        f"diagnostic_combine must say how {', '.join(missing)} of several processes combine: {', '.join(COMBINATIONS)}",
    )


def _check_every_target(
    cls: type[Retriever], model: Retriever, data: RetrievalData, sids: SemanticIds | None, runtime: Runtime
) -> None:
    """Over all possible targets of one user the rank intervals tile 0..N, in any order of the rows."""
    history = data.test_history.of(0).tolist()
    order = np.random.default_rng(0).permutation(N_ITEMS).astype(np.int32)
    ranks = model.rank_targets(as_sequences([history] * N_ITEMS), order, sids, runtime)
    begins = np.sort(ranks.better)
    starts, sizes = np.unique(begins, return_counts=True)
    _require(
        bool(np.array_equal(starts, np.concatenate([[0], np.cumsum(sizes)[:-1]]))),
        cls,
        "over all targets of a user the rank intervals must tile the catalogue",
    )
    _require(
        bool((ranks.tied == sizes[np.searchsorted(starts, ranks.better)]).all()),
        cls,
        "tied must be the number of items with the target's score",
    )
    seen = np.unique(history)
    score = np.where(np.isnan(ranks.score), -np.inf, ranks.score)  # beyond a beam: below everything that it holds
    expected = ranks.better - np.array(
        [sum(1 for i in seen if i != t and score[order == i][0] > score[j]) for j, t in enumerate(order)]
    )
    _require(
        bool(np.array_equal(ranks.masked_better, expected)),
        cls,
        "masked_better must leave out the user's distinct history items, and nothing else",
    )


def _check_truncation(cls: type[Retriever], sids: SemanticIds | None, runtime: Runtime) -> None:
    """A history longer than the window is scored from its newest items, and counted."""
    if "max_length" not in {f.name for f in fields(cls.config_class)}:
        return
    data = make_retrieval()
    model = _make(cls, max_length=4).fit(data, sids, Rng(7), runtime)
    long, short = [5, 6, 7, 8, 1, 2, 3, 4], [1, 2, 3, 4]
    ranks = model.rank_targets(as_sequences([long, short]), np.array([9, 9], np.int32), sids, runtime)
    _require(bool(ranks.better[0] == ranks.better[1]), cls, "only the newest max_length items may matter")
    _require(
        model.diagnostics().get("truncated_histories") == 1.0,
        cls,
        'diagnostics must count "truncated_histories" of the last ranking',
    )


def _check_narrow_beam(
    cls: type[Retriever],
    model: Retriever,
    exact: TargetRanks,
    data: RetrievalData,
    sids: SemanticIds | None,
    runtime: Runtime,
) -> None:
    """A beam of one SID widens until it covers what was asked, and scores what it finds as the widest beam does."""
    cover = 4
    if not {"beam", "cover"} <= {f.name for f in fields(cls.config_class)}:
        return
    narrow = _make(cls, beam=1, cover=cover)
    narrow.load_state_dict(model.state_dict())
    ranks = narrow.rank_targets(data.test_history, data.test_target, sids, runtime)
    _check_ranks(cls, ranks, N_USERS, N_ITEMS, "with a beam of one")
    _require(bool((ranks.depth >= cover).all()), cls, f"a beam must widen until it covers {cover} items")
    found = np.isfinite(ranks.score)
    _require(
        bool(np.allclose(ranks.score[found], exact.score[found], atol=1e-3)),
        cls,
        "a target's score must not depend on the width of the beam",
    )
    _check_diagnostics(cls, narrow)


def make_ranking(n_rows: int = 240, n_items: int = N_ITEMS, n_users: int = N_USERS, seed: int = 0) -> RankingData:
    """Rows whose label follows the item's parity most of the time; some users are unseen, some histories empty."""
    generator = np.random.default_rng(seed)

    def rows(count: int, first: int, unseen: bool) -> RankingRows:
        item = generator.integers(n_items, size=count).astype(np.int32)
        label = ((item % 2 == 0) ^ (generator.random(count) < 0.1)).astype(np.float32)
        history = np.where(generator.random((count, 4)) < 0.6, generator.integers(n_items, size=(count, 4)), -1)
        user = generator.integers(n_users + int(unseen), size=count).astype(np.int32)
        return RankingRows(
            user,
            item,
            label,
            generator.integers(7, size=count).astype(np.int32),
            generator.integers(12, size=count).astype(np.int32),
            history.astype(np.int32),
            np.arange(first, first + count),
        )

    parts = {
        "train": rows(n_rows, 0, False),
        "validation": rows(n_rows // 4, n_rows, True),
        "test": rows(n_rows // 4, 2 * n_rows, True),
    }
    brand = (np.arange(n_items) % 3).astype(np.int32)
    return RankingData(n_users, n_items, parts, {"brand": brand}, {"brand": 3})


def _check_ranker(cls: type[Ranker], runtime: Runtime) -> None:
    data, sids = make_ranking(), make_sids() if cls.info.needs_sids else None

    def run(model: Ranker, d: RankingData, s: SemanticIds | None) -> np.ndarray:
        return model.fit(d, s, Rng(7), runtime).predict(d, "test", s, runtime)

    model = _make(cls)
    scores = run(model, data, sids)
    n_test = len(data.rows["test"])
    _require(
        scores.shape == (n_test,) and scores.dtype == np.float32,
        cls,
        f"predict gave {scores.dtype} {scores.shape}, wanted float32 ({n_test},)",
    )
    _require(bool(np.isfinite(scores).all()), cls, "scores must be finite, also for unseen users and empty histories")
    _require(model.n_parameters > 0, cls, "n_parameters must be positive")
    _check_diagnostics(cls, model)
    _require(bool(np.array_equal(scores, run(_make(cls), data, sids))), cls, "equal seeds must give equal scores")
    hidden = data.rows["test"]
    poison = RankingRows(*(np.full_like(getattr(hidden, f.name), POISON) for f in fields(RankingRows)))
    blind = _make(cls).fit(replace(data, rows={**data.rows, "test": poison}), sids, Rng(7), runtime)
    _require(
        bool(np.array_equal(scores, blind.predict(data, "test", sids, runtime))), cls, "fit must not read the test rows"
    )
    relabelled = replace(hidden, label=1 - hidden.label)
    other = model.predict(replace(data, rows={**data.rows, "test": relabelled}), "test", sids, runtime)
    _require(bool(np.array_equal(scores, other)), cls, "predict must not read labels")
    order = np.random.default_rng(0).permutation(n_test)
    shuffled = RankingRows(*(getattr(hidden, f.name)[order] for f in fields(RankingRows)))
    moved = model.predict(replace(data, rows={**data.rows, "test": shuffled}), "test", sids, runtime)
    _require(bool(np.allclose(scores[order], moved, atol=1e-5)), cls, "a row's score must not depend on the row order")
    loaded = _make(cls)
    loaded.load_state_dict(model.state_dict())
    _require(
        bool(np.array_equal(scores, loaded.predict(data, "test", sids, runtime))),
        cls,
        "state_dict and load_state_dict must restore equal scores",
    )
    broken = dict(model.state_dict())
    broken.popitem()
    _refuses(cls, "a saved state without one entry", lambda: _make(cls).load_state_dict(broken))
    _require(
        bool(np.isfinite(run(_make(cls), make_ranking(n_items=1), make_sids(1, pad=False) if sids else None)).all()),
        cls,
        "one-item catalogue",
    )
    if sids is not None:
        _refuses(cls, "missing SIDs", lambda: _make(cls).fit(data, None, Rng(7), runtime))
        _refuses(cls, "SIDs of another catalogue", lambda: _make(cls).fit(data, make_sids(5), Rng(7), runtime))
