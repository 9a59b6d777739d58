"""ActionPiece: weights by hand and by recount, the semantics of merges, and that every encoding can be decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.actionpiece import ActionPiece, ActionPieceConfig
from sidbench.tokenizers.base import SemanticIds, TokenSequences
from sidbench.tokenizers.blocks.actionpiece.construct import Construction
from sidbench.tokenizers.blocks.actionpiece.corpus import EMPTY, StateList, find_pair
from sidbench.tokenizers.blocks.actionpiece.encode import permute_and_merge
from sidbench.tokenizers.blocks.actionpiece.vocabulary import Vocabulary, build_vocabulary
from sidbench.tokenizers.blocks.actionpiece.weights import MASK, SHIFT, Factors, add_weights, pair_key

RUNTIME = local_runtime(threads=1)
SIZES = np.array([3, 3, 2], np.int32)


def layout(states: list[list[int]], slots: list[int]) -> StateList:
    sequence = StateList(states)
    sequence.slots = list(slots)
    return sequence


@st.composite
def corpora(draw: st.DrawFn) -> list[np.ndarray]:
    """Users' feature tokens: few codes, so that pairs repeat inside, across and over more than two events."""
    users = draw(st.lists(st.lists(st.tuples(*(st.integers(0, int(k) - 1) for k in SIZES)), max_size=9), max_size=6))
    offsets = np.array([0, 3, 6])
    return [np.array(user, np.int64).reshape(-1, 3) + offsets for user in users]


# -- weights -----------------------------------------------------------------------------------------------------------
def count_weights(sequences: Iterable[StateList], factors: Factors) -> dict[int, int]:
    """Weights of all pairs of a corpus, counted from nothing."""
    total: dict[int, int] = {}
    for sequence in sequences:
        if sequence.states:
            add_weights(sequence, 0, len(sequence.states) - 1, factors, 1, total)
    return total


def weights(sequence: StateList, most: int = 5) -> dict[tuple[int, int], float]:
    factors = Factors(most)
    return {(k >> SHIFT, k & MASK): x / factors.denominator for k, x in count_weights([sequence], factors).items()}


def test_weights_of_two_events_by_hand() -> None:
    found = weights(StateList([[1, 2, 3], [1, 4]]))
    inside = {(1, 2): 2 / 3, (1, 3): 2 / 3, (2, 3): 2 / 3, (1, 4): 1.0}
    across = {(1, 1): 1 / 6, (1, 4): 1 / 6, (1, 2): 1 / 6, (2, 4): 1 / 6, (1, 3): 1 / 6, (3, 4): 1 / 6}
    assert found == pytest.approx(dict(Counter(inside) + Counter(across)))


def test_weights_around_a_filled_slot_by_hand() -> None:
    found = weights(layout([[1, 2, 3], [4, 5]], [9]))
    assert found == pytest.approx(
        {
            (1, 2): 2 / 3,
            (1, 3): 2 / 3,
            (2, 3): 2 / 3,
            (4, 5): 1.0,
            (1, 9): 1 / 3,
            (2, 9): 1 / 3,
            (3, 9): 1 / 3,
            (4, 9): 1 / 2,
            (5, 9): 1 / 2,
        }
    )


def test_an_empty_state_has_no_neighbours() -> None:
    assert weights(layout([[1], [], [2, 3]], [EMPTY, 9])) == {(2, 3): 1.0, (2, 9): 0.5, (3, 9): 0.5}


@pytest.mark.parametrize("m", range(1, 9))
def test_a_state_of_m_tokens_weighs_m_minus_one(m: int) -> None:
    factors = Factors(8)
    assert sum(count_weights([StateList([list(range(m))])], factors).values()) == (m - 1) * factors.denominator


def test_weights_are_the_chance_to_be_neighbours_in_random_order() -> None:
    first, second = [0, 1, 2], [3, 4]
    met: Counter[tuple[int, int]] = Counter()
    orders = [(*a, *b) for a in permutations(first) for b in permutations(second)]
    for order in orders:
        met.update((min(p), max(p)) for p in zip(order[:-1], order[1:], strict=True))
    assert weights(StateList([first, second])) == pytest.approx({p: n / len(orders) for p, n in met.items()})


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_incremental_weights_equal_a_recount_after_every_merge(corpus: list[np.ndarray]) -> None:
    sequences, factors = [StateList(user.tolist()) for user in corpus], Factors(3)
    construction = Construction(sequences, 8, factors)
    rules, before = set(), count_weights(sequences, factors)
    for u, v, weight in construction:
        assert weight == max(before.values()) and pair_key(u, v) == min(k for k, x in before.items() if x == weight)
        assert (u, v) not in rules
        rules.add((u, v))
        before = count_weights(sequences, factors)
        assert construction.queue.weights == before
        assert all(find_pair(sequence, u, v, 0) is None for sequence in sequences)
    assert not before


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_states_and_slots_stay_well_formed(corpus: list[np.ndarray]) -> None:
    sequences = [StateList(user.tolist()) for user in corpus]
    vocabulary, _ = build_vocabulary(corpus, SIZES, 10_000)
    for _ in Construction(sequences, 8, Factors(3)):
        for sequence, user in zip(sequences, corpus, strict=True):
            assert len(sequence.slots) == max(len(sequence.states) - 1, 0)
            for i, state in enumerate(sequence.states):
                assert len(set(state)) == len(state)
                assert state or sequence.slots[i] != EMPTY  # an empty state has a token behind it
                assert state or i == 0 or (sequence.slots[i - 1] == EMPTY and sequence.states[i - 1])
            tokens = np.array([t for t, _ in sequence.tokens()], np.int64)
            _, position, code = vocabulary.expand(tokens)
            assert Counter((vocabulary.offsets[position] + code).tolist()) == Counter(user.reshape(-1).tolist())


# -- merges, state by state ----------------------------------------------------------------------------------------------
def merge(sequence: StateList, u: int, v: int, w: int) -> tuple[list[list[int]], list[int]]:
    """One scan, through the code of the construction."""
    construction = Construction([], 0, Factors(5))
    construction._merge_in(sequence, u, v, w, {})
    return sequence.states, sequence.slots


def test_a_pair_in_one_state_becomes_its_first_token() -> None:
    assert merge(StateList([[1, 2, 3], [4]]), 1, 3, 9) == ([[9, 2], [4]], [EMPTY])


def test_a_pair_across_two_states_fills_the_slot() -> None:
    assert merge(StateList([[1, 2], [3, 4]]), 2, 3, 9) == ([[1], [4]], [9])
    assert merge(StateList([[3, 4], [1, 2]]), 2, 3, 9) == ([[4], [1]], [9])  # pairs are unordered
    assert merge(StateList([[1, 2], [1, 4]]), 1, 1, 9) == ([[2], [4]], [9])


def test_two_states_around_a_filled_slot_are_no_neighbours() -> None:
    assert merge(layout([[1, 2], [3, 4]], [8]), 2, 3, 9) == ([[1, 2], [3, 4]], [8])


@pytest.mark.parametrize(("pair", "states"), [((1, 8), [[2], [3, 4]]), ((3, 8), [[1, 2], [4]])])
def test_a_state_gives_its_token_to_the_filled_slot(pair: tuple[int, int], states: list[list[int]]) -> None:
    assert merge(layout([[1, 2], [3, 4]], [8]), *pair, 9) == (states, [9])


def test_an_emptied_state_takes_over_the_slot_before_it() -> None:
    assert merge(layout([[1, 2], [3], [4, 5]], [8, EMPTY]), 3, 8, 9) == ([[1, 2], [9], [4, 5]], [EMPTY, EMPTY])
    assert merge(layout([[1, 2], [3], [4, 5]], [8, EMPTY]), 3, 4, 9) == ([[1, 2], [8], [5]], [EMPTY, 9])


def test_a_state_emptied_to_the_right_stays_until_the_next_is_emptied() -> None:
    sequence = StateList([[1], [2], [3, 4], [5]])
    assert merge(sequence, 2, 3, 9) == ([[1], [], [4], [5]], [EMPTY, 9, EMPTY])
    assert merge(sequence, 4, 9, 10) == ([[1], [10], [5]], [EMPTY, EMPTY])  # and is deleted with its slot


def test_both_states_emptied_leave_one() -> None:
    assert merge(StateList([[1], [2], [3]]), 1, 2, 9) == ([[9], [3]], [EMPTY])
    assert merge(StateList([[0], [1], [2], [3]]), 1, 2, 9) == ([[0], [9], [3]], [EMPTY, EMPTY])


def test_neighbours_made_by_a_deletion_merge_too() -> None:
    # state 1 is empty; (6, 7) empties state 2 to the right, which takes over 5: now 4 and 5 are neighbours
    sequence = layout([[4], [], [6], [7, 8]], [EMPTY, 5, EMPTY])
    assert merge(sequence, 6, 7, 9) == ([[4], [5], [8]], [EMPTY, 9])


def test_one_scan_takes_each_feature_once_from_left_to_right() -> None:
    assert merge(StateList([[1], [1], [1]]), 1, 1, 9) == ([[9], [1]], [EMPTY])


def test_the_heaviest_pair_of_a_corpus_known_by_hand() -> None:
    # (0, 3) shares a state of two tokens twice: 2 x 1, plus 1/4 across events in the first user
    users = [np.array([[0, 3], [0, 4]]), np.array([[0, 3]]), np.array([[1, 4]])]
    vocabulary, left = build_vocabulary(users, np.array([3, 2], np.int32), 6)
    assert vocabulary.rules.tolist() == [[0, 3]] and len(vocabulary) == 6
    assert vocabulary.priorities.tolist() == [int(2.25 * Factors(2).denominator)]
    assert left == 8 - 2


# -- encoding and decoding ---------------------------------------------------------------------------------------------
def tokenizer_of(vocabulary: Vocabulary) -> ActionPiece:
    made = ActionPiece(ActionPieceConfig(code_length=3))
    made.vocabulary_ = vocabulary
    return made


def catalogue() -> SemanticIds:
    codes = np.array([(a, b, c) for a in range(3) for b in range(3) for c in range(2)], np.int32)
    return SemanticIds(codes, SIZES, ordered=False)


@settings(max_examples=50, deadline=None)
@given(corpora(), st.sampled_from(ActionPiece.modes), st.integers(0, 5))
def test_every_item_is_decoded_from_its_tokens(corpus: list[np.ndarray], mode: str, seed: int) -> None:
    tokenizer, sids = tokenizer_of(build_vocabulary(corpus, SIZES, 40)[0]), catalogue()
    alone = Sequences(np.arange(19), np.arange(18, dtype=np.int32))
    tokens = tokenizer.encode_sequences(alone, sids, Rng(seed), mode)
    assert tokenizer.decode_items(tokens, sids).tolist() == list(range(18))


@settings(max_examples=50, deadline=None)
@given(corpora(), st.sampled_from(ActionPiece.modes))
def test_a_history_keeps_all_its_features_in_the_events_they_belong_to(corpus: list[np.ndarray], mode: str) -> None:
    tokenizer, sids = tokenizer_of(build_vocabulary(corpus, SIZES, 60)[0]), catalogue()
    items = [user @ np.array([6, 2, 1]) - np.array([0, 3, 6]) @ np.array([6, 2, 1]) for user in corpus]
    sequences = Sequences(
        np.concatenate([[0], np.cumsum([len(i) for i in items])]).astype(np.int64),
        np.concatenate([*items, np.zeros(0)]).astype(np.int32),
    )
    found = tokenizer.encode_sequences(sequences, sids, Rng(0), mode)
    for number, (user, row) in enumerate(zip(corpus, items, strict=True)):
        assert (sids.codes[row] + np.array([0, 3, 6]) == user).all()
        begin, end = found.indptr[number : number + 2]
        indptr, position, code = tokenizer.expand_tokens(found.of(number))
        assert Counter(zip(position.tolist(), code.tolist(), strict=True)) == Counter(
            (p, int(c)) for i in row for p, c in enumerate(sids.codes[i])
        )
        first, last = found.first_event[begin:end], found.last_event[begin:end]
        assert (np.diff(last) >= 0).all() and (first <= last).all()
        for t in range(end - begin):  # each feature occurs in some event of the token's span
            for p, c in zip(position[indptr[t] : indptr[t + 1]], code[indptr[t] : indptr[t + 1]], strict=True):
                assert c in sids.codes[row[first[t] : last[t] + 1], p]


@settings(max_examples=60, deadline=None)
@given(corpora(), st.integers(0, 3))
def test_permuted_merges_equal_the_rules_applied_one_after_another(corpus: list[np.ndarray], seed: int) -> None:
    vocabulary = build_vocabulary(corpus, SIZES, 60)[0]
    for user in corpus:
        shuffled = np.random.default_rng(seed).permuted(user, axis=1)
        plain = shuffled.reshape(-1).tolist()
        for r, rule in enumerate(vocabulary.rules.tolist()):
            i = 0
            while i + 1 < len(plain):
                if sorted(plain[i : i + 2]) == rule:
                    plain[i : i + 2] = [8 + r]
                i += 1
        assert [t for t, _, _ in permute_and_merge(shuffled, vocabulary)] == plain


def test_greedy_merging_weighs_priority_by_position() -> None:
    # (0, 6) has priority 30, (0, 3) has 20; inside a state of three both count 2/3, across two states of three 1/9
    rules, priorities = np.array([[0, 3], [0, 6]], np.int32), np.array([20, 30], np.int64)
    tokenizer, sids = tokenizer_of(Vocabulary(SIZES, rules, priorities)), catalogue()

    def tokens(*items: int) -> list[int]:
        one = Sequences(np.array([0, len(items)]), np.array(items, np.int32))
        return tokenizer.encode_sequences(one, sids, None, "none").tokens.tolist()

    assert tokens(0) == [9, 3]  # features 0, 3, 6
    assert tokens(1) == [8, 7]  # 0, 3, 7
    assert tokens(1, 14) == [8, 7, 2, 4, 6]  # 20 x 2/3 within the first event beats 30 x 1/9 with the 6 of the second


def test_greedy_merging_is_repeatable_and_random_modes_need_a_source() -> None:
    tokenizer, sids = tokenizer_of(build_vocabulary([np.array([[0, 3, 6]])], SIZES, 9)[0]), catalogue()
    one = Sequences(np.array([0, 2]), np.array([0, 17], np.int32))
    first, second = (tokenizer.encode_sequences(one, sids, None, "none").tokens for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for mode in ("feature", "token"):
        with pytest.raises(InputError, match="no rng"):
            tokenizer.encode_sequences(one, sids, None, mode)
    with pytest.raises(InputError, match="'words'"):
        tokenizer.encode_sequences(one, sids, None, "words")
    with pytest.raises(InputError, match="wanted 0..17"):
        tokenizer.encode_sequences(Sequences(np.array([0, 1]), np.array([18], np.int32)), sids, None, "none")


@pytest.mark.parametrize("features", [[0, 3], [0, 3, 6, 7], [0, 1, 6], [0, 3, 3]])
def test_tokens_that_spell_no_item_decode_to_none(features: list[int]) -> None:
    tokenizer, sids = tokenizer_of(build_vocabulary([], SIZES, 9)[0]), catalogue()
    nowhere = np.zeros(len(features), np.int32)
    wrong = TokenSequences(np.array(features, np.int32), np.array([0, len(features)]), nowhere, nowhere)
    assert tokenizer.decode_items(wrong, sids).tolist() == [-1]
    with pytest.raises(InputError, match="wanted 0..7"):
        tokenizer.expand_tokens(np.array([8]))


# -- the tokenizer -----------------------------------------------------------------------------------------------------
SMALL: dict[str, Any] = {"codebook_size": 8, "vocabulary_size": 400, "opq_budget": "smoke"}


@pytest.fixture(scope="module")
def fitted() -> ActionPiece:
    return ActionPiece(ActionPieceConfig(**SMALL)).fit(planted_features(), Rng(0), RUNTIME)


def test_features_tell_all_items_apart(fitted: ActionPiece) -> None:
    sids = fitted.encode(planted_features(), RUNTIME)
    assert len(sids.distinct()[0]) == 240 > len(np.unique(sids.codes[:, :-1], axis=0))
    assert sids.position_names == ("opq 1", "opq 2", "opq 3", "opq 4", "hash")


def test_later_items_leave_the_slots_of_earlier_ones_and_get_their_own(fitted: ActionPiece) -> None:
    features = planted_features()
    some = fitted.encode(features.take(np.arange(150)), RUNTIME)
    np.testing.assert_array_equal(some.codes, fitted.encode(features, RUNTIME).codes[:150])


def test_hash_slots_of_a_group_are_drawn_without_replacement(fitted: ActionPiece) -> None:
    groups = np.repeat(np.arange(40), 128)[:, None].repeat(4, axis=1)
    slots = fitted._hash_slots(groups).reshape(40, 128)
    assert (np.sort(slots, axis=1) == np.arange(128)).all()
    assert len(np.unique(slots, axis=0)) == 40  # each group has its own permutation
    with pytest.raises(InputError, match="129 items with equal OPQ codes"):
        fitted._hash_slots(np.zeros((129, 4), np.int32))


def test_diagnostics_tell_the_compression(fitted: ActionPiece) -> None:
    found = fitted.diagnostics()
    assert found["share_decoded"] == 1 and found["vocabulary_size"] == 400 == len(fitted.vocabulary_)
    assert found["merges"] == 400 - 4 * 8 - 128
    assert 0 < found["tokens_per_event"] < found["features_per_event"] == 5
    assert found["tokens_per_item_alone"] < 5


def test_tokens_span_events_that_follow_each_other(fitted: ActionPiece) -> None:
    """Two items that always stand side by side become tokens across both, in this order or the other."""
    features = planted_features()
    sids = fitted.encode(features, RUNTIME)
    pair = Sequences(np.arange(0, 202, 2), np.tile([30, 200], 100).astype(np.int32))
    alone = Sequences(np.arange(101), np.arange(40, 140, dtype=np.int32))
    both = Sequences(
        np.concatenate([pair.indptr, pair.indptr[-1] + alone.indptr[1:]]), np.concatenate([pair.items, alone.items])
    )
    again = ActionPiece(ActionPieceConfig(**{**SMALL, "vocabulary_size": 170})).fit(
        replace(features, sequences=both), Rng(0), RUNTIME
    )
    tokens = again.encode_sequences(Sequences(np.array([0, 2]), pair.items[:2]), sids, None, "none")
    assert len(tokens.tokens) == 1 and (tokens.first_event[0], tokens.last_event[0]) == (0, 1)
    assert again.decode_items(tokens, sids).tolist() == [-1]  # two items at once are none


def test_a_vocabulary_smaller_than_the_features_is_refused() -> None:
    with pytest.raises(InputError, match="at least 160, the number of features"):
        ActionPiece(ActionPieceConfig(codebook_size=8, vocabulary_size=100)).fit(planted_features(), Rng(0), RUNTIME)


@pytest.mark.parametrize("damage", ["later token", "repeated rule", "fewer priorities", "too many"])
def test_damaged_rules_are_refused(fitted: ActionPiece, damage: str) -> None:
    state = {name: array.copy() for name, array in fitted.state_dict().items()}
    if damage == "later token":
        state["rules"][0, 1] = 399
    elif damage == "repeated rule":
        state["rules"][1] = state["rules"][0]
    elif damage == "fewer priorities":
        state["priorities"] = state["priorities"][1:]
    config = {**SMALL, "vocabulary_size": 399} if damage == "too many" else SMALL
    with pytest.raises(InputError, match="actionpiece state entry rules"):
        ActionPiece(ActionPieceConfig(**config)).load_state_dict(state)
