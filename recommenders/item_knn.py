"""Item kNN: items that stand near the user's recent items in other users' sequences. Nothing is trained.

    sim(i, j) = C_ij / sqrt((n_i + shrinkage) (n_j + shrinkage))
    score(j)  = sum over the user's events of decay^age sim(i, j),   j among the nearest neighbours of i

``C`` sums 1 / distance over pairs of events at most ``window`` steps apart; ``n_i`` = training events of item ``i``.
Equal similarities at the k-th place are all kept, so no tie is broken by the numbering of items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import SAME, RecommenderInfo, RetrievalData
from sidbench.recommenders.blocks.cooccurrence import (
    check_training,
    cooccurrence,
    only_entries,
    over_roots,
    sparse_from_state,
    sparse_state,
)
from sidbench.recommenders.blocks.profiles import ProfileRetriever, decayed_profiles
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="Item kNN: nearest items by co-occurrence (baseline without training)",
    version=1,
    paper="Deshpande and Karypis, ACM TOIS 22 (2004)",
    year=2004,
    url="https://doi.org/10.1145/963770.963776",
    bibtex="@article{itemknn2004,\n"
    "  title={Item-based top-N recommendation algorithms}, author={Deshpande, Mukund and Karypis, George},\n"
    "  journal={ACM Transactions on Information Systems}, volume={22}, number={1}, pages={143--177}, year={2004},\n"
    "  doi={10.1145/963770.963776}}",
    task="retrieval",
    needs_sids=False,
    deviations=(
        "co-occurrence within a window, weighted by 1/distance, instead of in a whole basket",
        "shrinkage of counts as in the item-KNN baseline of GRU4Rec (arXiv 1511.06939)",
        "history weighted by exponential decay; rows of similarities are not normalised to one",
    ),
)


@dataclass(frozen=True)
class ItemKnnConfig:
    """Settings of item kNN; values of neighbours and shrinkage are those of GRU4Rec's baseline."""

    window: int = setting(10, "steps between two events that count as a pair", unit="events", low=1, high=10_000)
    shrinkage: float = setting(
        20.0, "added to the events of both items of a pair", unit="events", low=0, high=1e6, paper=20, sweep=(0.0, 50.0)
    )
    neighbours: int = setting(
        100, "most similar items kept of each item", unit="items", low=1, high=1 << 30, paper=100, sweep=(20, 100, 1000)
    )
    decay: float = setting(0.5, "weight of an event relative to the next newer one", low=0, high=1, sweep=(0.3, 1.0))

    def __post_init__(self) -> None:
        check_settings(self)


def nearest(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """The ``k`` largest entries of each row of sorted columns, and all that equal the k-th."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, row))
    filled = np.diff(matrix.indptr) > 0
    last = np.minimum(matrix.indptr[:-1] + k, matrix.indptr[1:])[filled] - 1
    threshold = np.zeros(matrix.shape[0])
    threshold[filled] = matrix.data[order][last]
    keep = matrix.data >= threshold[row]
    return sparse.csr_array((matrix.data[keep], (row[keep], matrix.indices[keep])), shape=matrix.shape)


class ItemKnn(ProfileRetriever):
    """Nearest neighbours of the items of a history."""

    info = INFO
    config_class = ItemKnnConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {}, "quick": {}, "standard": {}, "paper": {}}
    diagnostic_combine: ClassVar[Mapping[str, str]] = {"similar_pairs": SAME}

    config: ItemKnnConfig

    def __init__(self, config: ItemKnnConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.similarity_: sparse.csr_array | None = None

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        check_training(self.name, data.train, data.n_items)
        events = np.bincount(data.train.items, minlength=data.n_items) + self.config.shrinkage
        near = over_roots(cooccurrence(data.train, data.n_items, self.config.window), events)
        self._take(nearest(near, self.config.neighbours))
        return self

    def _take(self, similarity: sparse.csr_array) -> None:
        self.similarity_, self._notes = similarity, {"similar_pairs": float(similarity.nnz)}

    def _fitted(self) -> sparse.csr_array:
        if self.similarity_ is None:
            raise self._not_fitted()
        return self.similarity_

    def _catalogue_size(self) -> int:
        return int(self._fitted().shape[0])

    def _scores(self, histories: Sequences) -> np.ndarray:
        similarity = self._fitted()
        scores: np.ndarray = (decayed_profiles(histories, similarity.shape[0], self.config.decay) @ similarity).toarray()
        return scores

    @property
    def n_parameters(self) -> int:
        return int(self._fitted().nnz)

    def state_dict(self) -> dict[str, np.ndarray]:
        return sparse_state("similarity", self._fitted())

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        similarity = sparse_from_state(self.name, "similarity", state)
        only_entries(self.name, state, sparse_state("similarity", similarity))
        if similarity.shape[0] != similarity.shape[1]:
            raise InputError(
                f"{self.name}: saved state", got=f"a matrix {similarity.shape}", wanted="[N, N]", do="fit it again"
            )
        self._take(similarity)
