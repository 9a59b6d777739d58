"""EASE: a linear item-to-item model without hidden layer, in closed form (Steck, WWW 2019, arXiv 1905.03375).

    P = (X^T X + l2 I)^-1,   B_ij = -P_ij / P_jj for i != j, B_jj = 0 (equation 8),   scores = x B

``X`` is the binary user-item matrix of the training sequences, ``x`` the set of items of a history. ``B`` is saved in
``4 N^2`` bytes, .6 GB for the 12,101 items of Beauty, where a whole run was seen to hold 2.9 GB: about ``20 N^2`` bytes.
Single precision is enough because ``l2`` bounds the condition number; that is checked on columns of the inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import SAME, RecommenderInfo, RetrievalData
from sidbench.recommenders.blocks.cooccurrence import check_training
from sidbench.recommenders.blocks.profiles import ProfileRetriever
from sidbench.tokenizers.base import SemanticIds

CHECKED_COLUMNS = 16
TOLERANCE = 1e-3  # largest entry of (X^T X + l2 I) P - I in the checked columns

INFO = RecommenderInfo(
    title="EASE: linear item-to-item model in closed form (baseline)",
    version=1,
    paper="arXiv 1905.03375",
    year=2019,
    url="https://arxiv.org/abs/1905.03375",
    bibtex="@misc{ease2019,\n"
    "  title={Embarrassingly Shallow Autoencoders for Sparse Data}, author={Steck, Harald}, year={2019},\n"
    "  eprint={1905.03375}, archivePrefix={arXiv}, url={https://arxiv.org/abs/1905.03375}}",
    task="retrieval",
    needs_sids=False,
    deviations=("single precision, checked on columns of the inverse",),
)


@dataclass(frozen=True)
class EaseConfig:
    """Settings of EASE. l2: the paper reports 500 for ML-20M, 1,000 for Netflix and 200 for MSD."""

    l2: float = setting(500.0, "L2 penalty of the weights", low=1e-3, high=1e7, paper=500, sweep=(1.0, 1000.0))
    max_items: int = setting(
        20_000, "largest catalogue to invert (about 20 N^2 bytes: 8 GB at 20,000)", unit="items", low=1, high=46_000
    )

    def __post_init__(self) -> None:
        check_settings(self)


def binary_matrix(sequences: Sequences, n_items: int) -> sparse.csr_array:
    """float32 ``[U, N]`` with one wherever the user has the item, however often."""
    matrix = sparse.csr_array(
        (np.ones(len(sequences.items), np.float32), sequences.items.astype(np.int64), sequences.indptr),
        shape=(sequences.n_users, n_items),
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


class Ease(ProfileRetriever):
    """Scores are a linear function of the set of items of a history."""

    info = INFO
    config_class = EaseConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {}, "quick": {}, "standard": {}, "paper": {}}
    diagnostic_combine: ClassVar[Mapping[str, str]] = {"inverse_error": SAME}

    config: EaseConfig

    def __init__(self, config: EaseConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.weights_: np.ndarray | None = None

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        n = data.n_items
        check_training(self.name, data.train, n)
        if n > self.config.max_items:
            raise InputError(
                f"{self.name}: items",
                got=f"{n:,}",
                wanted=f"at most max_items={self.config.max_items:,}, since it inverts a dense [N, N] matrix",
                do=f"set retriever.max_items={n} if {20 * n * n / 1e9:.1f} GB are free, or use item_knn",
            )
        x = binary_matrix(data.train, n)
        gram = sparse.csr_array(x.T @ x)
        inverse = self._inverse(gram, runtime)
        error = self._check(gram, inverse)
        weights = inverse.div_(-inverse.diagonal().clone()).fill_diagonal_(0.0)
        self.weights_, self._notes = to_numpy(weights), {"inverse_error": error}
        return self

    def _inverse(self, gram: sparse.csr_array, runtime: Runtime) -> torch.Tensor:
        """float32 ``[N, N]`` of ``(gram + l2 I)^-1`` by its Cholesky factor."""
        dense = runtime.tensor(gram.toarray())
        dense.diagonal().add_(self.config.l2)
        factor, failed = torch.linalg.cholesky_ex(dense)
        del dense
        if failed.item():
            raise self._ill_conditioned("a matrix that is not positive definite in single precision")
        # LAPACK writes columns and products read rows: the transpose, which is the same matrix, saves a copy a block.
        return torch.cholesky_inverse(factor).mT.contiguous()

    def _check(self, gram: sparse.csr_array, inverse: torch.Tensor) -> float:
        n = len(inverse)
        columns = np.unique(np.linspace(0, n - 1, min(n, CHECKED_COLUMNS)).astype(np.int64))
        some = to_numpy(inverse[:, torch.as_tensor(columns, device=inverse.device)]).astype(np.float64)
        product = gram @ some + self.config.l2 * some
        product[columns, np.arange(len(columns))] -= 1.0
        error = float(np.abs(product).max())
        if not error <= TOLERANCE:
            raise self._ill_conditioned(f"an inverse that is wrong by {error:.1e}")
        return error

    def _ill_conditioned(self, got: str) -> InputError:
        return InputError(
            f"{self.name}: inverse of X^T X + l2 I",
            got=f"{got} with l2={self.config.l2:g}",
            wanted=f"an error of at most {TOLERANCE:g}",
            do="raise retriever.l2",
        )

    def _fitted(self) -> np.ndarray:
        if self.weights_ is None:
            raise self._not_fitted()
        return self.weights_

    def _catalogue_size(self) -> int:
        return len(self._fitted())

    def _scores(self, histories: Sequences) -> np.ndarray:
        weights = self._fitted()
        scores: np.ndarray = binary_matrix(histories, len(weights)) @ weights
        return scores

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"weights": self._fitted()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        weights = state.get("weights")
        if weights is None or set(state) != {"weights"} or weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise InputError(
                f"{self.name}: saved state", got=f"entries {sorted(state)}", wanted="weights [N, N]", do="fit it again"
            )
        self.weights_, self._notes = np.ascontiguousarray(weights, np.float32), {}
