"""Planted catalogue: the dataset that needs no file and no network, and whose truth is known.

One seed plants a category tree, item latents, titles, small pictures, Zipf popularity, users with interests in the
tree, and a first-order transition model of behaviour (equations in ``planted/transition_model.py``). Three things that real
data hide are therefore known: the right hierarchy, the exact next-item and like probabilities (bounds on Recall, NDCG and
AUC, see ``planted/oracle.py``), and which events are noise.

Deviation from real data: users may take an item twice. The model then depends on user and last item only, so the oracle
is exact; metrics that remove the history from the candidates are not bounded by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sidbench.datasets.base import (
    Catalog,
    Dataset,
    DatasetCard,
    DatasetInfo,
    DatasetPlugin,
    FileLocator,
    Interactions,
    PlantedTruth,
)
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.planted.events import MINIMUM_LENGTH, draw_events
from sidbench.datasets.planted.pictures import render_pictures
from sidbench.datasets.planted.texts import write_texts
from sidbench.datasets.planted.transition_model import TransitionModel, build_transition_model
from sidbench.datasets.planted.tree import build_tree

INFO = DatasetInfo(
    title="Synthetic: the planted catalogue with a known tree, transitions and noise",
    version=1,
    source="generated from the configured seed; no file, no network",
    licence="Apache-2.0",
    citation="sidbench, the planted catalogue",
    modalities=("text", "vision"),
    tasks=("retrieval", "ranking"),
    notes=("Users may take an item twice, so that the oracle is exact given user and last item.",),
)


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes and rates of the planted catalogue."""

    n_items: int = setting(1000, "items of the catalogue", unit="items", low=8)
    n_users: int = setting(3000, "users", unit="users", low=2)
    mean_length: float = setting(10.0, "mean events a user (5 at least)", unit="events", low=MINIMUM_LENGTH, high=1000)
    branching: tuple[int, ...] = setting((8, 4, 4), "children per node at each level of the category tree")
    zipf: float = setting(0.6, "exponent s of item popularity rank**-s", low=0.0, high=2.0)
    transition: float = setting(0.3, "share of events that follow item-to-item transitions", low=0.0, high=1.0)
    noise: float = setting(0.1, "share of events drawn by popularity alone", low=0.0, high=1.0)
    tail_noise: float = setting(0.3, "share of tail events replaced by a random tail item", low=0.0, high=1.0)
    picture_size: int = setting(24, "width and height of the pictures; 0 = no pictures", unit="pixels", low=0, high=224)
    seed: int = setting(0, "seed of the catalogue, separate from the run's seed", low=0)

    def __post_init__(self) -> None:
        check_settings(self)


class Synthetic(DatasetPlugin):
    """``load`` and ``truth`` are independent and pure in the config: either may be called first or alone."""

    info = INFO
    config_class = SyntheticConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"n_items": 200, "n_users": 300, "branching": (4, 3, 2)},
        "quick": {},
        "standard": {"n_items": 4000, "n_users": 12000},
        "paper": {"n_items": 4000, "n_users": 12000},
    }
    config: SyntheticConfig

    @property
    def _rng(self) -> Rng:
        return Rng(self.config.seed, ("synthetic",))

    @cached_property
    def _transition_model(self) -> TransitionModel:
        c = self.config
        tree = build_tree(c.n_items, tuple(c.branching), c.zipf, self._rng)
        return build_transition_model(tree, c.n_users, c.transition, c.noise, c.tail_noise, self._rng)

    @cached_property
    def _events(self) -> tuple[Interactions, np.ndarray]:
        return draw_events(self._transition_model, self.config.n_users, self.config.mean_length, self._rng)

    def load(self, locate: FileLocator) -> Dataset:
        """Generate the dataset; ``locate`` is not used. Raises ``InputError`` for a tree that does not fit."""
        c, tree = self.config, self._transition_model.tree
        events, noisy = self._events
        texts = write_texts(tree, self._rng)
        width = len(str(max(c.n_items, c.n_users) - 1))
        catalog = Catalog(
            keys=tuple(f"item{i:0{width}d}" for i in range(c.n_items)),
            text={"title": texts.title, "brand": texts.brand},
            categories=texts.categories,
            price=texts.price,
            image_arrays=render_pictures(tree, c.picture_size, self._rng) if c.picture_size else None,
        )
        pairs = np.unique(events.user.astype(np.int64) * c.n_items + events.item)
        counts = {
            "users": c.n_users,
            "items": c.n_items,
            "interactions": len(events),
            "leaf_categories": tree.n_leaves,
            "noisy_events": int(noisy.sum()),
            "repeated_pairs": len(events) - len(pairs),
            "items_without_interactions": c.n_items - len(np.unique(events.item)),
            "tail_items": int(tree.tail.sum()),
        }
        absent = {} if c.picture_size else {"vision": "picture_size is 0"}
        card = DatasetCard("synthetic", INFO.source, INFO.licence, INFO.citation, counts, absent=absent, notes=INFO.notes)
        return Dataset(events, catalog, tuple(f"user{u:0{width}d}" for u in range(c.n_users)), card)

    def truth(self) -> PlantedTruth:
        """The planted tree, laws and noise of the dataset that ``load`` gives with this config."""
        return PlantedTruth(
            self._transition_model.tree.path(),
            self._transition_model.next_item,
            self._transition_model.like,
            self._events[1],
        )
