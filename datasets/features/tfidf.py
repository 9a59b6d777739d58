"""TF-IDF and truncated SVD (latent semantic analysis): the text encoder that needs no weights and no network.

Deerwester et al., JASIS 1990; randomised SVD of Halko, Martinsson and Tropp, SIAM Review 2011. Words and word pairs,
sublinear term frequency ``1 + log tf``, smoothed inverse document frequency, unit rows, then ``U S`` of rank ``dim``
with unit rows again. Vocabulary and directions are fitted on the texts of **all** catalogue items: text is side
information known at listing time and holds no interactions, so this leaks nothing from test events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sidbench.datasets.features.encoding import Encoding, encoding, fix_signs
from sidbench.datasets.features.text import ItemText
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

_SMALL = 50  # below this many texts a word used once is kept: there are too few to ask for two
_MAX_SHARE = 0.5  # a word in over half of the texts (the field names, a root category) tells items apart no more
_MAX_TERMS = 100_000
_WORDS = r"(?u)\b\w*[^\W\d_]\w+\b"  # two characters or more with a letter: prices and bare numbers are no topics


def term_vectorizer(n_written: int, *, max_terms: int | None = None, dtype: type[np.floating] = np.float64) -> Any:
    """scikit-learn's vectorizer of words and word pairs for a catalogue with ``n_written`` texts: terms in over half of
    them are left out, and those in one text only."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    least = 2 if n_written >= _SMALL else 1
    return TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        min_df=least,
        max_df=max(least, int(_MAX_SHARE * n_written)),
        max_features=max_terms,
        token_pattern=_WORDS,
        dtype=dtype,
    )


def encode_tfidf(text: ItemText, dim: int, rng: Rng) -> Encoding:
    """Encode item texts as float32 ``[N, D]`` with unit rows, ``D = min(dim, texts - 1, terms - 1)``.

    Items without text, or without any term of the vocabulary (counted as ``text_without_known_terms``), are not
    available. Raises ``InputError`` when no two texts share a usable vocabulary.
    """
    from sklearn.utils.extmath import randomized_svd

    documents = [sentence for sentence in text.sentences if sentence]
    if len(documents) < 3:
        raise InputError(
            "text encoder tfidf",
            got=f"{len(documents)} items with text",
            wanted="at least 3",
            do="declare the modality absent with features.text=none",
        )
    vectorizer = term_vectorizer(len(documents), max_terms=_MAX_TERMS, dtype=np.float32)
    try:
        matrix = vectorizer.fit_transform(documents)
    except ValueError as error:  # scikit-learn's only way to say that no term survives the frequency limits
        raise InputError(
            "text encoder tfidf: no term tells items apart",
            got=str(error).splitlines()[0],
            wanted="words that occur in some texts and not in others",
            do="check the item texts or use features.text=none",
        ) from error
    width = min(dim, len(documents) - 1, matrix.shape[1] - 1)
    if width < 1:
        raise InputError(
            "text encoder tfidf",
            got=f"{matrix.shape[1]} usable terms",
            wanted="at least 2",
            do="check the item texts or use features.text=none",
        )
    left, singular, components = randomized_svd(matrix, width, n_iter=4, random_state=rng.integer() % 2**32)
    rows = left * singular * fix_signs(components)
    norms = np.linalg.norm(rows, axis=1)
    known = norms > 1e-6
    available = text.available.copy()
    available[text.available] = known
    counts = {"text_without_known_terms": int((~known).sum()), "text_terms": int(matrix.shape[1]), "text_width": width}
    return encoding(rows[known] / norms[known, None], available, counts)
