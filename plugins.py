"""Everything that a plugin of another package imports: the contracts, the values they pass, and the suite's own tools.

A whole tokenizer, one file of a package of yours, registered by an entry point:

    \"\"\"First letters: items whose titles begin alike share a code.\"\"\"

    from collections.abc import Mapping
    from typing import Self

    import numpy as np

    from sidbench.plugins import InputError, ItemFeatures, Rng, Runtime, SemanticIds, Tokenizer, TokenizerInfo

    INFO = TokenizerInfo(title="First letters", paper="", modalities=(), ordered=True, control=True)


    class FirstLetters(Tokenizer):
        info = INFO
        expected_failures = {"more codes than items": "letters need no items to learn from"}

        def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
            return self

        def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
            length, size = self.config.code_length, self.config.codebook_size
            texts = features.item_text or ("",) * features.n_items
            codes = [[ord(letter) % size for letter in text[:length].ljust(length)] for text in texts]
            return SemanticIds(np.array(codes, np.int32), np.full(length, size, np.int32), ordered=True)

        def state_dict(self) -> dict[str, np.ndarray]:
            return {"codebook_size": np.array(self.config.codebook_size)}

        def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
            if "codebook_size" not in state:
                raise InputError(f"{self.name}: saved state", got=sorted(state), wanted="an entry codebook_size")

``bench plugin check path/to/first_letters.py`` and ``sidbench.testing`` hold it to its contract; guides are
``docs/add-a-*.md``.

Names stand here for as long as the suite keeps its major version; modules behind them may move. Importing this module
imports torch and nothing heavier: what reads tables, and with it polars, is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sidbench.datasets.base import (
    Catalog,
    Dataset,
    DatasetCard,
    DatasetInfo,
    DatasetPlugin,
    FileLocator,
    Interactions,
    PlantedTruth,
    check_dataset_values,
)
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError, NonFiniteLoss, StageError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.plugin import PluginBase
from sidbench.datasets.foundation.runtime import Runtime, TrainingLog, TrainingPlan, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences, Split
from sidbench.recommenders.base import (
    MAX,
    MEAN,
    MIN,
    SAME,
    SUM,
    Ranker,
    RankingData,
    RankingRows,
    Recommender,
    RecommenderInfo,
    RetrievalData,
    Retriever,
    TargetRanks,
)
from sidbench.recommenders.blocks.exact import Candidates, DistinctSids, RankCollector, expected_ndcg, rank_scores
from sidbench.recommenders.blocks.sid_tables import CodeLayout, fused_rows
from sidbench.recommenders.blocks.states import load_into, numpy_state
from sidbench.recommenders.blocks.windows import check_histories
from sidbench.recommenders.decoding.beam import Beam, beam_search
from sidbench.recommenders.decoding.ranks import rank_by_beam, rank_by_search
from sidbench.recommenders.decoding.session import DecodingSession
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import (
    PAD,
    SemanticIds,
    SequenceTokenizer,
    Tokenizer,
    TokenizerConfig,
    TokenizerInfo,
    TokenSequences,
    check_capacity,
    check_content,
    usable_content,
)
from sidbench.tokenizers.blocks.clustering.kmeans import KMeansResult, assign, kmeans
from sidbench.tokenizers.blocks.training.content import (
    content_like,
    content_rows,
    content_widths,
    finite_modality,
    fitting_rows,
    load_module,
    split_content,
    state_entry,
    usable_modality,
    widths_from_state,
    widths_state,
)
from sidbench.tokenizers.collisions.base import (
    CollisionConfig,
    CollisionInfo,
    CollisionPolicy,
    CollisionReport,
    Costs,
    Resolved,
    appended,
    collision_rate,
    moved,
    unchanged,
)

if TYPE_CHECKING:
    from sidbench.datasets.reading.events import IndexedEvents, check_events, index_events, make_card
    from sidbench.datasets.reading.lines import delimited_columns, json_columns, read_lines, read_records
    from sidbench.datasets.reading.text import TextCleaner, count_without_text, text_columns

_READING = {
    "IndexedEvents": "events",
    "check_events": "events",
    "index_events": "events",
    "make_card": "events",
    "delimited_columns": "lines",
    "json_columns": "lines",
    "read_lines": "lines",
    "read_records": "lines",
    "TextCleaner": "text",
    "count_without_text": "text",
    "text_columns": "text",
}

__all__ = [
    # all kinds
    "InputError",
    "NonFiniteLoss",
    "PluginBase",
    "Rng",
    "Runtime",
    "StageError",
    "TrainingLog",
    "TrainingPlan",
    "check_settings",
    "setting",
    "to_numpy",
    # tokenizers
    "PAD",
    "ItemFeatures",
    "KMeansResult",
    "SemanticIds",
    "SequenceTokenizer",
    "TokenSequences",
    "Tokenizer",
    "TokenizerConfig",
    "TokenizerInfo",
    "assign",
    "check_capacity",
    "check_content",
    "content_like",
    "content_rows",
    "content_widths",
    "finite_modality",
    "fitting_rows",
    "kmeans",
    "load_module",
    "split_content",
    "state_entry",
    "usable_content",
    "usable_modality",
    "widths_from_state",
    "widths_state",
    # collision policies
    "CollisionConfig",
    "CollisionInfo",
    "CollisionPolicy",
    "CollisionReport",
    "Costs",
    "Resolved",
    "appended",
    "collision_rate",
    "moved",
    "unchanged",
    # recommenders
    "MAX",
    "MEAN",
    "MIN",
    "SAME",
    "SUM",
    "Beam",
    "Candidates",
    "CodeLayout",
    "DecodingSession",
    "DistinctSids",
    "RankCollector",
    "Ranker",
    "RankingData",
    "RankingRows",
    "Recommender",
    "RecommenderInfo",
    "RetrievalData",
    "Retriever",
    "Sequences",
    "SidTrie",
    "TargetRanks",
    "beam_search",
    "check_histories",
    "expected_ndcg",
    "fused_rows",
    "load_into",
    "numpy_state",
    "rank_by_beam",
    "rank_by_search",
    "rank_scores",
    # data sets
    "Catalog",
    "Dataset",
    "DatasetCard",
    "DatasetInfo",
    "DatasetPlugin",
    "FileLocator",
    "IndexedEvents",
    "Interactions",
    "PlantedTruth",
    "Split",
    "TextCleaner",
    "check_dataset_values",
    "check_events",
    "count_without_text",
    "delimited_columns",
    "hash_file",
    "index_events",
    "json_columns",
    "make_card",
    "read_lines",
    "read_records",
    "text_columns",
]


def __getattr__(name: str) -> Any:
    """The readers of tables, loaded when one of them is first asked for."""
    if name not in _READING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sidbench.datasets.reading.{_READING[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_READING})
