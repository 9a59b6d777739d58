"""NTP: the packed pass against one prefix at a time, cached decoding against teacher forcing, beam against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.blocks.sid_tables import CodeLayout, fused_rows
from sidbench.recommenders.blocks.windows import WindowBatch
from sidbench.recommenders.ntp import Ntp, NtpConfig, _Network, _sequences, _Session
from sidbench.tokenizers.base import PAD, SemanticIds

N, KEEP = 30, 0.8


def test_conformance() -> None:
    check_recommender(Ntp)


def sids_of(codes: np.ndarray, sizes: list[int]) -> SemanticIds:
    return SemanticIds(codes.astype(np.int32), np.array(sizes, np.int32), False)


def test_the_planted_chain_is_found_through_sids_with_pad() -> None:
    data = make_chain(400)
    index = np.arange(N)
    sids = sids_of(np.stack([index % 6, index // 6, np.where(index % 4, 0, PAD)], axis=1), [6, 5, 1])
    model = Ntp(
        NtpConfig(width=32, layers=1, heads=2, epochs=14, batch_positions=128, learning_rate=5e-3, validation_users=100)
    )
    ranks = model.fit(data, sids, Rng(0), local_runtime()).rank_targets(
        data.test_history, data.test_target, sids, local_runtime()
    )
    recall = float(np.mean((ranks.better == 0) / ranks.tied))
    popular = float(np.mean(data.test_target == np.bincount(data.train.items, minlength=N).argmax()))
    oracle = KEEP + (1 - KEEP) / N
    assert popular + 0.5 < recall < oracle + 3 * (oracle * (1 - oracle) / len(data.test_target)) ** 0.5


# -- one network without training, with mixed codebook sizes and a PAD class ----------------------------------------
LAYOUT = CodeLayout(np.array([4, 3, 5], np.int32), np.array([False, True, False]))


def network_of(temperature: float = 1.0, layers: int = 2) -> _Network:
    network = _Network(
        NtpConfig(width=16, layers=layers, heads=2, dropout=0.0, max_length=6, temperature=temperature), LAYOUT
    )
    generator = torch.Generator().manual_seed(0)
    network.initialise(generator)
    with torch.no_grad():
        network.index_table.normal_(generator=generator)
    return network.eval()


def random_rows(*shape: int) -> Tensor:
    """Fused rows int64 ``[*shape, 3]`` of random SIDs."""
    generator = np.random.default_rng(1)
    codes = np.stack([generator.integers(c, size=shape) for c in LAYOUT.classes], axis=-1)
    return torch.as_tensor(codes + LAYOUT.offsets[:-1])


def alone(network: _Network, tokens: Tensor, position: int) -> Tensor:
    """Log-probabilities ``[classes_p]`` of the next code from the fused rows ``[S]`` before it, and nothing else."""
    x = network.embed(tokens[None])
    for block in network.blocks:
        x = block(x)
    return network.log_probs(x[0, -1], position)


def test_one_packed_pass_equals_scoring_every_prefix_alone() -> None:
    network, rows = network_of(), random_rows(3, 5)
    with torch.no_grad():
        hidden = network.hidden(rows)
        loss = network.loss(hidden[:, 1:].flatten(0, 1), rows[:, 1:].flatten(0, 1))
        terms = []
        for b, t, p in itertools.product(range(3), range(5), range(3)):
            expected = alone(network, rows[b].flatten()[: 3 * t + p], p)
            torch.testing.assert_close(network.log_probs(hidden[b, t, p], p), expected, atol=1e-5, rtol=1e-5)
            if t:
                terms.append(-expected[rows[b, t, p] - LAYOUT.offsets[p]])
    torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)


def test_a_later_code_changes_nothing_before_it_and_everything_after() -> None:
    network, rows = network_of(), random_rows(1, 4)
    changed = rows.clone()
    changed[0, 2, 1] = LAYOUT.offsets[1] + (rows[0, 2, 1] - LAYOUT.offsets[1] + 1) % int(LAYOUT.classes[1])
    with torch.no_grad():
        same = torch.isclose(network.hidden(rows), network.hidden(changed), atol=1e-6).all(-1).flatten()
    assert same.tolist() == [True] * 8 + [False] * 4


def test_tokens_carry_their_position_in_the_item_and_the_index_of_the_item() -> None:
    network = network_of(layers=1)
    with torch.no_grad():
        made = network.embed(torch.tensor([[2, 2, 2, 2]]))[0]
        token = network.token_table[2]
        for at, (index, position) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)], start=1):
            torch.testing.assert_close(made[at], token + network.index_table[index] + network.position_table[position])
        torch.testing.assert_close(made[0], network.token_table[network.bos])
        shifted = network.embed(torch.tensor([[2, 2, 2, 2]]), shift=2)[0] - made
        torch.testing.assert_close(shifted[4], network.index_table[3] - network.index_table[1])


def test_temperature_divides_the_logits_in_loss_and_decoding() -> None:
    hidden, rows = torch.randn(7, 3, 16, generator=torch.Generator().manual_seed(4)), random_rows(7)
    network = network_of(temperature=0.5)
    with torch.no_grad():
        parts = []
        for p, (first, last) in enumerate(itertools.pairwise(LAYOUT.offsets.tolist())):
            logits = network.final_norm(hidden[:, p]) @ network.token_table[first:last].T / 0.5
            torch.testing.assert_close(network.log_probs(hidden[:, p], p), torch.log_softmax(logits, -1))
            parts.append(F.cross_entropy(logits, rows[:, p] - first))
        torch.testing.assert_close(network.loss(hidden, rows), torch.stack(parts).mean())


def test_cached_decoding_equals_teacher_forcing_for_histories_of_unequal_length() -> None:
    network, rows, length = network_of(), random_rows(3, 5), torch.tensor([5, 1, 3])
    session = _Session(network, rows, length)
    generator = torch.Generator().manual_seed(2)
    paths = [[rows[b, : length[b]].flatten()] for b in range(3)]
    made = session.step(None, None)
    for position, width in enumerate((4, 6, 0)):
        assert made.shape == (3, len(paths[0]), LAYOUT.classes[position])
        for b, path in enumerate(paths):
            for w, tokens in enumerate(path):
                with torch.no_grad():
                    torch.testing.assert_close(made[b, w], alone(network, tokens, position), atol=1e-5, rtol=1e-5)
        if width:
            parent = torch.randint(len(paths[0]), (3, width), generator=generator)
            classes = torch.randint(int(LAYOUT.classes[position]), (3, width), generator=generator)
            paths = [
                [
                    torch.cat([paths[b][int(parent[b, w])], classes[b, w : w + 1] + LAYOUT.offsets[position]])
                    for w in range(width)
                ]
                for b in range(3)
            ]
            made = session.step(parent, classes)


def test_windows_become_sequences_with_their_last_target() -> None:
    # Two windows of width 3 (items 5 6 7 -> 8, and 2 -> 4), and a row that only fills the shape.
    made = WindowBatch(
        np.array([[5, 6, 7], [2, -1, -1], [-1, -1, -1]]), np.array([3, 1, 0]), np.array([0, 1, 2, 3]), np.array([6, 7, 8, 4])
    )
    assert _sequences(made).tolist() == [[5, 6, 7, 8], [2, 4, 0, 0], [0, 0, 0, 0]]


# -- fitted models --------------------------------------------------------------------------------------------------
def fitted(sids: SemanticIds, **more: object) -> Ntp:
    rows = [np.random.default_rng(u).integers(sids.n_items, size=5).tolist() for u in range(20)]
    users = np.arange(20)
    data = RetrievalData(
        sids.n_items, as_sequences(rows), users, np.zeros(20, np.int32), users, as_sequences(rows), np.zeros(20, np.int32)
    )
    return Ntp(NtpConfig(**{**Ntp.budgets["smoke"], **more})).fit(data, sids, Rng(1), local_runtime())


def test_a_beam_as_wide_as_the_catalogue_equals_brute_force() -> None:
    sids, history = make_sids(), [3, 7, 1, 20]
    model = fitted(sids, beam=sids.n_items)
    network = model.network_
    assert network is not None
    ranks = model.rank_targets(as_sequences([history] * 23), np.arange(23, dtype=np.int32), sids, local_runtime())
    rows = torch.as_tensor(fused_rows(network.layout, sids, 23, "test"))
    score = np.zeros(23)
    with torch.no_grad():
        for item in range(23):
            tokens = rows[history + [item]].flatten()
            score[item] = sum(
                float(alone(network, tokens[: 12 + p], p)[rows[item, p] - network.layout.offsets[p]]) for p in range(3)
            )
    _, of_item = sids.distinct()
    np.testing.assert_allclose(ranks.score, score, atol=1e-5)
    gaps = np.diff(np.sort(score[np.unique(of_item, return_index=True)[1]]))
    assert gaps.min() > 1e-5  # else the order below would hang on rounding
    assert ranks.better.tolist() == [int((score > score[i] + 1e-6).sum()) for i in range(23)]
    assert ranks.tied.tolist() == np.bincount(of_item)[of_item].tolist()


def test_a_narrow_beam_agrees_with_the_wide_one_on_what_it_finds() -> None:
    data, sids = make_retrieval(), make_sids()
    model = fitted(sids)
    wide = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    narrow_model = Ntp(NtpConfig(**{**Ntp.budgets["smoke"], "beam": 4, "cover": 2}))
    narrow_model.load_state_dict(model.state_dict())
    narrow = narrow_model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    found = wide.better + wide.tied <= 3
    assert found.any() and not found.all()
    np.testing.assert_allclose(narrow.score[found], wide.score[found], atol=1e-5)
    assert narrow_model.diagnostics()["beam_width"] == 4


def test_probabilities_of_all_code_tuples_sum_to_one_and_the_free_beam_is_then_never_invalid() -> None:
    every = np.array(list(itertools.product(range(3), range(2), range(2))))
    for codes, whole in ((every, True), (every[:7], False)):
        sids, n = sids_of(codes, [3, 2, 2]), len(codes)
        model = fitted(sids)
        ranks = model.rank_targets(as_sequences([[0, 3]] * n), np.arange(n, dtype=np.int32), sids, local_runtime())
        mass, invalid = float(np.exp(ranks.score.astype(np.float64)).sum()), model.diagnostics()
        assert mass == pytest.approx(1.0, abs=1e-5) if whole else 0 < mass < 1
        # 12 tuples fill the beam of 20 exactly; five of them are no SID of the smaller catalogue.
        assert invalid["invalid_rate_unconstrained"] == pytest.approx(0.0 if whole else 5 / 12)


def test_diagnostics_tell_what_was_dropped_and_how_long_it_took() -> None:
    sids = make_sids()
    model = fitted(sids, max_length=3)
    model.rank_targets(as_sequences([[1, 2, 3, 4], [5]]), np.array([1, 2], np.int32), sids, local_runtime())
    notes = model.diagnostics()
    assert notes["truncated_histories"] == 1 and notes["train_truncated_histories"] == 20
    assert notes["embedding_parameters"] == (4 + 3 + 6 + 1) * 32
    assert {"ms_per_user", "examples_per_second", "best_epoch", "training_seconds", "beam_widened_users"} <= set(notes)


def test_indices_of_test_sequences_are_trained_although_training_sequences_are_two_items_shorter() -> None:
    model = fitted(make_sids(), weight_decay=0.0, batch_positions=16)  # every sequence has five items, five steps an epoch
    network = model.network_
    assert network is not None
    assert network.index_table.detach().norm(dim=1).gt(0).tolist() == [True] * 7 + [False] * (53 - 7)


def test_other_sids_than_at_fit_are_refused() -> None:
    model = fitted(sids_of(np.array([[0, 1], [1, 0], [2, 0]]), [3, 2]))
    ask = as_sequences([[0]]), np.array([1], np.int32)
    with pytest.raises(InputError, match="position 1"):
        model.rank_targets(*ask, sids_of(np.array([[0, 1], [1, PAD], [2, 0]]), [3, 2]), local_runtime())
    with pytest.raises(InputError, match="sizes"):
        model.rank_targets(*ask, sids_of(np.array([[0, 1], [1, 0], [2, 0]]), [4, 2]), local_runtime())


def test_width_must_suit_the_heads() -> None:
    with pytest.raises(InputError, match="width"):
        NtpConfig(width=26, heads=4)
