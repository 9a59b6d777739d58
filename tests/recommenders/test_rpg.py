"""RPG: its parts by hand and against published sizes, both decodings on a planted chain, and conformance."""

import math

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.rpg import Rpg, RpgConfig, _Network
from sidbench.tokenizers.base import PAD, SemanticIds

SMOKE = Rpg.budgets["smoke"]
N, KEEP = 30, 0.8


@pytest.mark.parametrize("decoding", ["exact", "graph"])
def test_conformance(decoding):
    check_recommender(Rpg, {"decoding": decoding})


def network(length: int, size: int, **settings: int) -> _Network:
    layout = CodeLayout(np.full(length, size, np.int32), np.zeros(length, bool))
    return _Network(RpgConfig(**{**SMOKE, **settings}), layout)


@pytest.mark.parametrize("length, published", [(16, 6_692_480), (32, 9_910_912)])
def test_parameters_outside_the_table_are_as_many_as_the_authors_have(length, published):
    made = _Network(RpgConfig(), CodeLayout(np.full(length, 256, np.int32), np.zeros(length, bool)))
    assert sum(p.numel() for p in made.parameters()) - made.codes.table.numel() == published
    assert made.codes.table.numel() == length * 256 * 448


def test_digit_heads_start_as_the_identity_and_add_silu_of_their_product():
    made = network(3, 4)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.queries(hidden), hidden.expand(3, -1, -1))
    with torch.no_grad():
        made.head_weight[1, 0, 2], made.head_bias[2, 0, 5] = 2.0, -1.0
    queries = made.queries(hidden)
    one = hidden[:, 2] + 2 * hidden[:, 0] * torch.sigmoid(2 * hidden[:, 0])
    torch.testing.assert_close(queries[1, :, 2], one)
    torch.testing.assert_close(queries[2, :, 5], hidden[:, 5] - 1 / (1 + math.e))
    assert torch.equal(queries[0], hidden)


def test_loss_by_hand():
    """Two positions of two classes at right angles: cosines are 1 and 0, or cos 45 degrees twice."""
    made = network(2, 2, width=8, heads=2)
    with torch.no_grad():
        for row, axis in enumerate((0, 1, 0, 1)):
            made.codes.table[row, axis] = 0.5 + row
    hidden = torch.zeros(2, 8)
    hidden[0, 0], hidden[1, :2] = 3.0, 7.0
    target = torch.tensor([[0, 3], [1, 2]])
    tau = RpgConfig().temperature
    sure, even = math.log1p(math.exp(-1 / tau)), math.log(2)
    torch.testing.assert_close(made.loss(hidden, target).item(), (sure + (1 / tau + sure) + 2 * even) / 4)
    expected = torch.tensor([[-sure, -even], [-1 / tau - sure, -even]] * 2)
    torch.testing.assert_close(made.log_probs(hidden), expected)


def test_item_input_is_the_mean_of_its_present_codes():
    sids = SemanticIds(np.array([[0, 1], [1, PAD], [PAD, PAD]], np.int32), np.array([2, 2], np.int32), False)
    layout = CodeLayout.of(sids)
    made = _Network(RpgConfig(**{**SMOKE, "width": 8}), layout)
    with torch.no_grad():
        made.codes.table.copy_(torch.arange(6.0)[:, None].expand(-1, 8))
    vectors = made.items(torch.from_numpy(layout.rows(sids.codes)))
    assert vectors[:, 0].tolist() == [(0 + 4) / 2, 1.0, 0.0]


# -- the planted chain ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def chain() -> tuple[RetrievalData, SemanticIds]:
    """A chain that steps to a fixed successor with probability ``KEEP``, else anywhere; SIDs with PAD. Lengths vary, so
    that the positions read at test time were trained."""
    data = make_chain(500, N, KEEP, steps=(3, 10))
    index = np.arange(N)
    codes = np.stack([index % 6, index // 6, np.where(index % 4, 0, PAD)], axis=1).astype(np.int32)
    return data, SemanticIds(codes, np.array([6, 5, 1], np.int32), False)


CHAIN = {**SMOKE, "temperature": 0.1, "learning_rate": 5e-3, "epochs": 20, "batch_positions": 256}


@pytest.fixture(scope="module")
def fitted(chain: tuple[RetrievalData, SemanticIds]) -> Rpg:
    data, sids = chain
    return Rpg(RpgConfig(**CHAIN)).fit(data, sids, Rng(0), local_runtime())


def with_decoding(model: Rpg, **settings: int | str) -> Rpg:
    other = Rpg(RpgConfig(**{**CHAIN, **settings}))
    other.load_state_dict(model.state_dict())
    return other


def recall_at_1(model: Rpg, data: RetrievalData, sids: SemanticIds) -> float:
    ranks = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    return float(np.mean((ranks.better == 0) / ranks.tied))


def test_both_decodings_find_the_planted_chain_and_no_more(chain, fitted):
    data, sids = chain
    oracle = KEEP + (1 - KEEP) / N
    error = 3 * (oracle * (1 - oracle) / len(data.test_target)) ** 0.5
    baseline = np.mean(data.test_target == np.bincount(data.train.items, minlength=N).argmax())
    graph = with_decoding(fitted, decoding="graph", n_beams=10, cover=5, n_edges=10)
    for model in (fitted, graph):
        assert baseline + 0.5 < recall_at_1(model, data, sids) < oracle + error
    notes = graph.diagnostics()
    assert notes["beam_targets_found"] > 0.8 and notes["graph_unreached_items"] == 0
    assert 10 < notes["graph_scored_sids"] <= N


def test_graph_of_all_edges_gives_the_exact_ranks_down_to_its_depth(chain, fitted):
    data, sids = chain
    exact = fitted.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    graph = with_decoding(fitted, decoding="graph", n_beams=12, cover=5, n_edges=N, n_steps=1)
    ranks = graph.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    found = np.isfinite(ranks.score)
    assert 0.5 < found.mean() < 1
    for name in ("better", "tied", "sid_better", "sid_tied", "masked_better", "masked_tied", "score"):
        np.testing.assert_array_equal(getattr(ranks, name)[found], getattr(exact, name)[found])
    assert (ranks.depth >= 5).all() and (ranks.better[~found] <= exact.better[~found]).all()


def test_graph_starts_come_with_the_saved_state_and_do_not_depend_on_other_users(chain, fitted):
    data, sids = chain
    few = {"decoding": "graph", "n_beams": 3, "cover": 1, "n_edges": 3, "n_steps": 1}
    first, second = (with_decoding(fitted, **few) for _ in range(2))
    runs = [m.rank_targets(data.test_history, data.test_target, sids, local_runtime()) for m in (first, second)]
    assert np.array_equal(runs[0].better, runs[1].better) and np.array_equal(runs[0].depth, runs[1].depth)
    # Longer histories move some users to other batches; what the rest find must stay.
    longer = [[1, 2, 3, *data.test_history.of(u)] if u % 2 else data.test_history.of(u).tolist() for u in range(500)]
    moved = first.rank_targets(as_sequences(longer), data.test_target, sids, local_runtime())
    assert np.array_equal(moved.better[::2], runs[0].better[::2])
    # Several processes rank a part of the users each; the parts must be the whole.
    part = as_sequences([data.test_history.of(u).tolist() for u in range(300, 500)])
    alone = second.rank_targets(part, data.test_target[300:], sids, local_runtime())
    assert np.array_equal(alone.better, runs[0].better[300:]) and np.array_equal(alone.depth, runs[0].depth[300:])


def test_beam_must_reach_the_cut_off_only_when_the_graph_decodes():
    with pytest.raises(InputError, match="n_beams"):
        RpgConfig(decoding="graph", n_beams=20)
    assert RpgConfig(decoding="exact", n_beams=20).cover == 100
    with pytest.raises(InputError, match="width"):
        RpgConfig(width=450)
    with pytest.raises(InputError, match="decoding"):
        RpgConfig(decoding="beam")


def test_a_saved_state_without_its_layout_is_refused():
    data, sids = make_retrieval(), make_sids()
    state = Rpg(RpgConfig(**SMOKE)).fit(data, sids, Rng(0), local_runtime()).state_dict()
    for name in ("layout.sizes", "layout.start", "head_weight"):
        with pytest.raises(InputError, match=name):
            Rpg(RpgConfig(**SMOKE)).load_state_dict({k: v for k, v in state.items() if k != name})
