"""What retrievers share: saved entries, refusals and figures, shown by a retriever without training."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData, TargetRanks
from sidbench.recommenders.blocks.item_retrieval import ItemNetwork, ItemRetriever
from sidbench.recommenders.blocks.retrieval import SidRetriever
from sidbench.tokenizers.base import SemanticIds

RUNTIME, DATA, SIDS = local_runtime(), make_retrieval(), make_sids()


@dataclass(frozen=True)
class Config:
    max_length: int = 3


class Network(nn.Module):
    def __init__(self, rows: int, scale: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((rows, 2), scale))


def nothing(n: int) -> TargetRanks:
    return TargetRanks(
        *(np.full(n, 7, np.int64) for _ in range(6)), np.zeros(n, np.float32), *(np.full(n, 23, np.int64) for _ in range(2))
    )


class Stub(SidRetriever[Network]):
    """Its network has a row a class; ``saved_`` says what the rows are filled with."""

    config_class = Config
    saves = ("scale",)

    def _make_network(self, layout):
        return Network(int(layout.offsets[-1]), float(self.saved_["scale"][0]))

    def fit(self, data: RetrievalData, sids, rng, runtime):
        sids, layout, self.rows = self._begin(sids, data.n_items, runtime)
        self.saved_ = {"scale": np.array([2.5])}
        self.network_ = self._make_network(layout).to(runtime.device)
        self._notes = {"epochs": 1.0}
        return self

    def _ranked(self, histories, targets, sids, runtime):
        return nothing(len(targets)), {"epochs": 2.0, "hypotheses": 9.0}


class Items(ItemNetwork):
    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.item_table = nn.Parameter(torch.zeros(n_items, 2))


class ItemStub(ItemRetriever[Items]):
    config_class = Config

    def _make_network(self, n_items):
        return Items(n_items)

    def fit(self, data, sids, rng, runtime):
        self.network_ = self._make_network(data.n_items)
        return self

    def _ranks(self, histories, targets, runtime):
        return nothing(len(targets))


def fitted(cls=Stub):
    return cls(Config()).fit(DATA, SIDS, Rng(0), RUNTIME)


def refusal(action) -> str:
    with pytest.raises(InputError) as raised:
        action()
    return str(raised.value)


def test_fit_reads_sids_layout_and_rows():
    model = fitted()
    assert model.layout_.sizes.tolist() == [4, 3, 5] and model.layout_.has_pad.tolist() == [False, False, True]
    assert model.rows[0].tolist() == [0, 4, 7 + 5]  # item 0 has PAD at the last position, its class 5
    assert model.rows[2].tolist() == [2, 4 + 2, 7]
    assert model.n_parameters == 2 * (4 + 3 + 6)


def test_the_state_holds_network_layout_and_what_is_saved_beside_them():
    state = fitted().state_dict()
    assert list(state) == ["table", "layout.sizes", "layout.has_pad", "layout.scale"]
    assert (state["table"] == 2.5).all() and state["table"].shape == (13, 2)
    state["table"] = np.arange(26, dtype=np.float32).reshape(13, 2)
    other = Stub(Config())
    other.load_state_dict(state)
    assert all(np.array_equal(other.state_dict()[name], state[name]) for name in state)
    assert other.layout_.has_pad.dtype == bool


@pytest.mark.parametrize("gone", ["layout.sizes", "layout.has_pad", "layout.scale", "table"])
def test_a_state_without_one_entry_is_refused_by_name_and_changes_nothing(gone):
    state = fitted().state_dict() | {"layout.scale": np.array([9.0])}
    model = fitted()
    before = model.network_
    told = refusal(lambda: model.load_state_dict({k: v for k, v in state.items() if k != gone}))
    assert told.startswith(f"stub: saved state; got no entry {gone}; wanted a state of stub")
    assert model.network_ is before and model.saved_["scale"].tolist() == [2.5]


def test_the_first_missing_entry_is_named():
    assert "no entry layout.has_pad;" in refusal(lambda: Stub(Config()).load_state_dict({}))
    assert refusal(lambda: ItemStub(Config()).load_state_dict({})).startswith(
        "item_stub: saved state; got no entry item_table; wanted a state of item_stub"
    )


def test_nothing_is_handed_out_before_fit():
    model, data = Stub(Config()), DATA
    for action in (model.state_dict, lambda: model.n_parameters, ItemStub(Config()).state_dict):
        assert "model; got not fitted; wanted fit or load_state_dict first" in refusal(action)
    assert "got no fitted model" in refusal(lambda: model.rank_targets(data.test_history, data.test_target, SIDS, RUNTIME))
    assert "got no semantic IDs" in refusal(
        lambda: fitted().rank_targets(data.test_history, data.test_target, None, RUNTIME)
    )
    assert model.diagnostics() == {}


def test_fit_refuses_no_sids_and_sids_of_another_catalogue():
    assert refusal(lambda: Stub(Config()).fit(DATA, None, Rng(0), RUNTIME)).startswith("stub: semantic IDs; got none")
    few = SemanticIds(SIDS.codes[:9], SIDS.sizes, SIDS.ordered)
    assert "stub: semantic IDs; got 9 items" in refusal(lambda: Stub(Config()).fit(DATA, few, Rng(0), RUNTIME))


@pytest.mark.parametrize("cls", [Stub, ItemStub])
def test_a_ranking_is_checked_timed_and_says_what_was_cut(cls):
    model, targets = fitted(cls), np.zeros(3, np.int32)
    ranks = model.rank_targets(as_sequences([[1], [1, 2, 3], [1, 2, 3, 4]]), targets, SIDS, RUNTIME)
    assert ranks.better.tolist() == [7, 7, 7]
    notes = model.diagnostics()
    assert notes["truncated_histories"] == 1.0 and notes["ms_per_user"] >= 0.0
    if cls is Stub:
        assert notes["hypotheses"] == 9.0 and notes["epochs"] == 2.0  # figures of the search replace those of fit
    notes["truncated_histories"] = -1.0
    assert model.diagnostics()["truncated_histories"] == 1.0
    assert "history items" in refusal(lambda: model.rank_targets(as_sequences([[23]]), targets[:1], SIDS, RUNTIME))
    assert "histories; got 1 without an item" in refusal(
        lambda: model.rank_targets(as_sequences([[]]), targets[:1], SIDS, RUNTIME)
    )


@pytest.mark.parametrize("name", sorted(n for n, p in installed().plugins("recommender").items() if p.source == "sidbench"))
def test_errors_of_a_plugin_begin_with_its_name(name):
    cls = installed().load("recommender", name)
    assert cls.name == name
