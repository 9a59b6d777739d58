"""Item ID: one position with one code per item, the control without sharing.

The generative model becomes a softmax over items, the ranker gets one embedding row per item: what semantic IDs must
beat.
``code_length`` and ``codebook_size`` do not apply: there is one position, and as many codes as items were fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.training.content import state_entry

INFO = TokenizerInfo(
    title="Item ID (control)",
    version=1,
    paper="Hua et al., SIGIR-AP 2023 (IID)",
    url="https://arxiv.org/abs/2305.06569",
    bibtex="@misc{hua2023index,\n"
    "  title={How to Index Item IDs for Recommendation Foundation Models}, author={Hua and others},\n"
    "  year={2023}, eprint={2305.06569}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2305.06569}}",
    modalities=(),
    ordered=False,
    control=True,
    deviations=("Items that were not in the fitted catalogue have no code; encoding another catalogue is an error.",),
)


class ItemId(Tokenizer):
    """Item ID; ``n_items_`` is the size of the fitted catalogue."""

    info = INFO
    itemwise = False
    config_class = TokenizerConfig
    expected_failures = {
        "unseen items": "a new item has no ID of its own",
        "one code": "the number of codes is the number of items",
        "more codes than items": "codebook_size does not apply",
    }
    n_items_: int

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        self.n_items_ = features.n_items
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        if features.n_items != self.n_items_:
            raise InputError(
                f"{self.name}: catalogue to encode",
                got=f"{features.n_items} items",
                wanted=f"the {self.n_items_} items of the fit, since a new item has no ID of its own",
                do="fit again, or use a tokenizer that encodes content",
            )
        codes = np.arange(self.n_items_, dtype=np.int32)[:, None]
        return SemanticIds(codes, np.array([self.n_items_], np.int32), ordered=False)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"n_items": np.array(self.n_items_, np.int64)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.n_items_ = int(state_entry(state, "n_items", (), self.name))
