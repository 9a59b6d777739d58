"""VQ-Rec: parts by hand, what SIDs may and may not change on planted content, odd catalogues, and conformance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData, TargetRanks
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.vqrec import Vqrec, VqrecConfig, _Network
from sidbench.tokenizers.base import PAD, SemanticIds

SMOKE = Vqrec.budgets["smoke"]
RUNTIME = local_runtime(threads=1)


def sids_of(codes: np.ndarray) -> SemanticIds:
    return SemanticIds(codes.astype(np.int32), np.maximum(codes.max(axis=0) + 1, 1).astype(np.int32), False)


def rank(model: Vqrec, data: RetrievalData, sids: SemanticIds) -> TargetRanks:
    return model.rank_targets(data.test_history, data.test_target, sids, RUNTIME)


def smoke(data: RetrievalData, sids: SemanticIds, **settings: object) -> Vqrec:
    return Vqrec(VqrecConfig(**{**SMOKE, **settings})).fit(data, sids, Rng(3), RUNTIME)


@pytest.mark.parametrize("distribution", ["uniform", "popularity", "in_batch"])
def test_conformance(distribution):
    check_recommender(Vqrec, {"negative_distribution": distribution})


def test_conformance_with_all_items_as_negatives():
    check_recommender(Vqrec, {"negatives": 0})


# -- parts -------------------------------------------------------------------------------------------------------------
def test_item_is_the_sum_of_its_codes_and_neither_length_nor_pad_changes_its_score():
    layout = CodeLayout(np.array([2, 2], np.int32), np.array([False, True]))
    network = _Network(VqrecConfig(width=8, heads=2), layout).eval()
    network.initialise(torch.Generator().manual_seed(0))
    rows = torch.tensor([[0, 2], [1, 4]])  # the second has PAD
    made = network.vectors(rows, None)
    torch.testing.assert_close(made, torch.stack([network.codes.table[0] + network.codes.table[2], network.codes.table[1]]))
    # Twice the codes, as a mean or longer SIDs would differ from a sum, are the same input to the encoder.
    torch.testing.assert_close(network.hidden(made[None]), network.hidden(2 * made[None]), atol=1e-3, rtol=1e-3)
    weighted = network.vectors(rows, torch.tensor([[0.5, 2.0], [3.0, 0.0]]))
    torch.testing.assert_close(weighted[0], 0.5 * network.codes.table[0] + 2 * network.codes.table[2])
    torch.testing.assert_close(weighted[1], 3 * network.codes.table[1])


def test_score_is_the_cosine_over_the_temperature():
    data, sids = make_retrieval(), make_sids()
    model = smoke(data, sids, temperature=0.25)
    ranks = rank(model, data, sids)
    assert (np.abs(ranks.score) <= 4 + 1e-4).all() and np.abs(ranks.score).max() > 0.5
    network = model.network_
    assert network is not None
    history = torch.from_numpy(network.layout.rows(sids.codes)[data.test_history.of(0)])
    with torch.no_grad():
        state = network.hidden(network.vectors(history, None)[None])[0, -1]
        item = network.vectors(torch.from_numpy(network.layout.rows(sids.codes)[data.test_target[:1]]), None)[0]
        cosine = torch.cosine_similarity(network.query(state), item, dim=0)
    assert ranks.score[0] == pytest.approx(4 * float(cosine), abs=1e-4)


def test_one_step_moves_items_of_the_batch_and_of_the_draw_only():
    n, users = 60, np.arange(2)
    data = RetrievalData(
        n,
        as_sequences([[0, 1, 2], [3, 4]]),
        users,
        np.array([5, 6], np.int32),
        users,
        as_sequences([[0, 1, 2], [3, 4]]),
        np.array([5, 6], np.int32),
    )
    config = VqrecConfig(**{**SMOKE, "epochs": 1, "negatives": 5, "max_length": 2})
    model = Vqrec(config).fit(data, sids_of(np.arange(n)[:, None]), Rng(3), RUNTIME)
    before = _Network(config, model._layout())
    before.initialise(RUNTIME.generator(Rng(3).child("initial")))
    assert model.network_ is not None
    moved = (model.network_.codes.table != before.codes.table).any(dim=1)
    assert moved[:5].all()
    assert 0 < int(moved[5:].sum()) <= 10  # two widths of windows are two batches of five draws


# -- fairness on planted content ---------------------------------------------------------------------------------------
N, NEAR = 240, 0.05  # two means over seeds and 400 users differ by less
INDEX = np.arange(N)
CONTENT = np.stack([INDEX // 20, INDEX // 4 % 5, INDEX % 4], axis=1)
PLANTED = {
    "width": 32,
    "layers": 1,
    "heads": 2,
    "dropout": 0.1,
    "batch_positions": 256,
    "learning_rate": 1e-2,
    "negatives": 64,
    "validation_users": 100,
}


@pytest.fixture(scope="module")
def planted() -> RetrievalData:
    """Sixty leaves of four items; a fixed leaf follows each with probability .8, and any item of it is as likely."""
    generator = np.random.default_rng(0)
    follows, full = generator.permutation(60), []
    for _ in range(400):
        row = [int(generator.integers(N))]
        for _ in range(generator.integers(5, 9)):
            leaf = follows[row[-1] // 4] if generator.random() < 0.8 else generator.integers(60)
            row.append(int(4 * leaf + generator.integers(4)))
        full.append(row)
    users = np.arange(len(full))
    validation, test = (np.array([s[-back] for s in full], np.int32) for back in (2, 1))
    return RetrievalData(
        N, as_sequences([s[:-2] for s in full]), users, validation, users, as_sequences([s[:-1] for s in full]), test
    )


def fit_planted(data: RetrievalData, codes: np.ndarray, seed: int = 0, epochs: int = 10) -> TargetRanks:
    sids, config = sids_of(codes), VqrecConfig(**{**PLANTED, "epochs": epochs})
    return rank(Vqrec(config).fit(data, sids, Rng(seed), RUNTIME), data, sids)


def recall(*ranks: TargetRanks) -> float:
    return float(np.mean([np.clip(10 - r.better, 0, r.tied) / r.tied for r in ranks]))


@pytest.fixture(scope="module")
def content(planted: RetrievalData) -> list[TargetRanks]:
    return [fit_planted(planted, CONTENT, seed) for seed in (0, 1)]


def test_content_is_found_and_scrambled_codes_stay_far_below(planted, content):
    scrambled = CONTENT[np.random.default_rng(5).permutation(N)]
    assert 0.4 < recall(*content) < 0.8 + 3 * (0.16 / 800) ** 0.5
    assert recall(fit_planted(planted, scrambled)) < 0.5 * recall(*content)


def test_relabelling_deeper_codes_within_each_prefix_gains_nothing(planted, content):
    generator, codes = np.random.default_rng(1), CONTENT.copy()
    for first in range(12):
        inside = CONTENT[:, 0] == first
        codes[inside, 1] = generator.permutation(5)[CONTENT[inside, 1]]
        for second in range(5):
            leaf = inside & (CONTENT[:, 1] == second)
            codes[leaf, 2] = generator.permutation(4)[CONTENT[leaf, 2]]
    assert recall(*(fit_planted(planted, codes, seed) for seed in (0, 1))) < recall(*content) + NEAR


def test_other_labels_of_a_position_change_nothing(planted, content, monkeypatch):
    order = np.random.default_rng(2).permutation(12)
    codes = CONTENT.copy()
    codes[:, 0] = order[CONTENT[:, 0]]
    assert abs(recall(*(fit_planted(planted, codes, seed) for seed in (0, 1))) - recall(*content)) < NEAR
    # With the first table in the order of the labels nothing is left to chance but rounding.
    plain = smoke(planted, sids_of(CONTENT))
    drawn = _Network.initialise

    def relabelled(network: _Network, generator: torch.Generator) -> None:
        drawn(network, generator)
        with torch.no_grad():
            network.codes.table[order] = network.codes.table[:12].clone()

    monkeypatch.setattr(_Network, "initialise", relabelled)
    other = smoke(planted, sids_of(codes))
    np.testing.assert_allclose(
        rank(other, planted, sids_of(codes)).score, rank(plain, planted, sids_of(CONTENT)).score, atol=1e-2
    )


def test_a_position_of_pad_changes_nothing(planted):
    """The zero vector, and no draw of another table moves; what is left is rounding in the norm of the gradient."""
    padded, plain = sids_of(np.concatenate([CONTENT, np.full((N, 1), PAD)], axis=1)), sids_of(CONTENT)
    made, wanted = (rank(smoke(planted, sids), planted, sids) for sids in (padded, plain))
    np.testing.assert_allclose(made.score, wanted.score, atol=1e-3)


def test_a_constant_position_changes_nothing_once_trained(planted):
    """It adds one vector to every item, which the model has to learn away: that may cost epochs, not quality."""
    constant = np.concatenate([CONTENT, np.zeros((N, 1), int)], axis=1)
    found, wanted = (recall(fit_planted(planted, codes, epochs=20)) for codes in (constant, CONTENT))
    assert abs(found - wanted) < NEAR


def test_short_sids_gain_nothing(planted, content):
    """A third of the items lose their last code. It tells items of a leaf apart, which no model can predict here, so
    that they are found as often as the others."""
    short = CONTENT.copy()
    short[INDEX % 3 == 0, 2] = PAD
    ranks = fit_planted(planted, short)
    of_short = planted.test_target % 3 == 0
    better = np.clip(10 - ranks.better, 0, ranks.tied) / ranks.tied
    assert abs(better[of_short].mean() - better[~of_short].mean()) < 0.15
    assert abs(float(better.mean()) - recall(*content)) < 2 * NEAR


# -- weights, and catalogues that leave no choice ------------------------------------------------------------------------
def test_weights_scale_codes_and_items_of_one_sid_still_tie():
    data, sids = make_retrieval(), make_sids()
    weights = np.random.default_rng(0).random(sids.codes.shape).astype(np.float32) + 0.5
    weighted = replace(sids, weights=weights)
    ones = replace(sids, weights=np.where(sids.codes == PAD, 0, 1).astype(np.float32))
    plain = rank(smoke(data, sids), data, sids)
    np.testing.assert_allclose(
        rank(smoke(data, ones, code_weights=True), data, ones).score, plain.score, rtol=1e-2, atol=1e-2
    )
    made = smoke(data, weighted, code_weights=True)
    ranks = rank(made, data, weighted)
    assert np.abs(ranks.score - plain.score).max() > 0.1
    both = made.rank_targets(as_sequences([[1, 2]] * 2), np.array([0, 1], np.int32), weighted, RUNTIME)
    assert both.score[0] == both.score[1] and (both.tied >= 2).all()
    with pytest.raises(InputError, match="weights"):
        smoke(data, sids, code_weights=True)


@pytest.mark.parametrize("distribution", ["uniform", "popularity", "in_batch"])
def test_fewer_items_than_negatives(distribution):
    data = make_retrieval(n_items=3)
    sids = sids_of(np.array([[0, 0], [0, 1], [1, 0]]))
    ranks = rank(smoke(data, sids, negatives=1024, negative_distribution=distribution), data, sids)
    assert np.isfinite(ranks.score).all() and (ranks.better + ranks.tied <= 3).all()


def test_an_item_of_nothing_but_pad_is_ranked_like_the_rest():
    data, codes = make_retrieval(), make_sids().codes.copy()
    codes[5] = PAD
    sids = sids_of(codes)
    ranks = rank(smoke(data, sids), data, sids)
    assert np.isfinite(ranks.score).all() and (ranks.score[data.test_target == 5] == 0).all()


def test_width_must_suit_the_heads():
    with pytest.raises(InputError, match="heads"):
        VqrecConfig(width=10, heads=4)
