"""MTP's confidence order: the search against a plain enumeration of its procedure, the network against itself, and the
parallel variant against what it was before there was a choice."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.blocks.transformer import initialise
from sidbench.recommenders.decoding.confidence import OPEN, confidence_search, search_rows
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.recommenders.mtp import Mtp, MtpConfig, _Network, _OpenPositions
from sidbench.tokenizers.base import PAD, SemanticIds

TINY = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}


class Tables:
    """A model whose distributions are random but fixed functions of (user, position, what is fixed)."""

    def __init__(self, layout: CodeLayout, seed: int = 0, ties: bool = False) -> None:
        self.layout, self.seed, self.ties = layout, seed, ties

    def given(self, user: int, position: int, partial: tuple[int, ...]) -> np.ndarray:
        generator = np.random.default_rng([self.seed, user, position, *(c + 1 for c in partial)])
        logits = generator.normal(size=int(self.layout.classes[position])) * generator.choice([0.2, 3.0])
        logits = np.zeros_like(logits) if self.ties else logits
        return np.asarray(logits - np.log(np.exp(logits).sum()), np.float32)

    def log_probs(self, partial: torch.Tensor):
        for p in range(self.layout.length):
            yield torch.tensor(
                np.array([[self.given(u, p, tuple(h)) for h in user] for u, user in enumerate(partial.tolist())])
            )


def entropy(log_probs: np.ndarray) -> float:
    return float(-(np.exp(log_probs) * log_probs).sum())


def reference(given, length: int, sids: list[tuple[int, ...]], width: int) -> tuple[dict[int, float], float]:
    """The procedure in words: SID number -> score of the beam, and the best score ever pruned."""
    beam, pruned = [(0.0, (OPEN,) * length)], -np.inf
    for _ in range(length):
        grown = []
        for score, partial in beam:
            chosen = min((p for p in range(length) if partial[p] == OPEN), key=lambda p: entropy(given(p, partial)))
            alive = {s[chosen] for s in sids if all(a in (OPEN, b) for a, b in zip(partial, s, strict=True))}
            for c in sorted(alive):
                grown.append((score + float(given(chosen, partial)[c]), (*partial[:chosen], c, *partial[chosen + 1 :])))
        grown.sort(key=lambda hypothesis: -hypothesis[0])
        beam = grown[:width]
        pruned = max([pruned, *(score for score, _ in grown[width:])])
    return {sids.index(partial): score for score, partial in beam}, pruned


def catalogue(codes: np.ndarray, sizes: list[int]) -> tuple[SidTrie, list[tuple[int, ...]]]:
    trie = SidTrie.of(SemanticIds(codes.astype(np.int32), np.array(sizes, np.int32), False), local_runtime())
    return trie, [tuple(s) for s in trie.classes.tolist()]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 25), st.integers(1, 30))
def test_search_follows_the_procedure_at_any_width(seed, sizes, n_items, width):
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.integers(-1, k, size=n_items) for k in sizes], axis=1)
    trie, sids = catalogue(codes, sizes)
    model = Tables(trie.layout, seed)
    beam = confidence_search(model, 2, trie, width)
    assert beam.sid.shape == beam.score.shape == (2, width)
    for user in range(2):
        wanted, pruned = reference(lambda p, partial, u=user: model.given(u, p, partial), len(sizes), sids, width)
        found = beam.sid[user, beam.sid[user] >= 0].tolist()
        assert set(found) == set(wanted) and len(found) == len(wanted)
        scores = beam.score[user, : len(found)]
        torch.testing.assert_close(scores, torch.tensor([wanted[s] for s in found]), rtol=1e-5, atol=1e-5)
        assert (scores.diff() <= 0).all()
        assert beam.bound[user].item() == pytest.approx(pruned, abs=1e-5)
        every, _ = reference(lambda p, partial, u=user: model.given(u, p, partial), len(sizes), sids, len(sids))
        outside = [score for sid, score in every.items() if sid not in wanted]
        assert max(outside, default=-np.inf) <= pruned + 1e-5


def test_each_tuple_has_one_path_so_all_probabilities_sum_to_one():
    sizes = [3, 2, 4]
    trie, sids = catalogue(np.array(list(itertools.product(*map(range, sizes)))), sizes)
    beam = confidence_search(Tables(trie.layout, 5), 3, trie, len(sids))
    np.testing.assert_allclose(beam.score.double().exp().sum(1).numpy(), 1.0, rtol=1e-5)
    assert torch.equal(beam.sid.sort(1).values, torch.arange(len(sids)).expand(3, -1))


def test_equal_entropies_take_the_first_position_and_equal_scores_the_sid_order():
    trie, sids = catalogue(np.array(list(itertools.product(range(2), range(3)))), [2, 3])
    flat = Tables(trie.layout, ties=True)  # entropies log 2 < log 3: position 0 first
    beam = confidence_search(flat, 1, trie, 6)
    assert beam.sid.tolist() == [[0, 1, 2, 3, 4, 5]] and not beam.cut.any()
    assert confidence_search(flat, 1, trie, 4).sid.tolist() == [[0, 1, 2, 3]]
    assert confidence_search(flat, 1, trie, 4).cut.all()


def test_positions_are_fixed_in_the_order_of_confidence():
    # Hand-worked: position 1 is surer (.9 against .6), and what follows depends on it.
    first = {0: [0.6, 0.4], 1: [0.9, 0.1]}
    second = {0: [0.2, 0.8], 1: [0.7, 0.3]}  # of position 0, by the class of position 1

    class Model:
        def log_probs(self, partial):
            for p in (0, 1):
                yield torch.log(
                    torch.tensor(
                        [
                            [first[p] if h[1] == OPEN else (second[h[1]] if p == 0 else [0.5, 0.5]) for h in user]
                            for user in partial.tolist()
                        ]
                    )
                )

    trie, sids = catalogue(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), [2, 2])
    beam = confidence_search(Model(), 1, trie, 4)
    assert [sids[s] for s in beam.sid[0].tolist()] == [(1, 0), (0, 0), (0, 1), (1, 1)]
    np.testing.assert_allclose(beam.score[0].exp().numpy(), [0.72, 0.18, 0.07, 0.03], rtol=1e-5)


def test_faults_are_named():
    trie, _ = catalogue(np.array([[0], [1]]), [2])
    with pytest.raises(InputError, match="width"):
        confidence_search(Tables(trie.layout), 1, trie, 0)

    class Broken:
        def log_probs(self, partial):
            return [torch.full((1, 1, 2), torch.nan)]

    with pytest.raises(StageError, match="NaN"):
        confidence_search(Broken(), 1, trie, 2)
    assert search_rows(trie, 128) > 64


# -- the network ---------------------------------------------------------------------------------------------------
def network(sids: SemanticIds, **more: object) -> _Network:
    net = _Network(MtpConfig(**{**TINY, "decoding": "confidence", **more}), CodeLayout.of(sids))
    net.initialise(local_runtime().generator(Rng(3)))
    return net.eval()


@torch.no_grad()
def test_training_and_search_see_the_same_distribution_of_every_position():
    sids = make_sids()
    net = network(sids)
    rows = torch.tensor(net.layout.rows(sids.codes))
    histories = torch.tensor([[3, 5, 7, 11], [2, 2, 9, 4]])
    hidden = net.hidden(net.items(rows[histories.view(-1)]).view(2, 4, -1))
    targets = torch.tensor([[5, 7, 11, 6], [2, 9, 4, 10]])  # 5 and 10 have PAD
    turn = torch.tensor(np.random.default_rng(0).random((8, 3)).argsort(1))
    codes = F.embedding(rows[targets.view(-1)], net.codes.inputs())
    queries = net.queries(net.decoder.given_earlier(hidden, codes, turn).transpose(0, 1))
    for place in range(4):
        model = _OpenPositions(net, net.decoder, hidden, torch.full((2,), place))
        for user in range(2):
            m = user * 4 + place
            classes = rows[targets[user, place]] - net.first_row
            for p in range(3):
                partial = torch.where(turn[m] < turn[m, p], classes, OPEN).expand(2, 1, 3)
                wanted = list(model.log_probs(partial))[p][user, 0]
                logits = F.normalize(queries[p, m], dim=-1) @ net.codes.outputs()[p].T / net.temperature
                torch.testing.assert_close(torch.log_softmax(logits, -1), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_place_sees_no_later_item_and_tells_the_order_of_earlier_ones():
    net = network(make_sids())
    one = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    other = one.clone()
    other[:, 4] += 1.0
    swapped = one[:, [1, 0, 2, 3, 4]]
    partial = torch.full((1, 1, 3), OPEN)
    at = torch.tensor([3])
    a, b, c = (
        torch.cat(list(_OpenPositions(net, net.decoder, h, at).log_probs(partial)), -1) for h in (one, other, swapped)
    )
    assert torch.equal(a, b) and not torch.allclose(a, c, atol=1e-4)


@torch.no_grad()
def test_full_beam_of_a_fitted_model_is_the_enumeration_of_all_sids():
    data, sids, runtime = make_retrieval(), make_sids(), local_runtime()
    model = Mtp(MtpConfig(**{**Mtp.budgets["smoke"], "decoding": "confidence"}))
    with torch.enable_grad():
        model.fit(data, sids, Rng(7), runtime)
    net, history = model.network_.eval(), [3, 8, 9, 11]
    rows = torch.tensor(net.layout.rows(sids.codes))
    hidden = net.hidden(net.items(rows[history]).view(1, 4, -1))
    session = _OpenPositions(net, net.decoder, hidden, torch.tensor([3]))

    def given(p: int, partial: tuple[int, ...]) -> np.ndarray:
        return list(session.log_probs(torch.tensor([[partial]])))[p][0, 0].numpy()

    trie = SidTrie.of(sids, runtime)
    wanted, _ = reference(given, 3, [tuple(s) for s in trie.classes.tolist()], trie.n_sids)
    ranks = model.rank_targets(as_sequences([history] * 23), np.arange(23, dtype=np.int32), sids, runtime)
    score = np.array([wanted[s] for s in trie.of_item])
    np.testing.assert_allclose(ranks.score, score, rtol=1e-4, atol=1e-5)
    assert np.array_equal(ranks.better, [(score > s + 1e-6).sum() for s in score])
    assert (ranks.depth == 23).all()
    notes = model.diagnostics()
    assert notes["beam_targets_found"] == 1.0 and notes["ms_per_user"] > 0


def test_a_narrow_beam_is_widened_until_it_covers_enough():
    data, sids = make_retrieval(), make_sids()
    config = MtpConfig(**{**Mtp.budgets["smoke"], "decoding": "confidence", "beam": 2, "cover": 6})
    model = Mtp(config).fit(data, sids, Rng(7), local_runtime())
    ranks = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    notes = model.diagnostics()
    assert (ranks.depth >= 6).all() and notes["beam_widest"] > notes["beam_width"] == 2
    outside = np.isnan(ranks.score)
    assert outside.any() and (ranks.better + ranks.tied == 23)[outside].all()


def test_conformance_in_the_order_of_confidence():
    check_recommender(Mtp, {"decoding": "confidence"})


def test_planted_chain():
    n, data = 30, make_chain(400)
    index = np.arange(n)
    codes = np.stack([index % 6, index // 6, np.where(index % 4, 0, PAD)], axis=1).astype(np.int32)
    sids = SemanticIds(codes, np.array([6, 5, 1], np.int32), False)
    config = MtpConfig(
        width=32,
        layers=1,
        heads=2,
        dropout=0.1,
        epochs=8,
        batch_positions=256,
        learning_rate=5e-3,
        decoding="confidence",
        validation_users=50,
    )
    model = Mtp(config).fit(data, sids, Rng(0), local_runtime())
    ranks = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    recall = float(np.mean((ranks.better == 0) / ranks.tied))
    baseline = float(np.mean(data.test_target == np.bincount(data.train.items, minlength=n).argmax()))
    assert baseline + 0.5 < recall < 0.8 + 0.2 / n + 0.06


# -- the parallel variant is what it was ---------------------------------------------------------------------------
def test_parallel_has_no_new_parameter_and_draws_the_old_ones_as_before():
    layout = CodeLayout.of(make_sids())
    net, same = (_Network(MtpConfig(**TINY), layout) for _ in range(2))
    assert {name.split(".")[0] for name in net.state_dict()} == {
        "codes",
        "item_in",
        "item_out",
        "blocks",
        "final_norm",
        "heads",
    }
    net.initialise(local_runtime().generator(Rng(3)))
    generator = local_runtime().generator(Rng(3))
    initialise(same, generator)
    with torch.no_grad():
        same.codes.table.normal_(0.0, 16**-0.5, generator=generator)
    for name, value in net.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


@torch.no_grad()
def test_parallel_loss_and_scores_are_those_of_the_written_formula():
    sids = make_sids()
    net = network(sids, decoding="parallel")
    rows = torch.tensor(net.layout.rows(sids.codes))
    hidden = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    classes, cells = rows[:6] - net.first_row, []
    for p, table in enumerate(net.codes.table.split(net.layout.classes.tolist())):
        query = hidden @ net.heads.weight[16 * p : 16 * p + 16].T + net.heads.bias[16 * p : 16 * p + 16]
        logits = F.cosine_similarity(query[:, None], table[None], dim=-1) / 0.1
        cells.append(torch.log_softmax(logits, -1))
    mean = -torch.stack([c.gather(1, classes[:, p, None]) for p, c in enumerate(cells)]).mean()
    torch.testing.assert_close(net.loss(hidden, rows[:6]), mean)
    torch.testing.assert_close(net.log_probs(hidden), torch.cat(cells, 1).T)
