"""Every retriever and ranker of this project on input that does not fit: the right result, or an error that says what it
got and what it wanted. What ``check_recommender`` asks of every plugin (empty histories, one item, one SID for all) is
not repeated here."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.code_hash import ROOT
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import N_ITEMS, as_sequences, make_ranking, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import Ranker, RetrievalData, Retriever
from sidbench.tokenizers.base import PAD, SemanticIds

RUNTIME = local_runtime()
SIDS = make_sids()  # sizes 4, 3, 5 with PAD at position 2
COUNTS = ("ease", "graph_text", "item_knn", "most_popular")  # nothing is trained; tests of their own
CLASSES = {
    path.stem: installed().load("recommender", path.stem)
    for path in sorted((ROOT / "recommenders").glob("*.py"))
    if path.stem not in ("base", "__init__", *COUNTS)
}
# A model, and settings that make it decode in another way.
RETRIEVERS = [(name, ()) for name, cls in CLASSES.items() if issubclass(cls, Retriever)] + [
    ("mtp", (("decoding", "confidence"),)),
    ("rpg", (("decoding", "graph"), ("n_beams", 30), ("cover", 5))),
]
RANKERS = [name for name, cls in CLASSES.items() if issubclass(cls, Ranker)]
READERS = [case for case in RETRIEVERS if CLASSES[case[0]].info.needs_sids]
ALL = pytest.mark.parametrize(("name", "settings"), RETRIEVERS)
OF_SIDS = pytest.mark.parametrize(("name", "settings"), READERS)


def make(name: str, settings: tuple[tuple[str, Any], ...] = (), **more: Any) -> Any:
    cls = CLASSES[name]
    return cls(cls.config_class(**{**cls.budgets["smoke"], "epochs": 1, **dict(settings), **more}))


def sids_for(name: str) -> SemanticIds | None:
    return SIDS if CLASSES[name].info.needs_sids else None


@cache
def fitted(name: str, settings: tuple[tuple[str, Any], ...] = ()) -> Any:
    data = make_ranking() if name in RANKERS else make_retrieval()
    return make(name, settings).fit(data, sids_for(name), Rng(3), RUNTIME)


def refusal(action: Callable[[], object], words: str | None = None) -> InputError:
    with pytest.raises(InputError, match=words) as raised:
        action()
    assert raised.value.got is not None and raised.value.wanted
    return raised.value


def test_all_plugins_are_met():
    assert {"eager", "hstu", "mtp", "ntp", "rpg", "sasrec", "tiger", "vqrec"} <= {name for name, _ in RETRIEVERS}
    assert {"din", "ppnet"} <= set(RANKERS)


# -- semantic IDs ------------------------------------------------------------------------------------------------------
def with_code(item: int, position: int, code: int) -> SemanticIds:
    codes = SIDS.codes.copy()
    codes[item, position] = code
    return replace(SIDS, codes=codes)


def sized(*sizes: int) -> SemanticIds:
    return replace(SIDS, sizes=np.array(sizes, np.int32))


ASK = as_sequences([[1, 2, 3], [7]]), np.array([4, 9], np.int32)
OTHER_SIDS = {
    "a code above its codebook": with_code(3, 1, 3),
    "a code below PAD": with_code(3, 1, -2),
    "PAD at a position that had none": with_code(3, 0, PAD),
    "one position less": replace(SIDS, codes=SIDS.codes[:, :2], sizes=SIDS.sizes[:2]),
    "one position more": replace(SIDS, codes=SIDS.codes[:, [0, 1, 2, 1]], sizes=SIDS.sizes[[0, 1, 2, 1]]),
}


@OF_SIDS
@pytest.mark.parametrize("case", OTHER_SIDS)
def test_ranking_refuses_codes_that_the_model_does_not_know(name, settings, case):
    refusal(lambda: fitted(name, settings).rank_targets(*ASK, OTHER_SIDS[case], RUNTIME), "semantic ID")


@OF_SIDS
@pytest.mark.parametrize("other", [sized(6, 3, 5), sized(4, 3, 8), sized(4, 3, 4)], ids=lambda s: str(s.sizes.tolist()))
def test_other_sizes_with_the_same_codes_give_the_same_ranks_or_an_error(name, settings, other):
    model = fitted(name, settings)
    right = model.rank_targets(*ASK, SIDS, RUNTIME)
    try:
        ranks = model.rank_targets(*ASK, other, RUNTIME)
    except InputError as error:
        assert error.got is not None and error.wanted
        return
    np.testing.assert_array_equal(ranks.score, right.score)
    np.testing.assert_array_equal(ranks.better, right.better)


@OF_SIDS
def test_a_catalogue_that_lost_its_pads_gives_the_right_ranks_or_an_error(name, settings):
    # PAD moves from class 5 to no class at all: along a trie of these SIDs nothing is out of range any more.
    codes = np.where(SIDS.codes == PAD, 0, SIDS.codes)
    model, other = fitted(name, settings), replace(SIDS, codes=codes)
    try:
        ranks = model.rank_targets(*ASK, other, RUNTIME)
    except InputError as error:
        assert error.got is not None and error.wanted
        return
    every = model.rank_targets(as_sequences([[1, 2, 3]] * N_ITEMS), np.arange(N_ITEMS, dtype=np.int32), other, RUNTIME)
    assert ranks.score[0] == pytest.approx(every.score[4], abs=1e-5)
    assert ranks.better[0] == (every.score > every.score[4]).sum()


@OF_SIDS
@pytest.mark.parametrize("case", ["a code above its codebook", "a code below PAD"])
def test_fitting_refuses_codes_outside_their_codebook(name, settings, case):
    refusal(lambda: make(name, settings).fit(make_retrieval(), OTHER_SIDS[case], Rng(0), RUNTIME), "semantic ID")


# -- users and items ---------------------------------------------------------------------------------------------------
@ALL
def test_ranking_refuses_items_outside_the_catalogue_and_targets_without_a_history(name, settings):
    model, sids = fitted(name, settings), sids_for(name)

    def rank(histories: list[list[int]], targets: list[int]) -> Any:
        return model.rank_targets(as_sequences(histories), np.array(targets, np.int32), sids, RUNTIME)

    for outside in (N_ITEMS, -1):
        refusal(lambda outside=outside: rank([[1], [2]], [3, outside]), "targets")
        refusal(lambda outside=outside: rank([[1, outside], [2]], [3, 4]), "history items")
    refusal(lambda: rank([[1], [2]], [3]), "targets")
    refusal(lambda: rank([[1], []], [3, 4]), "histories")


@ALL
def test_ranking_nobody_gives_no_ranks(name, settings):
    ranks = fitted(name, settings).rank_targets(as_sequences([]), np.zeros(0, np.int32), sids_for(name), RUNTIME)
    assert all(len(column) == 0 for column in vars(ranks).values())


def fit(name: str, settings: tuple[tuple[str, Any], ...], data: RetrievalData) -> Any:
    return make(name, settings).fit(data, sids_for(name), Rng(3), RUNTIME)


@ALL
def test_fitting_refuses_validation_that_cannot_select_an_epoch(name, settings):
    data = make_retrieval()
    nobody, n_users = np.zeros(0, np.int64), data.train.n_users
    refusal(lambda: fit(name, settings, replace(data, validation_user=nobody, validation_target=nobody)), "validation users")
    for outside in (n_users, -1):
        users = np.array([0, outside])
        refusal(
            lambda users=users: fit(
                name, settings, replace(data, validation_user=users, validation_target=data.validation_target[:2])
            ),
            "validation users",
        )
    refusal(lambda: fit(name, settings, replace(data, validation_target=data.validation_target[:-1])), "targets")
    wrong = data.validation_target.copy()
    wrong[::3] = N_ITEMS
    refusal(lambda: fit(name, settings, replace(data, validation_target=wrong)), "targets")


@ALL
def test_fitting_refuses_training_items_outside_the_catalogue_and_sequences_without_a_target(name, settings):
    data = make_retrieval()
    for outside in (N_ITEMS, -1):
        items = data.train.items.copy()
        items[0] = outside
        refusal(
            lambda items=items: fit(name, settings, replace(data, train=replace(data.train, items=items))), "training items"
        )
    refusal(lambda: fit(name, settings, replace(data, train=as_sequences([[1]] * data.train.n_users))), "training sequences")


@ALL
def test_users_without_training_events_change_nothing_and_are_counted(name, settings):
    data = make_retrieval()
    longer = replace(data, train=replace(data.train, indptr=np.append(data.train.indptr, [data.train.indptr[-1]] * 3)))
    with_empty = fit(name, settings, longer)
    plain = fitted(name, settings).state_dict()
    assert all(np.array_equal(array, plain[key]) for key, array in with_empty.state_dict().items())
    alone = int((data.train.lengths < 2).sum())
    assert with_empty.diagnostics()["train_users_without_target"] == alone + 3
    users = np.append(data.validation_user, data.train.n_users)  # one of the empty ones
    refusal(
        lambda: fit(
            name, settings, replace(longer, validation_user=users, validation_target=np.append(data.validation_target, 0))
        ),
        "histories",
    )


# -- states ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n, settings in RETRIEVERS if not settings] + RANKERS)
def test_a_state_of_another_configuration_is_refused_by_the_entry_that_differs(name):
    state = fitted(name).state_dict()
    size = "item_width" if name in RANKERS else "width"
    error = refusal(lambda: make(name, **{size: 8}).load_state_dict(state))
    assert any(entry in str(error) for entry in state)
    error = refusal(lambda: make(name).load_state_dict({**state, "stranger": np.zeros(1)}))
    assert "stranger" in str(error)
    for entry in [key for key in state if key.startswith("layout.")] + list(state)[::5]:
        rest = {key: array for key, array in state.items() if key != entry}
        # A table of a side field may be absent; then the layer that reads it is too wide.
        refusal(
            lambda rest=rest: make(name).load_state_dict(rest),
            "entry" if entry.startswith("field_tables") else entry.split(".")[0],
        )


@pytest.mark.parametrize("name", [n for n, settings in RETRIEVERS if not settings])
def test_nothing_is_ranked_or_saved_before_it_is_fitted(name):
    with pytest.raises(InputError, match="fit"):
        make(name).rank_targets(*ASK, sids_for(name), RUNTIME)
    with pytest.raises(InputError, match="fit"):
        make(name).state_dict()


# -- rankers -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("case", OTHER_SIDS)
def test_rankers_refuse_codes_that_they_do_not_know(name, case):
    refusal(lambda: fitted(name).predict(make_ranking(), "test", OTHER_SIDS[case], RUNTIME), "semantic ID")


@pytest.mark.parametrize("name", RANKERS)
def test_rankers_refuse_data_that_their_tables_do_not_fit(name):
    data, model = make_ranking(), fitted(name)

    def predict(**other: Any) -> Any:
        return model.predict(replace(data, **other), "test", SIDS, RUNTIME)

    rows = data.rows["test"]
    # With fewer users the unseen one would be some known user, with more it would have no row.
    known = replace(rows, user=np.minimum(rows.user, data.n_users - 2))
    for n_users in (data.n_users - 1, data.n_users + 1):
        refusal(lambda n=n_users: predict(n_users=n, rows={**data.rows, "test": known}), "users")
    refusal(lambda: predict(rows={**data.rows, "test": replace(rows, item=rows.item + N_ITEMS)}), "item")
    refusal(lambda: predict(rows={**data.rows, "test": replace(rows, history=rows.history - 1)}), "history")
    refusal(lambda: predict(rows={}), "test")
    refusal(lambda: predict(item_field_sizes={"brand": 4}), "brand")
    refusal(lambda: predict(item_fields={"brand": data.item_fields["brand"] + 1}), "brand")
    refusal(lambda: predict(item_fields={"brand": data.item_fields["brand"][:5]}), "brand")
    refusal(lambda: predict(item_fields={}, item_field_sizes={}), "brand")
