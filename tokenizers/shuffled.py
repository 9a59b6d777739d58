"""Shuffled codes: another tokenizer's SIDs dealt to random items.

The control that keeps every statistic of a learned code table (entropy, collisions, prefix sizes) and destroys its
meaning: what a recommender loses against the base is what semantics gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.training.content import state_entry
from sidbench.tokenizers.blocks.wrapping.bases import BUDGETS, base_rng, bases, make_base

INFO = TokenizerInfo(
    title="Shuffled codes (control)",
    version=1,
    paper="",
    modalities=("text", "vision", "behaviour"),
    required=("text|vision",),
    ordered=True,
    control=True,
    composite=True,
    deviations=(
        "The base runs with its default settings at the chosen budget, with the same seed as a run of its own; a "
        "preset or settings of that other run do not reach it.",
        "The permutation depends on the seed and the number of items: a subset encoded alone is dealt anew.",
    ),
)

BASES = bases()


@dataclass(frozen=True)
class ShuffledConfig(TokenizerConfig):
    """Settings of the shuffled control."""

    base: str = setting("rqkmeans", "tokenizer whose codes are shuffled", choices=tuple(BASES))
    base_budget: str = setting("standard", "budget of the base", choices=BUDGETS)


class Shuffled(Tokenizer):
    """Shuffled codes; ``base_`` is the fitted base, ``key_`` the seed of the permutation."""

    info = INFO
    itemwise = False
    config_class = ShuffledConfig
    budgets = {name: {"base_budget": name} for name in BUDGETS}
    key_: int

    def __init__(self, config: ShuffledConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.base_: Tokenizer = make_base(self.config.base, self.config.base_budget, self.config)

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        self.base_.fit(features, base_rng(rng, self.config.base), runtime)
        self.key_ = rng.child("permutation").integer()
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        sids = self.base_.encode(features, runtime)
        order = Rng(self.key_).child(sids.n_items).numpy().permutation(sids.n_items)
        return replace(
            sids,
            codes=sids.codes[order],
            weights=None if sids.weights is None else sids.weights[order],
            reconstruction={m: e[order] for m, e in sids.reconstruction.items()},
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"key": np.array(self.key_, np.int64), **{f"base/{k}": v for k, v in self.base_.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.key_ = int(state_entry(state, "key", (), self.name))
        self.base_.load_state_dict({k.removeprefix("base/"): v for k, v in state.items() if k.startswith("base/")})

    def diagnostics(self) -> dict[str, float]:
        return self.base_.diagnostics()
