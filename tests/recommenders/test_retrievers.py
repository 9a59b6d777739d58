"""Retrievers on a planted Markov chain, and the parts of their models that have a closed form."""

import itertools

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.mtp import Mtp, MtpConfig
from sidbench.recommenders.sasrec import BehaviourConfig, Sasrec, SasrecConfig, _EarliestGood, behaviour_embeddings
from sidbench.tokenizers.base import PAD, SemanticIds

N, KEEP = 30, 0.8


@pytest.fixture(scope="module")
def chain() -> RetrievalData:
    """A chain that steps to a fixed successor with probability ``KEEP``, else anywhere."""
    return make_chain(500, N, KEEP)


def recall_at_1(data: RetrievalData, model: Sasrec | Mtp, sids: SemanticIds | None) -> float:
    ranks = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    return float(np.mean((ranks.better == 0) / ranks.tied))


def check_planted(data: RetrievalData, recall: float) -> None:
    popularity = np.bincount(data.train.items, minlength=N)
    baseline = float(np.mean(data.test_target == popularity.argmax()))
    oracle = KEEP + (1 - KEEP) / N
    error = 3 * (oracle * (1 - oracle) / len(data.test_target)) ** 0.5
    assert recall > baseline + 0.5
    assert recall < oracle + error


def test_sasrec_finds_the_planted_chain(chain):
    config = SasrecConfig(width=32, layers=1, dropout=0.1, epochs=12, batch_positions=256, learning_rate=5e-3)
    check_planted(chain, recall_at_1(chain, Sasrec(config).fit(chain, None, Rng(0), local_runtime()), None))


MTP = MtpConfig(width=32, layers=1, heads=2, dropout=0.1, epochs=12, batch_positions=256, learning_rate=5e-3)


def test_mtp_finds_the_planted_chain_through_sids_with_pad(chain):
    codes = np.stack([np.arange(N) % 6, np.arange(N) // 6, np.where(np.arange(N) % 4, 0, PAD)], axis=1).astype(np.int32)
    sids = SemanticIds(codes, np.array([6, 5, 1], np.int32), False)
    check_planted(chain, recall_at_1(chain, Mtp(MTP).fit(chain, sids, Rng(0), local_runtime()), sids))


def test_mtp_takes_item_ids_as_one_long_position(chain):
    sids = SemanticIds(np.arange(N, dtype=np.int32)[:, None], np.array([N], np.int32), False)
    check_planted(chain, recall_at_1(chain, Mtp(MTP).fit(chain, sids, Rng(0), local_runtime()), sids))


@pytest.mark.parametrize("cls", [Mtp, Sasrec])
def test_conformance(cls):
    check_recommender(cls)


def fitted(codes: np.ndarray, sizes: list[int]) -> tuple[Mtp, SemanticIds]:
    sids = SemanticIds(codes.astype(np.int32), np.array(sizes, np.int32), False)
    rows = [np.random.default_rng(u).integers(len(codes), size=5).tolist() for u in range(20)]
    users = np.arange(20)
    data = RetrievalData(
        len(codes), as_sequences(rows), users, np.zeros(20, np.int32), users, as_sequences(rows), np.zeros(20, np.int32)
    )
    return Mtp(MtpConfig(**Mtp.budgets["smoke"])).fit(data, sids, Rng(1), local_runtime()), sids


def test_probabilities_of_all_code_tuples_sum_to_one_and_of_the_catalogue_to_less():
    every = np.array(list(itertools.product(range(3), range(2), range(2))))
    for codes, total in ((every, 1.0), (every[:7], None)):
        model, sids = fitted(codes, [3, 2, 2])
        n = len(codes)
        ranks = model.rank_targets(as_sequences([[0, 3]] * n), np.arange(n, dtype=np.int32), sids, local_runtime())
        mass = float(np.exp(ranks.score.astype(np.float64)).sum())
        assert mass == pytest.approx(total, abs=1e-5) if total else 0 < mass < 1


def test_projected_lookup_equals_the_plain_mlp_and_pad_is_a_zero_input():
    model, _ = fitted(np.array([[0, 1], [1, PAD], [2, 0]]), [3, 2])
    network = model.network_
    assert network is not None
    rows = torch.tensor([[0, 4], [1, 5], [2, 3]])  # row 5 is PAD of position 1
    table = network.codes.table.detach().clone()
    table[5] = 0.0
    with torch.no_grad():
        plain = network.item_out(network.item_in(table[rows].flatten(1)))
        few, many = network.items(rows[:1]), network.items(rows)
    torch.testing.assert_close(many, plain)
    torch.testing.assert_close(few, plain[:1])


def test_other_sids_than_at_fit_are_refused():
    model, sids = fitted(np.array([[0, 1], [1, 0], [2, 0]]), [3, 2])
    other = SemanticIds(np.array([[0, 1], [1, PAD], [2, 0]], np.int32), sids.sizes, False)
    with pytest.raises(InputError, match="position 1"):
        model.rank_targets(as_sequences([[0]]), np.array([1], np.int32), other, local_runtime())


def test_width_must_suit_the_heads():
    with pytest.raises(InputError, match="width"):
        MtpConfig(width=24, heads=8)
    with pytest.raises(InputError, match="width"):
        SasrecConfig(width=9, heads=2)


# -- behaviour embeddings ------------------------------------------------------------------------------------------
BEHAVIOUR = BehaviourConfig(
    width=16, layers=1, heads=1, dropout=0.1, epochs=6, batch_positions=128, learning_rate=1e-2, item_decay=0.5, patience=0
)


def test_behaviour_embeddings_place_items_that_follow_each_other_together_and_are_deterministic():
    generator = np.random.default_rng(0)
    rows = [(generator.integers(6, size=6) + 6 * (u % 3)).tolist() for u in range(240)]
    made, again = (behaviour_embeddings(as_sequences(rows), 19, Rng(3), local_runtime(), BEHAVIOUR) for _ in range(2))
    assert made.shape == (19, 16) and made.dtype == np.float32
    assert np.array_equal(made, again)
    unit = made[:18] / np.linalg.norm(made[:18], axis=1, keepdims=True)
    cosine, group = unit @ unit.T, np.arange(18) // 6
    same = (group[:, None] == group) & ~np.eye(18, dtype=bool)
    assert cosine[same].mean() > cosine[group[:, None] != group].mean() + 0.5


def test_behaviour_training_never_sees_the_held_out_items():
    # Item 9 occurs only as the last item of every user; with all users held out it must stay untrained.
    rows = [[0, 1, 2, 9], [1, 2, 0, 9], [2, 0, 1, 9], [0, 2, 1, 9]]
    config = BehaviourConfig(width=8, heads=1, epochs=1, patience=0, item_decay=0.0, holdout=0.5)
    seen = behaviour_embeddings(as_sequences(rows), 10, Rng(0), local_runtime(), config)
    held = np.random.default_rng(Rng(0).child("holdout").integer()).permutation(np.arange(4))[:2]
    other = [r[:-1] + [5] if u in held else r for u, r in enumerate(rows)]
    assert np.array_equal(seen, behaviour_embeddings(as_sequences(other), 10, Rng(0), local_runtime(), config))


def test_earliest_epoch_within_the_share_of_the_best_is_kept():
    kept = _EarliestGood(0.98)
    for epoch, recall in enumerate([0.10, 0.50, 0.975, 0.96, 0.985, 0.99, 0.98], start=1):
        kept.offer(recall, torch.full((1, 1), float(epoch)))
    assert kept.epochs[0] == 3 and float(kept.tables[0]) == 3.0  # .975 reaches .98 * .99; .50 does not
    copy = _EarliestGood(0.98)
    copy.restore(kept.state())
    copy.offer(1.0, torch.full((1, 1), 8.0))
    assert copy.epochs == [5, 6, 8] and copy.recalls == [0.985, 0.99, 1.0]


def test_behaviour_needs_a_user_with_three_items():
    with pytest.raises(InputError, match="three items"):
        behaviour_embeddings(as_sequences([[0, 1]]), 2, Rng(0), local_runtime(), BEHAVIOUR)
