"""Text IDs: unique whatever the texts, words that mean something, and every item without words accounted for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.text.phrase_generator import PhraseGenerator
from sidbench.tokenizers.text_id import TextId, TextIdConfig, _words

RUNTIME = local_runtime(threads=1)
TOPICS = ("soap", "lipstick", "shampoo", "perfume")


def with_texts(texts: list[str]) -> ItemFeatures:
    features = planted_features(len(texts))
    return replace(features, item_text=tuple(texts), train_counts=np.ones(len(texts), np.int64))


def shop(n: int = 200, seed: int = 0) -> ItemFeatures:
    """Items of four topics; one of 12 brands, one of 30 scents and a serial word of its own each."""
    draw = np.random.default_rng(seed)
    return with_texts(
        [
            f"title: {TOPICS[i % 4]} scent{draw.integers(30):02d}x serial{i}x. brand: brand{draw.integers(12)}x. "
            f"categories: Beauty > {TOPICS[i % 4]}."
            for i in range(n)
        ]
    )


def fit(features: ItemFeatures, **config: int) -> TextId:
    return TextId(TextIdConfig(**config)).fit(features, Rng(0), RUNTIME)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["aa", "bb", "cc", "dd", "ee"]), max_size=6).map(" ".join), min_size=1, max_size=60),
    st.integers(1, 3),
    st.integers(1, 6),
)
def test_ids_are_unique_and_never_empty(texts: list[str], words: int, vocabulary: int) -> None:
    features = with_texts(texts)
    sids = fit(features, words=words, codebook_size=vocabulary, code_length=4).encode(features, RUNTIME)
    sids.check(len(texts))
    assert len(sids.distinct()[0]) == len(texts)
    assert (sids.codes != PAD).any(axis=1).all()
    used = sids.codes[:, :-1] != PAD
    assert (used[:, :-1] >= used[:, 1:]).all()  # words from the left, without gaps


def test_every_word_of_a_phrase_is_a_word_of_the_item() -> None:
    features = shop()
    tokenizer = fit(features)
    for phrase, text in zip(tokenizer.phrases(tokenizer.encode(features, RUNTIME)), features.item_text or (), strict=True):
        assert {w for w in phrase.split() if not w.isdigit()} <= set(_words(text))


def test_the_first_word_is_the_general_one() -> None:
    features = shop()
    tokenizer = fit(features)
    sids = tokenizer.encode(features, RUNTIME)
    first = np.array([phrase.split()[0] for phrase in tokenizer.phrases(sids)])
    assert (first == np.array(TOPICS)[np.arange(200) % 4]).mean() > 0.95
    same = first[:, None] == first[None, :]
    topic = np.arange(200)[:, None] % 4 == np.arange(200)[None, :] % 4
    assert same[topic].mean() > 10 * same[~topic].mean()


def test_frequent_words_come_first_and_rare_ones_fill_up() -> None:
    texts = ["alpha beta gamma"] * 3 + ["alpha beta"] * 3 + ["alpha"] * 3 + ["delta"] * 9
    tokenizer = fit(with_texts(texts), words=2, code_length=4)
    assert tokenizer.words_ == ("alpha", "delta", "beta", "gamma")  # 9, 9, 6 and 3 of 18 texts
    assert tokenizer.frequencies_.tolist() == [9, 9, 6, 3]
    phrases = tokenizer.phrases(tokenizer.encode(with_texts(texts), RUNTIME))
    # log 18 = 2.89 nats; alpha gives 0.69, beta 1.10, gamma 1.79: the last two are nearest to 1.45 and 2.89
    assert phrases[:9] == [
        "beta gamma",
        "beta gamma alpha",
        "beta gamma alpha 0",
        "alpha beta",
        "alpha beta 0",
        "alpha beta 1",
        "alpha",
        "alpha 0",
        "alpha 1",
    ]
    assert phrases[9:12] == ["delta", "delta 0", "delta 1"]


def test_words_that_say_nothing_are_left_out() -> None:
    words = set(fit(shop()).words_)
    assert not words & {"title", "brand", "categories", "beauty"}  # in more than half of the texts
    assert not any(w.startswith("serial") for w in words)  # used once
    assert not set(fit(with_texts(["the soap and a 12", "the comb of 3"] * 40)).words_) & {"the", "and", "of", "12", "3"}


def test_a_small_vocabulary_keeps_the_words_of_most_information() -> None:
    assert set(fit(shop(), codebook_size=4).words_) == set(TOPICS)


def test_ids_do_not_depend_on_the_seed_and_earlier_items_not_on_later_ones() -> None:
    features = shop()
    first, second = (TextId(TextIdConfig()).fit(features, Rng(s), RUNTIME).encode(features, RUNTIME) for s in (0, 1))
    np.testing.assert_array_equal(first.codes, second.codes)
    tokenizer = fit(features)
    np.testing.assert_array_equal(tokenizer.encode(features.take(np.arange(120)), RUNTIME).codes, first.codes[:120])


def test_unseen_items_get_words_of_the_vocabulary() -> None:
    tokenizer = fit(shop())
    new = with_texts(["soap scent03x of a brand unheard of", "perfume brand7x", "nothing known here"])
    assert tokenizer.phrases(tokenizer.encode(new, RUNTIME)) == ["soap scent03x", "perfume brand7x", "0"]


class Listening(LocalRuntime):
    def __init__(self) -> None:
        super().__init__("cpu", threads=1)
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)


def test_items_without_words_are_numbered_and_counted() -> None:
    features = shop(40)
    texts = list(features.item_text or ())
    texts[3], texts[7] = "", "12 9"
    features = replace(features, item_text=tuple(texts))
    runtime = Listening()
    tokenizer = TextId(TextIdConfig()).fit(features, Rng(0), runtime)
    sids = tokenizer.encode(features, runtime)
    assert [p for p in tokenizer.phrases(sids) if p.isdigit()] == ["0", "1"]
    found = tokenizer.diagnostics()
    assert found["items_without_words"] == 2 and found["items_without_text"] == 1
    assert found["share_with_number"] >= 2 / 40 and "2 have no word" in runtime.heard[0]


def test_text_declared_missing_is_not_read() -> None:
    features = shop(40)
    hidden = replace(features, available={**features.available, "text": np.arange(40) != 5})
    tokenizer = fit(hidden)
    assert tokenizer.phrases(tokenizer.encode(hidden, RUNTIME))[5] == "0"
    for gone in (replace(features, item_text=None), planted_features(40, modalities=("vision",))):
        with pytest.raises(InputError, match="text_id: item text"):
            fit(gone)
        with pytest.raises(InputError, match="text_id: item text"):
            tokenizer.encode(gone, RUNTIME)


def test_too_many_equal_texts_are_refused() -> None:
    with pytest.raises(InputError, match="5 items that need a number"):
        fit(with_texts(["soap"] * 6 + ["comb"] * 6), numbers=4)


def test_the_number_needs_a_position() -> None:
    with pytest.raises(InputError, match="fewer than the 3 positions"):
        TextId(TextIdConfig(words=3, code_length=3))


@pytest.mark.parametrize("damage", ["not utf-8", "a word twice", "more than texts", "larger vocabulary"])
def test_damaged_state_is_refused(damage: str) -> None:
    state = fit(shop()).state_dict()
    if damage == "not utf-8":
        state["words"] = np.full(4, 255, np.uint8)
    elif damage == "a word twice":
        state["words"] = np.frombuffer(b"soap\nsoap", np.uint8)
        state["frequencies"] = np.ones(2, np.int64)
    elif damage == "more than texts":
        state["frequencies"] = state["frequencies"] + 1000
    config = TextIdConfig(codebook_size=5) if damage == "larger vocabulary" else TextIdConfig()
    with pytest.raises(InputError, match="text_id state entry words"):
        TextId(config).load_state_dict(state)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small T5 trained to write scent and topic of an item, with one token a word, as a folder."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["<pad>", "</s>", "<unk>", *TOPICS, *(f"scent{i:02d}x" for i in range(30)), "title", "brand"]
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("model")
    reader = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=len(words), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0
            )
        )
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for step in range(120):  # learns to write scent and topic of an item
            texts = shop(32, seed=step).item_text or ()
            inputs = reader(list(texts), return_tensors="pt", padding=True)
            labels = reader([" ".join(t.split()[2:0:-1]) + " </s>" for t in texts], return_tensors="pt").input_ids
            optimiser.zero_grad()
            network(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels).loss.backward()
            optimiser.step()
    network.save_pretrained(folder)
    reader.save_pretrained(folder)
    return str(folder)


def test_a_generator_writes_the_phrases_and_uniqueness_holds(language_model: str) -> None:
    features = shop(60)
    config = TextIdConfig(generator=language_model, proposals=4)
    assert any(f.endswith(".safetensors") for f in config.content_files())
    tokenizer = TextId(config).fit(features, Rng(0), RUNTIME)
    sids = tokenizer.encode(features, RUNTIME)
    assert len(sids.distinct()[0]) == 60
    proposed = PhraseGenerator(language_model, 4, 128, 12, RUNTIME).phrases([*(features.item_text or ()), ""])
    assert proposed[-1] == [] and all(len(p) == 4 for p in proposed[:-1])
    scent_and_topic = [" ".join(t.split()[2:0:-1]) for t in features.item_text or ()]
    assert np.mean([p[0] == text for p, text in zip(proposed, scent_and_topic, strict=False)]) > 0.8
    # The order is the generator's: without one, the more general topic comes first. A first comer keeps its phrase.
    written = [phrase.split()[:2] for phrase in tokenizer.phrases(sids)]
    assert np.mean([phrase == text.split() for phrase, text in zip(written, scent_and_topic, strict=True)]) > 0.5
    assert tokenizer.diagnostics()["share_without_proposal"] == 0
    loaded = TextId(config)
    loaded.load_state_dict(tokenizer.state_dict())
    assert np.array_equal(loaded.encode(features, RUNTIME).codes, sids.codes)


def test_a_generator_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        TextIdConfig(generator=str(tmp_path / "nowhere")).content_files()
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read"):
        fit(shop(20), generator=str(tmp_path))  # type: ignore[arg-type]
