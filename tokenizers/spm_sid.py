"""SPM-SID: sub-words over the semantic IDs of any other tokenizer.

Singh et al., "Better Generalization with Semantic IDs", arXiv 2306.08121 (YouTube ranking). A SID is a string of codes;
its sub-words replace the codes as what a model embeds:
  ``sentencepiece``  a unigram language model (Kudo, ACL 2018) trained on the strings, an item once per training
                     interaction, so that popular items get few long pieces and rare ones share short pieces;
  ``ngram``          fixed groups of ``n`` codes, one table row per group value (n = 1 keeps the codes).
Codes are position specific, as characters of an alphabet of ``L K`` letters would be. Pieces spell the base's SID, so
collisions and reconstruction are those of the base, and which pieces an item gets depends on its SID alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.text.unigram_pieces import Pieces, train_pieces
from sidbench.tokenizers.blocks.training.content import state_entry
from sidbench.tokenizers.blocks.wrapping.bases import BUDGETS, base_rng, bases, make_base

INFO = TokenizerInfo(
    title="SPM-SID: sub-words of semantic IDs",
    version=1,
    paper="Singh et al., RecSys 2024, arXiv 2306.08121",
    year=2023,
    url="https://arxiv.org/abs/2306.08121",
    bibtex="@misc{singh2023semanticids,\n"
    "  title={Better Generalization with Semantic IDs: A Case Study in Ranking for Recommendations},\n"
    "  author={Singh and others}, year={2023}, eprint={2306.08121}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2306.08121}}",
    modalities=("text", "vision", "behaviour", "sequences", "categories"),
    required=("text|vision",),
    ordered=True,
    variable_length=True,
    composite=True,
    deviations=(
        "The base is any tokenizer of the suite at its settings and seed (default rqkmeans); the paper's is RQ-VAE with "
        "8 x 2048 codes of a video encoder.",
        "The unigram model is trained natively on codes (see blocks/text/unigram_pieces.py), with the losses of Kudo 2018.",
        "Every single code of the base is a piece, so items with codes never used in training can be written too.",
        "An n-gram table has a row per n-gram of the fitted catalogue and one row for all others, not K^n rows.",
        "Positions are ordered, whatever the base is: which codes a piece stands for depends on the pieces before it.",
        "How pieces are embedded and summed is the recommender's choice.",
    ),
)


@dataclass(frozen=True)
class SpmSidConfig(TokenizerConfig):
    """Settings of SPM-SID; ``code_length`` and ``codebook_size`` are those of the base."""

    base: str = setting("rqkmeans", "tokenizer whose SIDs are split", choices=tuple(bases()))
    base_budget: str = setting("standard", "budget of the base", choices=BUDGETS)
    scheme: str = setting(
        "sentencepiece",
        "learned pieces, or fixed groups of codes",
        choices=("sentencepiece", "ngram"),
        sweep=("sentencepiece", "ngram"),
    )
    vocabulary_size: int = setting(
        4096,
        "pieces, single codes included (sentencepiece)",
        unit="pieces",
        low=1,
        high=16_000_000,
        sweep=(1024, 4096, 16_384, 65_536),
    )
    ngram: int = setting(2, "codes in a group (ngram)", unit="codes", low=1, high=64, paper=2, sweep=(1, 2, 3))


class SpmSid(Tokenizer):
    """SPM-SID; ``base_`` is the fitted base, ``pieces_`` the unigram model or ``tables_`` the n-grams by group."""

    info = INFO
    config_class = SpmSidConfig
    budgets = {
        name: {"base_budget": name, **({"vocabulary_size": 1024} if name in ("smoke", "quick") else {})} for name in BUDGETS
    }  # of small catalogues 4,096 pieces are whole SIDs, which is an item ID
    expected_failures = {"one code": "pieces of all positions share one numbering"}
    pieces_: Pieces
    tables_: list[np.ndarray]

    def __init__(self, config: SpmSidConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.base_: Tokenizer = make_base(self.config.base, self.config.base_budget, self.config)

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: SpmSidConfig = self.config
        features.fit_rows(c.fit_items)  # raises when nothing was used in training
        self.base_.fit(features, base_rng(rng, c.base), runtime)
        base = self.base_.encode(features, runtime)
        uses = features.train_counts.astype(np.float64)
        if c.fit_items == "all":
            uses = np.maximum(uses, 1)
        if c.scheme == "ngram":
            self.tables_ = [np.unique(base.codes[:, group], axis=0) for group in _groups(base.code_length, c.ngram)]
        else:
            self.pieces_ = train_pieces(base.codes, uses, base.sizes, c.vocabulary_size)
            if len(self.pieces_) < c.vocabulary_size:
                runtime.warn(
                    f"{self.name}: {len(self.pieces_)} of {c.vocabulary_size} pieces, since no other substring of the "
                    "SIDs is frequent enough"
                )
        sids = self._split(base, runtime)
        lengths = (sids.codes != PAD).sum(axis=1)
        self._diagnostics = {
            **{f"base_{name}": value for name, value in self.base_.diagnostics().items()},
            "vocabulary_size": float(len(self.pieces_) if c.scheme == "sentencepiece" else sids.sizes.sum()),
            "codes_per_item": float((base.codes != PAD).sum(axis=1).mean()),
            "pieces_per_item": float(lengths.mean()),
            "pieces_per_interaction": float(np.average(lengths, weights=uses)),
        }
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        return self._split(self.base_.encode(features, runtime), runtime)

    def _split(self, base: SemanticIds, runtime: Runtime) -> SemanticIds:
        c: SpmSidConfig = self.config
        if c.scheme == "sentencepiece":
            sizes = np.full(base.code_length, len(self.pieces_), np.int32)
            return SemanticIds(self.pieces_.encode(base.codes), sizes, ordered=True, reconstruction=base.reconstruction)
        columns, unknown = [], 0
        for group, table in zip(_groups(base.code_length, c.ngram), self.tables_, strict=True):
            row_of = {row.tobytes(): i for i, row in enumerate(table)}
            rows = np.ascontiguousarray(base.codes[:, group])
            found = np.array([row_of.get(row.tobytes(), len(table)) for row in rows], np.int32)
            found[(rows == PAD).all(axis=1)] = PAD
            unknown += int((found == len(table)).sum())
            columns.append(found)
        if unknown:
            runtime.warn(
                f"{self.name}: {unknown} n-grams of {base.n_items} items are not in the tables and share one code per "
                "position"
            )
        names = tuple(f"codes {g.start + 1}-{g.stop}" for g in _groups(base.code_length, c.ngram))
        sizes = np.array([len(table) + 1 for table in self.tables_], np.int32)
        return SemanticIds(
            np.stack(columns, axis=1),
            sizes,
            ordered=True,
            position_names=names,
            reconstruction={} if unknown else base.reconstruction,
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        own = (
            self.pieces_.state()
            if self.config.scheme == "sentencepiece"
            else {f"table/{i:02d}": table for i, table in enumerate(self.tables_)}
        )
        return {**own, **{f"base/{k}": v for k, v in self.base_.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: SpmSidConfig = self.config
        self.base_.load_state_dict({k.removeprefix("base/"): v for k, v in state.items() if k.startswith("base/")})
        if c.scheme == "sentencepiece":
            length = len(state_entry(state, "sizes", (None,), self.name))
            pieces = Pieces.from_state(state, length, self.name)
            if len(pieces) > c.vocabulary_size:
                raise InputError(
                    f"{self.name} state entry scores",
                    got=f"{len(pieces)} pieces",
                    wanted=f"at most the {c.vocabulary_size} of the config",
                    do="load it with the config it was fitted with",
                )
            self.pieces_ = pieces
            return
        names = sorted(name for name in state if name.startswith("table/"))
        tables = [state_entry(state, name, (None, None), self.name).astype(np.int32) for name in names]
        if not tables or any(t.shape[1] != c.ngram for t in tables[:-1]) or not 1 <= tables[-1].shape[1] <= c.ngram:
            raise InputError(
                f"{self.name} state entries table/…",
                got=[t.shape for t in tables],
                wanted=f"one table of groups of {c.ngram} codes per position",
                do="load it with the config it was fitted with",
            )
        self.tables_ = tables


def _groups(length: int, n: int) -> list[slice]:
    """Neighbouring positions in groups of ``n``; the last may be smaller."""
    return [slice(start, min(start + n, length)) for start in range(0, length, n)]
