"""What retrievers share: their network, how it is saved, and the frame around a ranking. A retriever itself is a network,
its training and its way to rank.

``SidRetriever`` reads the SIDs of any tokenizer and saves their layout; item-ID baselines are in ``item_retrieval``.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import MEAN, SAME, SUM, Retriever, TargetRanks
from sidbench.recommenders.blocks.sid_tables import CodeLayout, fused_rows
from sidbench.recommenders.blocks.states import TRAINING_COMBINE, load_into, numpy_state
from sidbench.recommenders.blocks.windows import check_histories, count_truncated
from sidbench.tokenizers.base import SemanticIds

Net = TypeVar("Net", bound=nn.Module)
Ranked = tuple[TargetRanks, dict[str, float]]


class NeuralRetriever(Retriever, Generic[Net]):
    """A retriever that is a network of class ``Net``, with a setting ``max_length``; errors begin with ``name``.

    ``fit`` sets ``network_`` and ``_notes``, the figures that ``diagnostics`` hands out.
    """

    diagnostic_combine: ClassVar[Mapping[str, str]] = {
        **TRAINING_COMBINE,
        "ms_per_user": MEAN,
        "truncated_histories": SUM,
        "embedding_parameters": SAME,
    }

    def __init__(self, config: Any = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.network_: Net | None = None
        self._notes: dict[str, float] = {}

    def _network(self) -> Net:
        if self.network_ is None:
            raise InputError(f"{self.name}: model", got="not fitted", wanted="fit or load_state_dict first")
        return self.network_

    def _measured(self, histories: Sequences, rank: Callable[[], Ranked]) -> TargetRanks:
        """What ``rank`` finds for ``histories``; its figures, its time and the histories cut go to the notes."""
        start = time.perf_counter()
        ranks, notes = rank()
        self._notes |= {
            **notes,
            "ms_per_user": 1e3 * (time.perf_counter() - start) / max(histories.n_users, 1),
            "truncated_histories": float(count_truncated(histories, self.config.max_length)),
        }
        return ranks

    def state_dict(self) -> dict[str, np.ndarray]:
        return numpy_state(self._network())

    def diagnostics(self) -> dict[str, float]:
        return dict(self._notes)

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self._network().parameters())


class SidRetriever(NeuralRetriever[Net]):
    """A retriever over SIDs. A plugin defines ``fit``, which starts with ``_begin``, ``_make_network`` and ``_ranked``.

    saves: names of the arrays in ``saved_``, which the model needs beside its network and layout. ``fit`` sets them before
    it makes the network; the state holds them, like the layout, under ``layout.<name>``.
    """

    saves: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.layout_: CodeLayout | None = None
        self.saved_: dict[str, np.ndarray] = {}

    @abstractmethod
    def _make_network(self, layout: CodeLayout) -> Net:
        """The network for SIDs of ``layout``; ``saved_`` is set."""

    @abstractmethod
    def _ranked(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        """What ``rank_targets`` gives for checked histories and targets, and figures of the search."""

    def _begin(self, sids: SemanticIds | None, n_items: int, runtime: Runtime) -> tuple[SemanticIds, CodeLayout, Tensor]:
        """What ``fit`` reads of the SIDs: themselves, their layout, and the fused rows int64 ``[N, L]`` of all items.

        Raises ``InputError`` when there are none, or those of another catalogue.
        """
        if sids is None:
            raise InputError(f"{self.name}: semantic IDs", got="none", wanted="SIDs of all items", do="name a tokenizer")
        layout = CodeLayout.of(sids)
        rows = runtime.tensor(fused_rows(layout, sids, n_items, self.name))
        self.layout_ = layout
        return sids, layout, rows

    def rank_targets(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds | None, runtime: Runtime
    ) -> TargetRanks:
        if sids is None or self.network_ is None:
            raise InputError(
                f"{self.name}: ranking",
                got="no semantic IDs" if sids is None else "no fitted model",
                wanted="SIDs of the whole catalogue and a fitted model",
                do="call fit first",
            )
        check_histories(histories, targets, sids.n_items)
        return self._measured(histories, lambda: self._ranked(histories, targets, sids, runtime))

    def _layout(self) -> CodeLayout:
        if self.layout_ is None:
            raise InputError(f"{self.name}: model", got="not fitted", wanted="fit or load_state_dict first")
        return self.layout_

    def state_dict(self) -> dict[str, np.ndarray]:
        layout = self._layout()
        return {
            **super().state_dict(),
            "layout.sizes": layout.sizes,
            "layout.has_pad": layout.has_pad,
            **{f"layout.{name}": self.saved_[name] for name in self.saves},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        missing = {f"layout.{name}" for name in ("sizes", "has_pad", *self.saves)} - set(state)
        if missing:
            raise InputError(f"{self.name}: saved state", got=f"no entry {min(missing)}", wanted=f"a state of {self.name}")
        layout = CodeLayout(state["layout.sizes"], state["layout.has_pad"].astype(bool))
        fresh = type(self)(self.config)  # so that a state refused below leaves this model as it was
        fresh.saved_ = {name: state[f"layout.{name}"] for name in self.saves}
        network = fresh._make_network(layout)
        load_into(network, {k: v for k, v in state.items() if not k.startswith("layout.")}, self.name)
        self.network_, self.layout_, self.saved_ = network, layout, fresh.saved_
