"""DAS: semantic IDs aligned with de-biased collaborative vectors by six contrastive views.

"DAS: Dual-Aligned Semantic IDs Empowered Industrial Recommender System", arXiv 2508.10584. Three modules, trained
together: UISM, an RQ-VAE on each side, gives the quantised ``z_i`` of items and ``z_u`` of users; ICDM gives the
collaborative vectors ``c_u^int``, ``c_i^pro`` (``blocks/losses/collaborative_towers.py``); MDAM aligns them:

    z_u ~ c_i^pro,  c_u^int ~ z_i,  z_u ~ c_u^int,  z_i ~ c_i^pro,  z_u ~ z_u' (same item),  z_i ~ z_i' (same session)
    L = L_sem + alpha L_CF + beta L_align,   alpha = 1, beta = 0.5

Every term is a named part of the loss. Only the item side is kept: an item is encoded from its content alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import TokenizerInfo, usable_content
from sidbench.tokenizers.blocks.losses.collaborative_towers import Clicks, CollaborativeTowers, view_loss
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import (
    AutoencoderConfig,
    AutoencoderNet,
    FitData,
    Objective,
    ResidualAutoencoder,
)
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import Quantised
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches

INFO = TokenizerInfo(
    title="DAS: dual-aligned semantic IDs, six contrastive views",
    version=1,
    paper="arXiv 2508.10584",
    year=2025,
    url="https://arxiv.org/abs/2508.10584",
    bibtex="@misc{das2025,\n"
    "  title={DAS: Dual-Aligned Semantic IDs Empowered Industrial Recommender System}, year={2025},\n"
    "  eprint={2508.10584}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2508.10584}}",
    modalities=("text", "vision", "sequences"),
    required=("text|vision", "sequences"),
    ordered=True,
    deviations=(
        "A user's content is the mean content embedding of the items in the training sequence; the paper has a language "
        "model summarise user profiles. Review texts are not read.",
        "An item's content is that of the suite's encoders; the paper has a language model summarise items first.",
        "Both sides have one width, codebook size and code length; the paper's embeddings are 1024 and 256 wide.",
        "Branches are tables of user and item numbers, as public data have no other tower features.",
        "The biased click loss corrects the in-batch negatives for frequency, the unbiased one does not, which makes "
        "them score p(i|u) and p(i|u)/p(i).",
        "Conformity and popularity are supervised by log2 buckets of click counts; all terms of L_CF weigh 1.",
        "Contrast uses cosine similarity, temperature 0.07, both directions, the mean of six views; the paper gives no "
        "temperature.",
        "Co-clicked items are at most 3 steps apart in one training sequence.",
        "The towers are trained before the joint training starts; the paper trains all modules at once.",
        "The last state is kept, as held-out reconstruction does not see the alignment.",
        "Optimiser, k-means start and unquantised warm-up are those of rqvae.",
    ),
)

SMALL_BUDGETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"steps": 60, "warmup_steps": 10, "tower_steps": 30},
    "quick": {"steps": 1000, "warmup_steps": 100, "tower_steps": 1000, "batch_size": 256},
}


@dataclass(frozen=True)
class DasConfig(AutoencoderConfig):
    """Settings of DAS; both RQ-VAEs share those of ``AutoencoderConfig``, the towers have its latent width."""

    validation_share: float = setting(0.0, "fitted items held out to choose the state; 0: the last", low=0, high=0.5)
    alpha: float = setting(1.0, "weight of L_CF", low=0, high=100, paper=1)
    align_weight: float = setting(0.5, "beta, weight of L_align", low=0, high=100, paper=0.5, sweep=(0.1, 0.5, 1.0))
    contrast_temperature: float = setting(0.07, "of the click losses and the views", low=1e-3, high=10)
    window: int = setting(3, "co-clicked items: at most this many steps apart", unit="events", low=1, high=50)
    tower_steps: int = setting(5000, "optimiser steps of the towers alone", unit="steps", low=1, high=10_000_000)


class Das(ResidualAutoencoder):
    """DAS; ``net_`` is the item side."""

    info = INFO
    config_class = DasConfig
    budgets = {**ResidualAutoencoder.budgets, **SMALL_BUDGETS}

    def objective(self, data: FitData, features: ItemFeatures, rng: Rng, runtime: Runtime) -> DasObjective:
        c: DasConfig = self.config
        if len(features.sequences.items) == 0:
            raise InputError(
                f"{self.name}: training sequences",
                got="no event",
                wanted="clicks of users",
                do="choose a data set with interactions, or --tokenizer rqvae",
            )
        rows, users = user_content(features.sequences, usable_content(features, self.name))
        if c.codebook_size > len(rows):
            raise InputError(
                f"{self.name}: codebook_size",
                got=c.codebook_size,
                do="lower tokenizer.codebook_size",
                wanted=f"at most the {len(rows)} users with training events",
            )
        clicks = Clicks.of(features.sequences, features.n_items, runtime)
        generator = runtime.generator(rng.child("other modules"))
        side = UserSide.of(runtime.tensor(rows), runtime.tensor(users), c, generator, rng.child("users"))
        towers = CollaborativeTowers(clicks, c.latent_dim, c.contrast_temperature, generator)
        return DasObjective(self.net_, data, rng, c, side, towers, clicks)

    def start(self, objective: Objective, rng: Rng, runtime: Runtime) -> None:
        super().start(objective, rng, runtime)
        if not isinstance(objective, DasObjective):
            return
        c, users = self.config, objective.users
        latents = users.net.latents(users.content)
        users.net.quantiser.initialise(latents, rng.child("kmeans", "users"), runtime, c.codebook_start)
        users.quantised = True
        batches = ShuffledBatches(len(objective.clicks), c.batch_size, rng.child("batches", "towers"), runtime)
        log = runtime.train(
            TrainingPlan(
                name=f"{self.name}.towers",
                model=objective.towers,
                steps_per_epoch=c.tower_steps,
                epochs=1,
                batch=batches,
                loss=objective.tower_loss,
                rng=rng.child("noise", "towers"),
                learning_rate=c.learning_rate,
                weight_decay=c.weight_decay,
                warmup_steps=min(c.warmup_steps, c.tower_steps // 4),
                batch_setting=("batch_size", c.batch_size),
            )
        )
        self._diagnostics |= {f"towers_{name}": value for name, value in log.parts.items()}


class UserSide(Objective):
    """The RQ-VAE of users; ``value`` float ``[B, d]`` holds the quantised latents of the latest batch."""

    value: Tensor

    @staticmethod
    def of(rows: Tensor, content: Tensor, config: DasConfig, generator: torch.Generator, rng: Rng) -> UserSide:
        """The side of users ``rows`` int64 ``[n]`` with content ``[n, D_c]``."""
        net = AutoencoderNet(config, content.shape[1], generator)
        net.scale.fill_(1 / max(float(content.square().mean().sqrt()), 1e-12))
        return UserSide(net, FitData(rows, content, content[:0], {}, int(rows.max()) + 1), rng, config)

    def extra(self, rows: Tensor, z: Tensor, quantised: Quantised, step: int) -> Mapping[str, Tensor]:
        self.value = quantised.value
        return {}


class DasObjective(Objective):
    """``L_sem + alpha L_CF + beta L_align`` on batches of items, each with a click on it, and on as many other clicks."""

    def __init__(
        self,
        net: AutoencoderNet,
        data: FitData,
        rng: Rng,
        config: DasConfig,
        users: UserSide,
        towers: CollaborativeTowers,
        clicks: Clicks,
    ) -> None:
        super().__init__(net, data, rng, config)
        self.users, self.towers, self.clicks = users, towers, clicks
        self.model = nn.ModuleDict({"item_side": net, "user_side": users.net, "towers": towers})
        self.item_row = _inverse(data.items, data.n_items)
        self.user_row = _inverse(users.data.items, len(clicks.first))
        self.draws = rng.child("draws")

    def tower_loss(self, chosen: Tensor, step: int) -> dict[str, Tensor]:
        """``L_CF`` of the clicks ``chosen``, unweighted, with its parts."""
        parts = self.towers.losses(self.clicks, chosen)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def loss(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        if self.quantised:
            return super().loss(rows, step)
        draw = self.draws.child("warm", step).numpy().integers(len(self.users.content), size=len(rows))
        users = self.users.loss(torch.as_tensor(draw, device=rows.device), step)["loss"]
        return {"loss": super().loss(rows, step)["loss"] + users}

    def extra(self, rows: Tensor, z: Tensor, quantised: Quantised, step: int) -> Mapping[str, Tensor]:
        c, clicks = self.config, self.clicks
        draw = torch.as_tensor(self.draws.child("joint", step).numpy().random((4, len(rows))), device=rows.device)
        click, present = clicks.of_items(self.data.items[rows], draw[0])
        other_user, has_user = clicks.of_another_user(click, draw[1])
        other_item, has_item = clicks.near(click, c.window, draw[2])
        has_item = has_item & (self.item_row[clicks.item[other_item]] >= 0)
        user, item = clicks.user[click], self.data.items[rows]
        semantic = self.users.loss(self.user_row[user], step)
        chosen = (draw[3] * len(clicks)).long()
        collaborative = self.towers.losses(clicks, chosen)
        views = self.views(
            item=(item, quantised.value),
            user=(user, self.users.value),
            other_item=(clicks.item[other_item], self._value(self, self.item_row[clicks.item[other_item]])),
            other_user=(clicks.user[other_user], self._value(self.users, self.user_row[clicks.user[other_user]])),
            present=present,
            has_user=present & has_user,
            has_item=present & has_item,
        )
        return {
            "user_reconstruction": semantic["reconstruction"],
            "user_quantiser": semantic["quantiser"],
            **{name: c.alpha * part for name, part in collaborative.items()},
            **{name: c.align_weight * part / len(views) for name, part in views.items()},
        }

    def views(
        self,
        item: tuple[Tensor, Tensor],
        user: tuple[Tensor, Tensor],
        other_item: tuple[Tensor, Tensor],
        other_user: tuple[Tensor, Tensor],
        present: Tensor,
        has_user: Tensor,
        has_item: Tensor,
    ) -> dict[str, Tensor]:
        """The six views of MDAM, unweighted.

        item, user, other_item, other_user: (number int64 ``[B]``, quantised vector ``[B, d]``). present bool ``[B]``: the
        item was clicked; has_user, has_item: a co-clicking user, a co-clicked item exists.
        """
        interest = (user[0], self.towers.branch("interest", user[0]))
        prop = (item[0], self.towers.branch("property", item[0]))
        item, prop, other_item = ((~number, vector) for number, vector in (item, prop, other_item))  # no user's number
        pairs = {
            "view_user_property": (user, prop, present),
            "view_interest_item": (interest, item, present),
            "view_user_interest": (user, interest, present),
            "view_item_property": (item, prop, present),
            "view_users": (user, other_user, has_user),
            "view_items": (item, other_item, has_item),
        }
        return {
            name: view_loss(one[1], two[1], (one[0], two[0]), exists, self.config.contrast_temperature)
            for name, (one, two, exists) in pairs.items()
        }

    @staticmethod
    def _value(side: Objective, rows: Tensor) -> Tensor:
        """Quantised latents ``[B, d]`` of rows of one side; a row -1, which takes no part, stands for the last."""
        value: Tensor = side.net.quantiser(side.net.encoder(side.inputs[rows])).value
        return value

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.users.after_step(step)

    def monitor(self) -> dict[str, Any]:
        users = self.users.monitor()
        return {**super().monitor(), "user_utilisation": users["utilisation"]}

    def state(self) -> dict[str, Any]:
        return {**super().state(), **{f"users_{name}": value for name, value in self.users.state().items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.users.load_state(
            {name.removeprefix("users_"): value for name, value in state.items() if name.startswith("users_")}
        )


def user_content(sequences: Sequences, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Users with events int64 ``[n]``, and the mean content float32 ``[n, D_c]`` of their items' rows ``[N, D_c]``."""
    rows = np.flatnonzero(sequences.lengths)
    ones = np.ones(len(sequences.items), np.float32)
    clicks = csr_array((ones, sequences.items.astype(np.int64), sequences.indptr), shape=(sequences.n_users, len(content)))
    sums = clicks @ content
    return rows, (sums[rows] / sequences.lengths[rows, None]).astype(np.float32)


def _inverse(numbers: Tensor, n: int) -> Tensor:
    """int64 ``[n]``: the place of each number in ``numbers``, -1 where it is not there."""
    places = torch.full((n,), -1, dtype=torch.int64, device=numbers.device)
    places[numbers] = torch.arange(len(numbers), device=numbers.device)
    return places
