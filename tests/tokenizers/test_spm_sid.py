"""SPM-SID: pieces spell the base SID, popular SIDs get few of them, and the trainer agrees with SentencePiece."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.testing.tokenizers import check_tokenizer, planted_features
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.text.unigram_pieces import Pieces, train_pieces
from sidbench.tokenizers.blocks.wrapping.bases import bases, make_base
from sidbench.tokenizers.spm_sid import SpmSid, SpmSidConfig

RUNTIME = local_runtime(threads=1)
SMALL: dict[str, Any] = {"code_length": 4, "codebook_size": 8, "base_budget": "smoke", "vocabulary_size": 60}


def sizes(length: int, k: int) -> np.ndarray:
    return np.full(length, k, np.int32)


def traffic(n: int = 800, length: int = 4, k: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Strings with planted prefixes, and heavy-tailed weights."""
    draw = np.random.default_rng(seed)
    stems = draw.integers(k, size=(30, length))
    codes = stems[draw.integers(30, size=n)]
    changed = draw.random(codes.shape) < 0.3
    codes = np.where(changed, draw.integers(k, size=codes.shape), codes).astype(np.int32)
    return codes, np.ceil(20 * draw.pareto(1.2, n) + 1)


@st.composite
def strings(draw: st.DrawFn) -> np.ndarray:
    length, k = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.integers(-1, k - 1), min_size=length, max_size=length), min_size=1, max_size=40))
    codes = np.array(rows, np.int32)
    codes[(codes == PAD).all(axis=1), 0] = 0
    return codes


@settings(max_examples=30, deadline=None)
@given(strings(), strings(), st.integers(0, 30))
def test_pieces_spell_every_string_seen_or_not(codes: np.ndarray, others: np.ndarray, extra: int) -> None:
    k = sizes(codes.shape[1], 4)
    pieces = train_pieces(codes, np.arange(1.0, len(codes) + 1), k, int(k.sum()) + extra)
    assert len(pieces) <= k.sum() + extra
    other = np.full((len(others), codes.shape[1]), 2, np.int32)
    other[:, : others.shape[1]] = others[:, : codes.shape[1]]
    other[(other == PAD).all(axis=1), 0] = 1
    for given_codes in (codes, other):
        encoded = pieces.encode(given_codes)
        np.testing.assert_array_equal(pieces.decode(encoded), given_codes)
        used = encoded != PAD
        assert (used[:, :-1] >= used[:, 1:]).all() and used[:, 0].all()


def test_a_string_used_often_is_one_piece() -> None:
    codes = np.array([[0, 1, 2], [0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 1, 0]], np.int32)
    pieces = train_pieces(codes, np.array([100.0, 1, 1, 1, 1]), sizes(3, 3), 10)
    assert pieces.piece(9) == (0, (0, 1, 2))
    assert (pieces.encode(codes) != PAD).sum(axis=1).tolist() == [1, 3, 3, 3, 3]


def test_pieces_are_numbered_by_position_and_code() -> None:
    codes, weights = traffic()
    pieces = train_pieces(codes, weights, sizes(4, 12), 100)
    assert [pieces.piece(n) for n in (0, 11, 12, 47)] == [(0, (0,)), (0, (11,)), (1, (0,)), (3, (11,))]
    assert len(pieces) == 100 and len({pieces.piece(n) for n in range(100)}) == 100


def test_the_best_segmentation_is_found() -> None:
    codes, weights = traffic(60, k=4)
    pieces = train_pieces(codes, weights, sizes(4, 4), 40)
    score = {pieces.piece(n): s for n, s in enumerate(pieces.scores.tolist())}
    for string, encoded in zip(codes.tolist(), pieces.encode(codes), strict=True):
        every = []
        for cuts in range(8):
            ends = [i + 1 for i in range(3) if cuts >> i & 1] + [4]
            runs = list(zip([0, *ends[:-1]], ends, strict=True))
            every.append(sum(score.get((a, tuple(string[a:b])), -np.inf) for a, b in runs))
        assert sum(pieces.scores[n] for n in encoded if n != PAD) == pytest.approx(max(every))


def test_a_vocabulary_without_room_for_the_codes_is_refused() -> None:
    with pytest.raises(InputError, match="at least 48, a piece for every code"):
        train_pieces(*traffic(), sizes(4, 12), 47)


def test_parity_with_sentencepiece_trained_on_the_same_seeds(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    codes, weights = traffic(1500)
    text = ["".join(chr(0xE000 + 12 * p + c) for p, c in enumerate(row)) for row in codes.tolist()]
    seeds: Counter[str] = Counter()
    for string, weight in zip(text, weights.tolist(), strict=True):
        seeds.update({string[a:b]: int(weight) for a in range(4) for b in range(a + 1, 5)})
    file = tmp_path / "seeds.tsv"
    file.write_text("".join(f"{piece}\t{n}\n" for piece, n in seeds.most_common()), encoding="utf-8")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=(f"{s}\t{int(w)}" for s, w in zip(text, weights, strict=True)),
        input_format="tsv",
        model_writer=model,
        vocab_size=301,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        seed_sentencepieces_file=str(file),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_number=False,
        split_by_whitespace=False,
        max_sentencepiece_length=4,
        shuffle_input_sentence=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    processor = library.SentencePieceProcessor(model_proto=model.getvalue())
    theirs = np.array([len(row) for row in processor.encode(text, out_type=int)])
    pieces = train_pieces(codes, weights, sizes(4, 12), 300)
    ours = (pieces.encode(codes) != PAD).sum(axis=1)
    assert len(pieces) == 300 and processor.get_piece_size() == 301  # theirs holds <unk>
    assert np.average(ours, weights=weights) <= 1.03 * np.average(theirs, weights=weights)
    assert np.average(ours == theirs, weights=weights) > 0.8


# -- the tokenizer -----------------------------------------------------------------------------------------------------
def fit(features: Any = None, **config: Any) -> tuple[SpmSid, np.ndarray, np.ndarray]:
    """A fitted tokenizer, the codes of its base and its own."""
    features = planted_features() if features is None else features
    tokenizer = SpmSid(SpmSidConfig(**{**SMALL, **config})).fit(features, Rng(0).child("tokenizer", "spm_sid"), RUNTIME)
    return tokenizer, tokenizer.base_.encode(features, RUNTIME).codes, tokenizer.encode(features, RUNTIME).codes


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"base": "opq"},
        {"scheme": "ngram"},
        {"scheme": "ngram", "ngram": 3},
        {"base": "adasid", "code_length": 6, "vocabulary_size": 200},
    ],
)
def test_collisions_are_exactly_those_of_the_base(config: dict[str, Any]) -> None:
    _, base, own = fit(**config)
    groups = [np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1) for codes in (base, own)]
    pairs = {*zip(*(g.tolist() for g in groups), strict=True)}
    assert len(pairs) == groups[0].max() + 1 == groups[1].max() + 1


def test_pieces_of_the_tokenizer_spell_the_codes_of_the_base() -> None:
    tokenizer, base, own = fit()
    np.testing.assert_array_equal(tokenizer.pieces_.decode(own), base)
    found = tokenizer.diagnostics()
    assert found["codes_per_item"] == 4 > found["pieces_per_item"] == (own != PAD).sum(axis=1).mean()
    assert found["vocabulary_size"] == len(tokenizer.pieces_) <= 60


def test_popular_items_get_fewer_pieces() -> None:
    features = planted_features(seed=3)
    counts = np.where(np.arange(240) % 10 == 0, 400, 1)  # popularity that has nothing to do with content
    _, base, own = fit(replace(features, train_counts=counts), codebook_size=16, vocabulary_size=100)
    lengths = (own != PAD).sum(axis=1)
    assert lengths[counts > 1].mean() < lengths[counts == 1].mean() - 0.3


def test_the_base_is_that_of_a_run_of_its_own() -> None:
    features = planted_features()
    config = SpmSidConfig(**SMALL)
    alone = make_base("rqkmeans", "smoke", config).fit(features, Rng(0).child("tokenizer", "rqkmeans"), RUNTIME)
    np.testing.assert_array_equal(alone.encode(features, RUNTIME).codes, fit(features)[1])


def test_n_grams_are_a_bijection_of_code_groups() -> None:
    tokenizer, base, own = fit(scheme="ngram", ngram=3)
    assert own.shape == (240, 2) and [t.shape[1] for t in tokenizer.tables_] == [3, 1]
    restored = np.concatenate([table[column] for table, column in zip(tokenizer.tables_, own.T, strict=True)], axis=1)
    np.testing.assert_array_equal(restored, base)
    single = fit(scheme="ngram", ngram=1)
    assert [len(t) for t in single[0].tables_] == [len(np.unique(column)) for column in single[1].T]


class Listening(LocalRuntime):
    def __init__(self) -> None:
        super().__init__("cpu", threads=1)
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)


def test_unknown_n_grams_share_the_last_code_and_are_told() -> None:
    features, runtime = planted_features(300, seed=2), Listening()
    tokenizer = SpmSid(SpmSidConfig(**SMALL, scheme="ngram", ngram=4)).fit(features.take(np.arange(60)), Rng(0), runtime)
    sids = tokenizer.encode(features, runtime).check(300)
    unknown = int((sids.codes == len(tokenizer.tables_[0])).sum())
    assert 0 < unknown < 300 and runtime.heard == [
        f"spm_sid: {unknown} n-grams of 300 items are not in the tables and share one code per position"
    ]


def test_n_grams_conform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpmSid, "expected_failures", {})  # each position has a table of its own: one code is no exception
    check_tokenizer(SpmSid, {"scheme": "ngram"})


@pytest.mark.parametrize("damage", ["scores", "codes", "starts", "config"])
def test_damaged_pieces_are_refused(damage: str) -> None:
    tokenizer, _, _ = fit()
    state = {name: array.copy() for name, array in tokenizer.state_dict().items()}
    if damage == "scores":
        state["scores"][0] = np.nan
    elif damage == "codes":
        state["codes"][0] = 8
    elif damage == "starts":
        state["starts"][0] = 3
    config = SpmSidConfig(**{**SMALL, "vocabulary_size": 40}) if damage == "config" else SpmSidConfig(**SMALL)
    with pytest.raises(InputError, match="spm_sid state"):
        SpmSid(config).load_state_dict(state)


def test_pieces_survive_saving() -> None:
    codes, weights = traffic()
    pieces = train_pieces(codes, weights, sizes(4, 12), 120)
    again = Pieces.from_state(pieces.state(), 4, "test")
    np.testing.assert_array_equal(again.encode(codes), pieces.encode(codes))


def test_n_gram_tables_of_another_group_size_are_refused() -> None:
    state = fit(scheme="ngram")[0].state_dict()
    with pytest.raises(InputError, match="groups of 3 codes"):
        SpmSid(SpmSidConfig(**SMALL, scheme="ngram", ngram=3)).load_state_dict(state)


def test_bases_are_the_tokenizers_that_stand_alone() -> None:
    found = bases()
    assert {"rqkmeans": "RqKMeans", "opq": "Opq", "adasid": "AdaSid"}.items() <= dict(found).items()
    assert not {"shuffled", "spm_sid", "actionpiece", "imported", "base"} & set(found)
    with pytest.raises(InputError, match="did you mean 'rqkmeans'"):
        make_base("rqkmean", "smoke", SpmSidConfig())
    with pytest.raises(InputError, match="SpmSidConfig.base"):
        SpmSidConfig(base="os")
