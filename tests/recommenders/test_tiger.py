"""TIGER beside transformers' T5 and generate, beside exhaustive scoring, and on a planted chain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import as_sequences, check_recommender, make_chain
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.blocks.t5 import (
    T5,
    T5Shape,
    distance_buckets,
    from_transformers,
    to_transformers,
)
from sidbench.recommenders.blocks.t5_session import T5Session
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.recommenders.decoding.beam import beam_search
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.recommenders.tiger import Tiger, TigerConfig
from sidbench.tokenizers.base import PAD, SemanticIds

RUNTIME = local_runtime()
SHAPE = T5Shape(vocabulary=61, width=32, heads=3, head_width=8, hidden=48, encoder_layers=2, decoder_layers=2)


def network(shape: T5Shape = SHAPE, seed: int = 0) -> T5:
    made = T5(shape).eval()
    made.initialise(torch.Generator().manual_seed(seed))
    return made


def peer(ours: T5) -> T5ForConditionalGeneration:
    """transformers' model with our weights."""
    shape = ours.shape
    config = T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_kv=shape.head_width,
        d_ff=shape.hidden,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=shape.heads,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=None,
        decoder_start_token_id=0,
    )
    made = T5ForConditionalGeneration(config).eval()
    made.load_state_dict(to_transformers(ours.state_dict(), shape))
    return made


def inputs(shape: T5Shape, rows: int, size: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens, lengths and mask; the first row is full."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, shape.vocabulary, (rows, size), generator=generator)
    length = torch.randint(1, size + 1, (rows,), generator=generator)
    length[0] = size
    return tokens, length, (torch.arange(size) < length[:, None]).long()


# -- the network -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bidirectional", [True, False])
def test_distance_buckets_are_those_of_t5(bidirectional: bool) -> None:
    theirs = T5Attention._relative_position_bucket(torch.arange(-128, 129), bidirectional=bidirectional)
    assert np.array_equal(distance_buckets(bidirectional), theirs.numpy())


@pytest.mark.parametrize("padded", [True, False])
def test_logits_loss_and_gradients_equal_those_of_transformers(padded: bool) -> None:
    ours = network()
    theirs = peer(ours)
    tokens, length, mask = inputs(SHAPE, 7, 150)  # longer than the farthest distance bucket
    if not padded:
        mask = torch.ones_like(mask)
    targets = torch.randint(1, SHAPE.vocabulary, (7, 5), generator=torch.Generator().manual_seed(2))
    expected = theirs(input_ids=tokens, attention_mask=mask, labels=targets)
    length_or_none = length if padded else None
    logits = ours.hidden(tokens, length_or_none, targets) @ ours.shared.T
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    loss = ours.loss(tokens, length_or_none, targets)
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.loss.backward()
    gradients = from_transformers({n: p.grad for n, p in theirs.named_parameters()}, SHAPE)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=2e-5, rtol=1e-4, msg=name)


def test_conversion_is_a_round_trip_that_uses_every_entry() -> None:
    state = network().state_dict()
    theirs = to_transformers(state, SHAPE)
    back = from_transformers(theirs, SHAPE)
    assert set(theirs) == set(peer(network()).state_dict())
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_temperature_divides_the_logits() -> None:
    ours = network()
    tokens, length, _ = inputs(SHAPE, 4, 12)
    targets = torch.randint(1, SHAPE.vocabulary, (4, 3), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = ours.hidden(tokens, length, targets) @ ours.shared.T
        plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1) / 0.7, targets.flatten())
        torch.testing.assert_close(ours.loss(tokens, length, targets, 0.7), plain)


def test_padding_changes_nothing() -> None:
    ours = network()
    tokens, length, _ = inputs(SHAPE, 5, 16)
    targets = torch.randint(1, SHAPE.vocabulary, (5, 3), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = ours.hidden(tokens, length, targets)
        for row, size in enumerate(length.tolist()):
            alone = ours.hidden(tokens[row : row + 1, :size], None, targets[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, atol=2e-6, rtol=1e-5)


def test_gradients_under_dropout_are_those_of_the_loss_with_the_noise_held_fixed() -> None:
    made = T5(SHAPE, dropout=0.2)
    made.initialise(torch.Generator().manual_seed(0))
    made.train()
    tokens, length, _ = inputs(SHAPE, 6, 20)
    targets = torch.randint(1, SHAPE.vocabulary, (6, 3), generator=torch.Generator().manual_seed(3))

    def loss() -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return made.loss(tokens, length, targets)

    assert loss().item() != made.eval().loss(tokens, length, targets).item()
    made.train()
    loss().backward()
    parameters = list(made.parameters())
    direction = [p.grad / torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True) if p.grad is not None)
    step, values = 2e-3, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
            values.append(float(loss()))
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=sign * step)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=0.02)


# -- decoding --------------------------------------------------------------------------------------------------------
def catalogue(n: int, sizes: list[int], seed: int = 0) -> SemanticIds:
    """``n`` distinct SIDs."""
    every = np.array(list(itertools.product(*(range(k) for k in sizes))))
    chosen = np.random.default_rng(seed).permutation(len(every))[:n]
    return SemanticIds(every[chosen].astype(np.int32), np.array(sizes, np.int32), ordered=True)


def session(ours: T5, layout: CodeLayout, tokens: Tensor, length: Tensor | None) -> T5Session:
    with torch.no_grad():
        return T5Session(ours, layout, tokens, length, 1.0)


def test_lists_of_the_top_20_are_those_of_generate() -> None:
    """``generate`` takes log-softmax over the vocabulary, then masks, and does not renormalise, as we do."""
    sids = catalogue(300, [12, 12, 12])
    layout, trie = CodeLayout.of(sids), SidTrie.of(sids, RUNTIME)
    ours = network(T5Shape(1 + int(layout.offsets[-1]), 32, 3, 8, 48, 2, 2))
    with torch.no_grad():
        ours.shared *= 2  # sharper than at the start of training, so that prefixes lose against each other
    tokens, length, mask = inputs(ours.shape, 64, 24)
    beam = beam_search(session(ours, layout, tokens, length), trie, 20)
    item_tokens = (sids.codes + 1 + layout.offsets[:-1]).tolist()
    allowed: dict[tuple[int, ...], set[int]] = {}
    for row in item_tokens:
        for depth in range(3):
            allowed.setdefault(tuple(row[:depth]), set()).add(row[depth])
    choose: Callable[[int, Tensor], list[int]] = lambda _, seen: sorted(allowed[tuple(seen.tolist()[1:])])  # noqa: E731
    found = peer(ours).generate(
        tokens,
        attention_mask=mask,
        prefix_allowed_tokens_fn=choose,
        num_beams=20,
        num_return_sequences=20,
        max_new_tokens=3,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    mine = (trie.classes[beam.sid] + torch.as_tensor(1 + layout.offsets[:-1])).view(64 * 20, 3)
    torch.testing.assert_close(beam.score.view(-1), found.sequences_scores, atol=1e-4, rtol=1e-5)
    assert torch.equal(mine, found.sequences[:, 1:])


def test_exhaustive_scoring_equals_the_beam_of_all_sids_and_probabilities_sum_to_less_than_one() -> None:
    codes = catalogue(200, [7, 6, 6]).codes.copy()
    codes[::7, 2] = PAD
    sids = SemanticIds(codes, np.array([7, 6, 6], np.int32), ordered=True)
    layout, trie = CodeLayout.of(sids), SidTrie.of(sids, RUNTIME)
    ours = network(T5Shape(1 + int(layout.offsets[-1]), 32, 3, 8, 48, 1, 2))
    tokens, length, _ = inputs(ours.shape, 3, 9)
    beam = beam_search(session(ours, layout, tokens, length), trie, trie.n_sids)
    targets = trie.classes + torch.as_tensor(1 + layout.offsets[:-1])
    for user in range(3):
        rows = targets.shape[0]
        with torch.no_grad():
            hidden = ours.hidden(tokens[user].expand(rows, -1), length[user].expand(rows), targets)
            logits = torch.log_softmax(hidden @ ours.shared.T, -1)
            score = logits.gather(2, targets[..., None]).sum((1, 2))
        assert torch.equal(torch.sort(beam.sid[user]).values, torch.arange(rows))
        torch.testing.assert_close(beam.score[user], score[beam.sid[user]], atol=2e-5, rtol=1e-5)
        assert bool((beam.score[user].diff() <= 0).all())
        assert 0 < float(score.double().exp().sum()) < 1


def test_the_loss_is_the_unconstrained_log_probability_of_the_sid_that_the_beam_reports() -> None:
    sids = catalogue(40, [5, 4, 4])
    layout, trie = CodeLayout.of(sids), SidTrie.of(sids, RUNTIME)
    ours = network(T5Shape(1 + int(layout.offsets[-1]), 32, 3, 8, 48, 1, 1))
    tokens, length, _ = inputs(ours.shape, 1, 6)
    scores = {}
    for constrained in (True, False):
        width = 40 if constrained else 5 * 4 * 4
        beam = beam_search(session(ours, layout, tokens, length), trie, width, constrained)
        scores[constrained] = {int(s): float(v) for s, v in zip(beam.sid[0], beam.score[0], strict=True) if s >= 0}
    assert set(scores[True]) == set(scores[False]) == set(range(40))
    for sid, score in scores[True].items():
        target = (trie.classes[sid] + torch.as_tensor(1 + layout.offsets[:-1]))[None]
        with torch.no_grad():
            loss = 3 * float(ours.loss(tokens, length, target))
        assert score == pytest.approx(scores[False][sid], abs=1e-5) == pytest.approx(-loss, abs=1e-4)


# -- the recommender -------------------------------------------------------------------------------------------------
N, KEEP = 30, 0.8
# Of T5's attention to the encoder's output only the encoder can make order visible, which takes longer to learn than a
# test may last; with a window of one item the chain is learnt in seconds.
SMALL: dict[str, Any] = {
    **Tiger.budgets["smoke"],
    "epochs": 5,
    "learning_rate": 1e-2,
    "batch_size": 32,
    "dropout": 0.0,
    "max_length": 1,
}


def chain_sids() -> SemanticIds:
    index = np.arange(N)
    codes = np.stack([index % 6, index // 6, np.where(index % 4, 0, PAD)], axis=1).astype(np.int32)
    return SemanticIds(codes, np.array([6, 5, 1], np.int32), False)


@pytest.fixture(scope="module")
def planted() -> tuple[Tiger, RetrievalData]:
    data = make_chain(350, N, KEEP)
    return Tiger(TigerConfig(**SMALL)).fit(data, chain_sids(), Rng(0), RUNTIME), data


def test_finds_the_planted_chain_through_sids_with_pad(planted: tuple[Tiger, RetrievalData]) -> None:
    model, data = planted
    ranks = model.rank_targets(data.test_history, data.test_target, chain_sids(), RUNTIME)
    recall = float(np.mean((ranks.better == 0) / ranks.tied))
    popularity = np.bincount(data.train.items, minlength=N)
    baseline = float(np.mean(data.test_target == popularity.argmax()))
    oracle = KEEP + (1 - KEEP) / N
    assert recall > baseline + 0.5
    assert recall < oracle + 3 * (oracle * (1 - oracle) / len(data.test_target)) ** 0.5
    notes = model.diagnostics()
    assert 0 <= notes["invalid_rate_unconstrained"] < 0.6
    assert notes["examples_per_second"] > 0 and notes["ms_per_user"] > 0 and notes["epochs"] == 5


def test_a_narrow_beam_reaches_a_stated_depth_and_agrees_with_the_full_one_above_it(
    planted: tuple[Tiger, RetrievalData],
) -> None:
    model, data = planted
    full = model.rank_targets(data.test_history, data.test_target, chain_sids(), RUNTIME)
    narrow = Tiger(TigerConfig(**{**SMALL, "beam": 4, "cover": 3}))
    narrow.load_state_dict(model.state_dict())
    ranks = narrow.rank_targets(data.test_history, data.test_target, chain_sids(), RUNTIME)
    assert narrow.diagnostics()["beam_width"] == 4
    assert (full.depth == N).all() and (ranks.depth >= 3).all() and (ranks.depth < N).any()
    first = full.better == 0
    assert np.mean(ranks.better[first] == 0) > 0.97  # a beam may lose a best item, seldom


def test_conformance() -> None:
    check_recommender(Tiger)


def test_histories_beyond_the_window_are_counted(planted: tuple[Tiger, RetrievalData]) -> None:
    model, _ = planted
    model.rank_targets(as_sequences([[3, 2], [1]]), np.array([2, 3], np.int32), chain_sids(), RUNTIME)
    assert model.diagnostics()["truncated_histories"] == 1.0


def test_rank_intervals_do_not_depend_on_the_company_of_a_row(planted: tuple[Tiger, RetrievalData]) -> None:
    model, data = planted
    together = model.rank_targets(data.test_history, data.test_target, chain_sids(), RUNTIME)
    few = take_sequences(data.test_history, np.arange(2))
    alone = model.rank_targets(few, data.test_target[:2], chain_sids(), RUNTIME)
    np.testing.assert_allclose(alone.score, together.score[:2], atol=1e-4)


def test_other_sids_than_at_fit_are_refused(planted: tuple[Tiger, RetrievalData]) -> None:
    other = SemanticIds(
        np.stack([np.arange(N) % 6, np.arange(N) // 6], 1).astype(np.int32), np.array([6, 5], np.int32), False
    )
    with pytest.raises(InputError, match="sizes"):
        planted[0].rank_targets(as_sequences([[0]]), np.array([1], np.int32), other, RUNTIME)


def test_a_state_of_another_config_is_refused(planted: tuple[Tiger, RetrievalData]) -> None:
    with pytest.raises(InputError, match="same config|wanted"):
        Tiger(TigerConfig(**{**SMALL, "hidden": 32})).load_state_dict(planted[0].state_dict())
