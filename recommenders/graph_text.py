"""The shortcut line: a co-occurrence graph plus the likeness of titles, brands and categories. Nothing is trained.

    graph(i, j) = C_ij / sqrt(d_i d_j),   d_i = sum_j C_ij
    score(j)    = sum over the user's events of decay^age (graph(i, j) + text_weight cos(t_i, t_j))

``C`` sums 1 / distance over pairs of training events at most ``window`` steps apart, ``t`` are tf-idf vectors of words
and word pairs. A learned retriever that stays below this line has not used what interactions and texts offer. Masked
ranks matter here: an item of the history is most like itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from sidbench.datasets.features.tfidf import term_vectorizer
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import SAME, RecommenderInfo, RetrievalData
from sidbench.recommenders.blocks.cooccurrence import (
    check_training,
    cooccurrence,
    in_rows,
    only_entries,
    over_roots,
    sparse_from_state,
    sparse_state,
)
from sidbench.recommenders.blocks.profiles import ProfileRetriever, decayed_profiles
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="Co-occurrence graph and text likeness (the shortcut line, without training)",
    version=1,
    paper="",
    task="retrieval",
    needs_sids=False,
    reads_text=True,
)


@dataclass(frozen=True)
class GraphTextConfig:
    """Settings of the shortcut line; the defaults are its recipe, whose text weight was chosen on validation data of
    Beauty among .08, .16, .32 and .64."""

    window: int = setting(10, "steps between two events that count as a pair", unit="events", low=1, high=10_000)
    decay: float = setting(0.5, "weight of an event relative to the next newer one", low=0, high=1, sweep=(0.3, 1.0))
    text_weight: float = setting(
        0.32, "weight of the cosine of texts beside the graph", low=0, high=1000, sweep=(0.08, 0.64)
    )

    def __post_init__(self) -> None:
        check_settings(self)


def tfidf(texts: tuple[str, ...]) -> sparse.csr_array:
    """float64 ``[N, terms]`` unit rows, zero rows where nothing is known: ``1 + log tf`` times smoothed idf.

    Terms in over half of the texts, and those in one text only, are left out. Raises ``InputError`` when none is left.
    """
    vectorizer = term_vectorizer(sum(bool(text) for text in texts))
    try:
        return in_rows(vectorizer.fit_transform(texts))
    except ValueError as error:  # scikit-learn's only way to say that no term survives the frequency limits
        raise InputError(
            "graph_text: item texts",
            got=str(error).splitlines()[0],
            wanted="words that occur in some texts and not in others",
            do="check titles, brands and categories, or use item_knn",
        ) from error


class GraphText(ProfileRetriever):
    """Nearest items by behaviour and text of a decayed history."""

    info = INFO
    config_class = GraphTextConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {}, "quick": {}, "standard": {}, "paper": {}}
    diagnostic_combine: ClassVar[Mapping[str, str]] = {
        "similar_pairs": SAME,
        "text_terms": SAME,
        "items_without_known_terms": SAME,
    }

    config: GraphTextConfig

    def __init__(self, config: GraphTextConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.graph_: sparse.csr_array | None = None
        self.text_: sparse.csr_array | None = None

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        check_training(self.name, data.train, data.n_items)
        if data.item_text is None or len(data.item_text) != data.n_items:
            raise InputError(
                f"{self.name}: item texts",
                got="none" if data.item_text is None else f"{len(data.item_text)} texts",
                wanted=f"title, brand or categories of {data.n_items} items",
                do="use a data set whose catalogue has one of these fields, or the recommender item_knn",
            )
        near = cooccurrence(data.train, data.n_items, self.config.window)
        self._take(over_roots(near, np.asarray(near.sum(axis=1)).ravel()), tfidf(data.item_text))
        return self

    def _take(self, graph: sparse.csr_array, text: sparse.csr_array) -> None:
        self.graph_, self.text_ = graph, text
        self._notes = {
            "similar_pairs": float(graph.nnz),
            "text_terms": float(text.shape[1]),
            "items_without_known_terms": float((np.diff(text.indptr) == 0).sum()),
        }

    def _fitted(self) -> tuple[sparse.csr_array, sparse.csr_array]:
        if self.graph_ is None or self.text_ is None:
            raise self._not_fitted()
        return self.graph_, self.text_

    @property
    def n_parameters(self) -> int:
        return int(sum(matrix.nnz for matrix in self._fitted()))

    def _catalogue_size(self) -> int:
        return int(self._fitted()[0].shape[0])

    def _scores(self, histories: Sequences) -> np.ndarray:
        graph, text = self._fitted()
        profiles = decayed_profiles(histories, graph.shape[0], self.config.decay)
        scores: np.ndarray = (profiles @ graph).toarray()
        if self.config.text_weight:
            scores += self.config.text_weight * (in_rows(profiles @ text) @ text.T).toarray()
        return scores

    def state_dict(self) -> dict[str, np.ndarray]:
        graph, text = self._fitted()
        return {**sparse_state("graph", graph), **sparse_state("text", text)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        graph, text = (sparse_from_state(self.name, name, state) for name in ("graph", "text"))
        only_entries(self.name, state, {**sparse_state("graph", graph), **sparse_state("text", text)})
        if not graph.shape[0] == graph.shape[1] == text.shape[0]:
            raise InputError(
                f"{self.name}: saved state",
                got=f"a graph {graph.shape} and texts {text.shape}",
                wanted="[N, N] and [N, terms]",
                do="fit it again",
            )
        self._take(graph, text)
