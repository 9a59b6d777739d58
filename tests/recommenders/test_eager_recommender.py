"""EAGER's recommender: joint scores against plain teacher forcing, the split into streams, and the auxiliary losses."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.blocks.stream_decoder import StreamSession
from sidbench.recommenders.blocks.transfer import GuidedTransfer, Puzzles, sampled_contrast
from sidbench.recommenders.decoding import forced
from sidbench.recommenders.decoding.forced import forced_scores
from sidbench.recommenders.decoding.joint import JointSearch
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.recommenders.eager import Eager, EagerConfig, split_streams
from sidbench.tokenizers.base import PAD, SemanticIds

NAMES = ("semantic 1", "behaviour 1", "semantic 2", "behaviour 2")


def fitted(sids: SemanticIds, **more: object) -> Eager:
    config = EagerConfig(**{**Eager.budgets["smoke"], "epochs": 1, **more})
    with torch.enable_grad():
        return Eager(config).fit(make_retrieval(sids.n_items), sids, Rng(7), local_runtime())


def four_positions(n_items: int = 23, **more: object) -> SemanticIds:
    generator = np.random.default_rng(1)
    codes = np.stack([generator.integers(-1, 3, size=n_items) for _ in range(4)], axis=1).astype(np.int32)
    return SemanticIds(codes, np.full(4, 3, np.int32), False, position_names=NAMES, **more)


@torch.no_grad()
def teacher_forced(model: Eager, sids: SemanticIds, history: list[int]) -> np.ndarray:
    """float64 ``[2, N]`` log-probability of every item's codes in each stream, by the training form of the decoders."""
    net = model.network_.eval()
    rows = torch.tensor(net.layout.rows(sids.codes))
    every = net.encode(rows[history][None])
    made = []
    for decoder in net.decoders:
        scores = []
        for item in range(sids.n_items):
            own = rows[item, decoder.positions]
            codes = F.embedding(own, net.codes.inputs()).expand(len(history), -1, -1)
            states = decoder(every, codes, False)[-1]
            scores.append(
                sum(
                    float(torch.log_softmax(states[j] @ out.T, -1)[own[j] - first])
                    for j, (out, first) in enumerate(zip(decoder.outputs(), decoder.first_row, strict=True))
                )
            )
        made.append(scores)
    return np.array(made)


def test_full_beams_score_every_item_by_the_sum_of_both_streams():
    sids = four_positions()
    model = fitted(sids)
    history = [4, 9, 1, 22, 7]
    ranks = model.rank_targets(as_sequences([history] * 23), np.arange(23, dtype=np.int32), sids, local_runtime())
    score = teacher_forced(model, sids, history).sum(0)
    np.testing.assert_allclose(ranks.score, score, rtol=1e-4, atol=1e-4)
    assert np.array_equal(ranks.better, [(score > s + 1e-5).sum() for s in score])
    assert (ranks.depth == 23).all()


def test_probabilities_of_all_code_tuples_sum_to_one():
    codes = np.array(list(itertools.product(range(2), range(3), range(2))), np.int32)
    sids = SemanticIds(codes, np.array([2, 3, 2], np.int32), False)
    model = fitted(sids)
    ranks = model.rank_targets(as_sequences([[0, 3]] * 12), np.arange(12, dtype=np.int32), sids, local_runtime())
    assert float(np.exp(ranks.score.astype(np.float64)).sum()) == pytest.approx(1.0, abs=1e-4)


@torch.no_grad()
def test_narrow_beams_give_the_union_of_both_streams_with_exact_scores():
    sids = four_positions(60)
    model, runtime = fitted(sids), local_runtime()
    net, history = model.network_.eval(), [4, 9, 1, 22, 7]
    rows = torch.tensor(net.layout.rows(sids.codes))
    hidden, place = net.encode(rows[history][None]), torch.tensor([4])
    streams = [d.positions for d in net.decoders]
    assert streams == [[1, 3], [0, 2]]  # behaviour first
    search = JointSearch(sids, streams, runtime)
    beam = search(
        [partial(StreamSession, d, net.codes.inputs(), hidden, place, d.memories(hidden)) for d in net.decoders], 2
    )
    single, of_item = teacher_forced(model, sids, history), search.trie.of_item
    wanted: dict[int, float] = {}
    for s, positions in enumerate(streams):
        best = {tuple(sids.codes[i, positions].tolist()): single[s, i] for i in range(60)}
        top = sorted(best, key=lambda code: -best[code])[:2]
        wanted |= {int(of_item[i]): single[:, i].sum() for i in range(60) if tuple(sids.codes[i, positions].tolist()) in top}
    found = beam.sid[0, beam.sid[0] >= 0].tolist()
    assert set(found) == set(wanted) and 2 < len(found) < search.trie.n_sids
    np.testing.assert_allclose(beam.score[0, : len(found)].numpy(), [wanted[s] for s in found], rtol=1e-4, atol=1e-4)
    outside = [single[:, i].sum() for i in range(60) if of_item[i] not in wanted]
    assert max(outside) <= beam.bound[0].item() + 1e-4


@torch.no_grad()
def test_forced_scores_in_pieces_equal_teacher_forcing_where_wanted(monkeypatch):
    sids = four_positions(40)
    model = fitted(sids)
    net, history = model.network_.eval(), [4, 9, 1]
    rows = torch.tensor(net.layout.rows(sids.codes))
    hidden, place = net.encode(rows[history].expand(2, -1, -1)), torch.tensor([2, 2])
    single = teacher_forced(model, sids, history)[1]
    decoder, at = net.decoders[1], net.decoders[1].positions
    trie = SidTrie.of(SemanticIds(np.ascontiguousarray(sids.codes[:, at]), sids.sizes[at], False), local_runtime())
    expected = np.zeros(trie.n_sids)
    expected[trie.of_item] = single
    wanted = torch.rand(2, trie.n_sids, generator=torch.Generator().manual_seed(0)) < 0.5
    wanted[1] = False
    wanted[1, 3] = True
    opener = partial(StreamSession, decoder, net.codes.inputs(), hidden, place, decoder.memories(hidden))
    for room in (1 << 24, 16):
        monkeypatch.setattr(forced, "ROOM", room)
        scores = forced_scores(opener, trie, wanted)
        assert torch.equal(torch.isfinite(scores), wanted)
        for user in range(2):
            np.testing.assert_allclose(
                scores[user, wanted[user]].numpy(), expected[wanted[user].numpy()], rtol=1e-4, atol=1e-4
            )
    assert torch.isneginf(forced_scores(opener, trie, torch.zeros_like(wanted))).all()


def test_conformance():
    check_recommender(Eager)


def test_planted_chain_through_named_streams():
    n, data = 30, make_chain(400)
    index = np.arange(n)
    codes = np.stack([index % 6, np.where(index % 4, 0, PAD), index // 6], axis=1).astype(np.int32)
    sids = SemanticIds(codes, np.array([6, 1, 5], np.int32), False, position_names=("a 1", "a 2", "b 1"))
    config = EagerConfig(
        width=32,
        heads=2,
        decoder_layers=1,
        dropout=0.1,
        epochs=8,
        batch_positions=256,
        learning_rate=5e-3,
        warmup_steps=20,
        validation_users=50,
    )
    model = Eager(config).fit(data, sids, Rng(0), local_runtime())
    ranks = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    recall = float(np.mean((ranks.better == 0) / ranks.tied))
    baseline = float(np.mean(data.test_target == np.bincount(data.train.items, minlength=n).argmax()))
    assert baseline + 0.5 < recall < 0.8 + 0.2 / n + 0.06
    assert model.diagnostics()["streams_named"] == 1.0


def test_streams_come_from_names_or_from_halves():
    stream, named = split_streams(four_positions())
    assert stream.tolist() == [1, 0, 1, 0] and named
    stream, named = split_streams(make_sids())
    assert stream.tolist() == [0, 1, 1] and not named
    three = SemanticIds(np.zeros((2, 3), np.int32), np.ones(3, np.int32), False, position_names=("a", "b", "c"))
    assert split_streams(three)[0].tolist() == [0, 1, 1]
    with pytest.raises(InputError, match="at least two"):
        split_streams(SemanticIds(np.zeros((2, 1), np.int32), np.ones(1, np.int32), False))


# -- auxiliary losses ----------------------------------------------------------------------------------------------
def test_contrast_is_the_written_formula_and_leaves_out_the_target_among_the_negatives():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    anchors = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    loss = sampled_contrast(anchors, vectors, torch.tensor([0, 1]), torch.tensor([0, 2]), 0.5)
    # Row 0: positive cos 1, negative item 2 (cos -1). Row 1: positive 1, negatives items 0 and 2 (cos 0 each).
    wanted = (np.log(1 + np.exp(-4)) + np.log(1 + 2 * np.exp(-2))) / 2
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def transfer_case() -> tuple[GuidedTransfer, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    module = GuidedTransfer(8, 2, 2, 0.0).eval()
    with torch.no_grad():
        for p in (module.slots, module.blank):
            p.normal_(generator=generator)
    tables = tuple(torch.randn(k, 8, generator=generator) for k in (3, 4))
    return module, torch.randn(5, 8, generator=generator), torch.tensor([[0, 1], [2, 3], [1, 0], [2, 2], [0, 0]]), tables


@torch.no_grad()
def test_transfer_asks_for_hidden_codes_only_and_judges_offered_ones():
    module, summary, classes, tables = transfer_case()
    hide = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0], [0, 1]], dtype=torch.bool)
    offered = classes.clone()
    offered[0, 1] = 2
    restore, verdict = module.losses(summary, classes, Puzzles(hide, offered), tables, tables)
    own = torch.stack([tables[s][classes[:, s]] for s in (0, 1)], 1)
    state = module(summary, torch.where(hide[..., None], module.blank, own))
    terms = [F.cross_entropy(state[i, 1 + s] @ tables[s].T, classes[i, s]) for i in range(5) for s in (0, 1) if hide[i, s]]
    torch.testing.assert_close(restore, torch.stack(terms).mean())
    judged = module(summary, torch.stack([tables[s][offered[:, s]] for s in (0, 1)], 1))[:, 0]
    logits, label = module.verdict(judged)[:, 0], torch.tensor([0.0, 1, 1, 1, 1])
    torch.testing.assert_close(verdict, F.binary_cross_entropy_with_logits(logits, label))
    # What is hidden must not be seen: another class there gives the same states.
    other = torch.where(hide, 0, classes)
    again = torch.stack([tables[s][other[:, s]] for s in (0, 1)], 1)
    assert torch.equal(module(summary, torch.where(hide[..., None], module.blank, again)), state)


def test_auxiliary_tasks_train_and_stay_out_of_the_saved_state():
    n = 23
    generator = np.random.default_rng(0)
    vectors = {"text": generator.normal(size=(n, 6)).astype(np.float32), "vision": np.ones((n, 2), np.float32)}
    sids = four_positions(n, reconstruction=vectors)
    plain = fitted(sids)
    rich = fitted(sids, guidance=1.0, contrastive_behaviour=1.0, contrastive_semantic=10.0, negatives=8)
    notes = rich.diagnostics()
    assert notes["contrastive_streams"] == 1.0 and notes["training_only_parameters"] > 0  # no behaviour vectors here
    assert plain.diagnostics()["training_only_parameters"] == 0.0 and plain.diagnostics()["contrastive_streams"] == 0.0
    assert rich.state_dict().keys() == plain.state_dict().keys() and rich.n_parameters == plain.n_parameters
    table = "codes.table"
    assert not np.array_equal(rich.state_dict()[table], plain.state_dict()[table])
    again = Eager(rich.config)
    again.load_state_dict(rich.state_dict())
    asked = as_sequences([[1, 2, 3]]), np.array([5], np.int32), sids, local_runtime()
    assert again.rank_targets(*asked).score == rich.rank_targets(*asked).score


@torch.no_grad()
def test_no_target_sees_later_items():
    sids = four_positions()
    net = fitted(sids).network_.eval()
    rows = torch.tensor(net.layout.rows(sids.codes))
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 9]])
    for decoder in net.decoders:
        codes = F.embedding(rows[[5, 6, 7, 8]][:, decoder.positions], net.codes.inputs())
        a, b = (decoder(net.encode(rows[h]), codes, True) for h in (one, other))
        torch.testing.assert_close(a[:3], b[:3])
        assert not torch.allclose(a[3], b[3], atol=1e-4)


def test_width_must_suit_the_heads():
    with pytest.raises(InputError, match="width"):
        EagerConfig(width=24, heads=8)
