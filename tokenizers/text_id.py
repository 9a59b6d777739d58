"""Text IDs: an item's SID is a short, unique phrase of words from its own text, the most general word first.

The idea of IDGenRec (Tan et al., SIGIR 2024, arXiv 2403.19021): identifiers that are short, unique and made of
meaningful words. There a T5 model writes the phrases; here they are chosen, without a model, from the item's text.

Telling ``N`` items apart takes ``log N`` nats, and a word that ``df`` of them hold gives ``idf = log(N / df)``. Plain
tf-idf would name every item by words no other item has, which nothing can be learned from. So word ``j`` of the first
``W`` should give ``(j + 1) / W`` of the information: of the item's words, the one of largest
``log(1 + tf) (1 - |idf - (j + 1) / W log N| / log N)``. Sorted by ``df`` these words make a prefix tree from general to
specific. An item whose phrase is taken adds its next most informative words (largest ``log(1 + tf) idf``), and at last
a number.

With ``generator``, a folder that holds a sequence-to-sequence language model, the model writes the phrases as in the
paper: of its proposals the first that is still free, its words in the order written. Where all are taken the best one is
extended as above.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.text.phrase_generator import PhraseGenerator, generator_files
from sidbench.tokenizers.blocks.training.content import state_entry

INFO = TokenizerInfo(
    title="Text IDs: short unique phrases from item text",
    version=1,
    paper="after IDGenRec, Tan et al., SIGIR 2024, arXiv 2403.19021",
    year=2024,
    url="https://arxiv.org/abs/2403.19021",
    bibtex="@misc{tan2024idgenrec,\n"
    "  title={IDGenRec: LLM-RecSys Alignment with Textual ID Learning}, author={Tan and others},\n"
    "  year={2024}, eprint={2403.19021}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2403.19021}}",
    modalities=("text",),
    required=("text",),
    ordered=True,
    variable_length=True,
    deviations=(
        "By default no language model: words are chosen from the item's own text by document frequency. With a generator "
        "its weights stay as they are; IDGenRec trains generator and recommender in turn.",
        "A generator proposes by plain beam search, not by beams in groups with a diversity penalty.",
        "A phrase is a tuple of word codes for the suite's recommenders, not text for a pretrained one.",
        "Phrases are given out in row order to the catalogue encoded at once: items appended later leave earlier ones "
        "unchanged, a subset encoded alone may get shorter phrases.",
        "The last position holds a number for items whose words do not tell them apart; it is PAD otherwise.",
        "Stop words are English; words of one letter, bare numbers and words in over half of the texts are left out.",
    ),
)

_WORD = re.compile(r"[^\W_]*[^\W\d_][^\W_]*(?:['’][^\W_]+)?")
_MOST_COMMON = 0.5  # share of the texts; such words are field names and root categories
_SMALL = 50  # below this many texts a word used once is kept: there are too few to ask for two


@dataclass(frozen=True)
class TextIdConfig(TokenizerConfig):
    """Settings of text IDs; ``code_length`` counts the words and the number, ``codebook_size`` caps the vocabulary."""

    code_length: int = setting(
        6, "most words in a phrase, plus one position for the number", unit="codes", low=2, high=64, sweep=(4, 6, 8)
    )
    codebook_size: int = setting(
        8192,
        "most words in the vocabulary that all positions share",
        unit="words",
        low=1,
        high=65536,
        sweep=(1024, 4096, 8192, 16_384),
    )
    words: int = setting(
        3, "words of every phrase; more only where it is taken", unit="words", low=1, high=63, sweep=(2, 3, 4)
    )
    numbers: int = setting(
        1024, "codes of the number, the most items whose words are all the same", unit="codes", low=1, high=1_000_000
    )
    generator: str = setting("", "folder of a language model that writes the phrases (extra `generator`); empty for none")
    proposals: int = setting(10, "phrases the generator proposes for an item", low=1, high=100, paper=10)
    generator_input: int = setting(128, "tokens of an item's text that the generator reads", unit="tokens", low=1, high=4096)

    def content_files(self) -> tuple[str, ...]:
        return generator_files(self.generator) if self.generator else ()


class TextId(Tokenizer):
    """Text IDs; ``words_`` the vocabulary, most general first, ``frequencies_ [V]`` their items, of ``n_texts_``."""

    info = INFO
    itemwise = False
    config_class = TextIdConfig
    expected_failures = {
        "one code": "the number has codes of its own, whatever codebook_size is",
        "not finite": "reads the words of the items, not their embeddings",
        "more codes than items": "a vocabulary may hold more words than there are items",
    }
    words_: tuple[str, ...]
    frequencies_: np.ndarray
    n_texts_: int

    def __init__(self, config: TextIdConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        c: TextIdConfig = self.config
        if c.words >= c.code_length:
            raise InputError(
                f"{self.name}: words",
                got=c.words,
                wanted=f"fewer than the {c.code_length} positions, of which the last holds the number",
                do=f"set tokenizer.code_length={c.words + 3} or fewer words",
            )

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: TextIdConfig = self.config
        texts = _texts(features)
        written = self._written(texts, runtime)
        frequencies = Counter(
            word for row in features.fit_rows(c.fit_items) for word in set(_words(" ".join([texts[row], *written[row]])))
        )
        self.n_texts_ = sum(1 for row in features.fit_rows(c.fit_items) if texts[row])
        least = 2 if self.n_texts_ >= _SMALL else 1
        most = max(least, int(_MOST_COMMON * self.n_texts_))
        usable = {w: n for w, n in frequencies.items() if least <= n <= most and w not in ENGLISH_STOP_WORDS}
        # where the vocabulary is too small for all, the words that carry most information over the catalogue stay
        kept = sorted(usable, key=lambda w: (-usable[w] * math.log(self.n_texts_ / usable[w]), w))[: c.codebook_size]
        self.words_ = tuple(sorted(kept, key=lambda w: (-usable[w], w)))
        self.frequencies_ = np.array([usable[w] for w in self.words_], np.int64)
        codes = self._encode(texts, written).codes
        lengths = (codes[:, :-1] != PAD).sum(axis=1)
        numbered = codes[:, -1] != PAD
        self._diagnostics = {
            "vocabulary_size": float(len(self.words_)),
            "words_per_item": float(lengths.mean()),
            "share_with_number": float(numbered.mean()),
            "items_without_words": float((lengths == 0).sum()),
            "items_without_text": float(sum(not text for text in texts)),
            "share_with_extra_words": float((lengths > c.words).mean()),
        }
        if c.generator:
            scores = _Scores(self.words_, self.frequencies_, self.n_texts_, c.words)
            used = [any(scores.known_words(p) for p in proposals) for proposals in written]
            self._diagnostics["share_without_proposal"] = 1.0 - float(np.mean(used))
        if numbered.any():
            runtime.warn(
                f"{self.name}: {int(numbered.sum())} of {len(codes)} items need a number to be unique "
                f"({int((lengths == 0).sum())} have no word of the vocabulary)"
            )
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        texts = _texts(features)
        return self._encode(texts, self._written(texts, runtime))

    def _written(self, texts: Sequence[str], runtime: Runtime) -> list[list[str]]:
        """What the generator proposes for every text, best first; nothing without one."""
        c: TextIdConfig = self.config
        if not c.generator:
            return [[] for _ in texts]
        # A word is seldom longer than four tokens of a subword vocabulary.
        return PhraseGenerator(c.generator, c.proposals, c.generator_input, 4 * c.words, runtime).phrases(texts)

    def _encode(self, texts: Sequence[str], written: Sequence[Sequence[str]]) -> SemanticIds:
        c: TextIdConfig = self.config
        scores = _Scores(self.words_, self.frequencies_, self.n_texts_, c.words)
        codes = np.full((len(texts), c.code_length), PAD, np.int32)
        taken: set[tuple[int, ...]] = set()
        equal: Counter[tuple[int, ...]] = Counter()
        for row, text, proposals in zip(codes, texts, written, strict=True):
            weights = scores.weights(text)
            options = [p for p in map(scores.known_words, proposals) if p][: c.proposals]
            options = [p[: c.code_length - 1] for p in options] or [scores.first_words(weights)]
            phrase = next((p for p in options if p not in taken), options[0])
            if phrase in taken:
                for word in scores.next_words(weights, phrase)[: c.code_length - 1 - len(phrase)]:
                    phrase = (*phrase, word)
                    if phrase not in taken:
                        break
            row[: len(phrase)] = phrase
            if phrase in taken or not phrase:
                row[-1] = equal[phrase]
                equal[phrase] += 1
            taken.add(phrase)
        if (most := max(equal.values(), default=0)) > c.numbers:
            raise InputError(
                f"{self.name}: numbers",
                got=f"{most} items that need a number for the same words",
                wanted=f"at most {c.numbers}",
                do=f"set tokenizer.numbers={2 * most}, or give items more text",
            )
        sizes = np.array([max(len(self.words_), 1)] * (c.code_length - 1) + [c.numbers], np.int32)
        names = (*(f"word {p + 1}" for p in range(c.code_length - 1)), "number")
        return SemanticIds(codes, sizes, ordered=True, position_names=names)

    def phrases(self, sids: SemanticIds) -> list[str]:
        """The SIDs as text: ``"skin face cream 2"``."""
        return [
            " ".join([*(self.words_[w] for w in row[:-1] if w != PAD), *(str(n) for n in row[-1:] if n != PAD)])
            for row in sids.codes.tolist()
        ]

    def state_dict(self) -> dict[str, np.ndarray]:
        text = np.frombuffer("\n".join(self.words_).encode(), np.uint8)
        return {"words": text, "frequencies": self.frequencies_, "n_texts": np.array(self.n_texts_, np.int64)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: TextIdConfig = self.config
        frequencies = state_entry(state, "frequencies", (None,), self.name).astype(np.int64)
        n_texts = int(state_entry(state, "n_texts", (), self.name))
        try:
            text = state_entry(state, "words", (None,), self.name).astype(np.uint8).tobytes().decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.name} state entry words",
                got=f"bytes that are no text ({error.reason})",
                wanted="words in UTF-8",
                do="fit the tokenizer again",
            ) from error
        words = tuple(text.split("\n")) if text else ()
        if (
            len(words) != len(frequencies)
            or len(set(words)) != len(words)
            or len(words) > c.codebook_size
            or (frequencies < 1).any()
            or (frequencies > n_texts).any()
        ):
            raise InputError(
                f"{self.name} state entry words",
                got=f"{len(words)} words, {len(frequencies)} frequencies",
                wanted=f"at most {c.codebook_size} distinct words, each with its number of items",
                do="load it with the config it was fitted with",
            )
        self.words_, self.frequencies_, self.n_texts_ = words, frequencies, n_texts


class _Scores:
    """What each word of the vocabulary is worth as word ``j`` of a phrase; numbers grow as frequencies fall."""

    def __init__(self, words: Sequence[str], frequencies: np.ndarray, n_texts: int, n_words: int) -> None:
        self.number_of = {word: number for number, word in enumerate(words)}
        total = max(math.log(max(n_texts, 1)), 1e-9)
        idf = math.log(max(n_texts, 1)) - np.log(frequencies)
        self.idf: list[float] = idf.tolist()
        self.levels: list[list[float]] = [
            (1 - np.abs(idf - (j + 1) / n_words * total) / total).tolist() for j in range(n_words)
        ]

    def weights(self, text: str) -> dict[int, float]:
        """Word -> ``log(1 + tf)``, in order of appearance."""
        counts = Counter(map(self.number_of.get, _words(text)))
        return {word: math.log1p(n) for word, n in counts.items() if word is not None}

    def known_words(self, phrase: str) -> tuple[int, ...]:
        """The words of ``phrase`` in the vocabulary, each once, as written."""
        return tuple(dict.fromkeys(n for w in _words(phrase) if (n := self.number_of.get(w)) is not None))

    def first_words(self, weights: Mapping[int, float]) -> tuple[int, ...]:
        """The best word of each level, general to specific; of equal ones the more general."""
        chosen: list[int] = []
        for level in self.levels[: len(weights)]:
            best, most = -1, -math.inf
            for word, weight in weights.items():
                score = weight * level[word]
                if (score > most or (score == most and word < best)) and word not in chosen:
                    best, most = word, score
            chosen.append(best)
        return tuple(sorted(chosen))

    def next_words(self, weights: Mapping[int, float], phrase: tuple[int, ...]) -> list[int]:
        """The other words by tf-idf."""
        return sorted(weights.keys() - set(phrase), key=lambda word: (-weights[word] * self.idf[word], word))


def _texts(features: ItemFeatures) -> Sequence[str]:
    """Text of every item, empty where it is declared not available."""
    if features.item_text is None or "text" not in features.modalities:
        raise InputError(
            "text_id: item text",
            got="none, or the modality text is absent"
            + (f" ({features.absent['text']})" if "text" in features.absent else ""),
            wanted="a dataset with item text and a text encoder",
            do="choose one with features.text=…, or another tokenizer",
        )
    return [
        text if present else ""
        for text, present in zip(features.item_text, features.available["text"].tolist(), strict=True)
    ]


def _words(text: str) -> list[str]:
    """Words with a letter and two characters or more, in lower case."""
    return [word for word in _WORD.findall(text.casefold()) if len(word) > 1]
