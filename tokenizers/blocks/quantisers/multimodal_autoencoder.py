"""What tokenizers with one residually quantised autoencoder per modality share (RQ-VAE++, MM-RQ-VAE).

The towers are trained together on the sum of their losses. The codes of the modalities stand side by side, so positions
refine each other only within a modality. A position of a modality that an item lacks is PAD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, check_capacity
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import (
    MONITOR_ROWS,
    AutoencoderConfig,
    AutoencoderNet,
    FitData,
    Objective,
    train_in_two_phases,
)
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import Quantised
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.training.code_figures import collision_rate, utilisation
from sidbench.tokenizers.blocks.training.content import (
    finite_modality,
    load_module,
    usable_modality,
    widths_from_state,
    widths_state,
)

PRESENT = "present"


def split_levels(code_length: int, modalities: list[str], who: str) -> dict[str, int]:
    """Levels of each modality: an even share, the remainder one each to the first ones.

    Raises ``InputError`` when there are fewer positions than modalities.
    """
    if code_length < len(modalities):
        raise InputError(
            f"{who}: code_length",
            got=code_length,
            do=f"set tokenizer.code_length={len(modalities)} or more",
            wanted=f"one position or more for each of {', '.join(modalities)}",
        )
    share, rest = divmod(code_length, len(modalities))
    return {m: share + (i < rest) for i, m in enumerate(modalities)}


class MultimodalNet(nn.Module):
    """One ``AutoencoderNet`` per modality of ``widths`` (modality -> input width), in its order."""

    def __init__(self, config: AutoencoderConfig, widths: Mapping[str, int], generator: torch.Generator, who: str) -> None:
        super().__init__()
        self.levels = split_levels(config.code_length, list(widths), who)
        self.towers = nn.ModuleDict({m: AutoencoderNet(config, n, generator, self.levels[m]) for m, n in widths.items()})

    def tower(self, modality: str) -> AutoencoderNet:
        """The autoencoder of one modality."""
        found = self.towers[modality]
        if not isinstance(found, AutoencoderNet):
            raise TypeError(modality)
        return found

    def names(self) -> tuple[str, ...]:
        """One name per position: "text 1", "text 2", "behaviour"."""
        return tuple(m if n == 1 else f"{m} {i + 1}" for m, n in self.levels.items() for i in range(n))

    def encode(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> codes int64 ``[N, L_m]``, PAD where bool ``present [N]`` is False, of embeddings ``[N, D_m]``."""
        codes = {}
        for m, e in embeddings.items():
            tower, rows = self.tower(m), present[m].nonzero()[:, 0]
            codes[m] = torch.full((len(e), self.levels[m]), PAD, dtype=torch.int64, device=e.device)
            if len(rows):
                codes[m][rows] = tower.quantiser.encode(tower.latents(e[rows]))
        return codes


class Tower(Objective):
    """Loss of one modality; ``value``: quantised latents of the last batch, with gradient, ``None`` if it had no rows."""

    value: Tensor | None = None

    def extra(self, rows: Tensor, z: Tensor, quantised: Quantised, step: int) -> Mapping[str, Tensor]:
        self.value = quantised.value
        return {}

    def skip(self) -> None:
        """Take note of a batch without any item that has the modality."""
        self.value = self._last = None


class JointObjective(Objective):
    """Sum of the towers' losses over the items that have the modality, and of ``joint`` losses between towers.

    Parameters: data: modality -> rows of that modality for one and the same items, with ``side["present"]`` bool ``[n]``.
    """

    tower_class: ClassVar[type[Tower]] = Tower

    def __init__(self, net: MultimodalNet, data: Mapping[str, FitData], rng: Rng, config: Any) -> None:
        self.towers = {m: self.tower_class(net.tower(m), part, rng.child(m), config) for m, part in data.items()}
        self.nets, self.config = net, config
        self.present = {m: part.side[PRESENT] for m, part in data.items()}
        self.complete = {m: bool(present.all()) for m, present in self.present.items()}
        first = next(iter(data.values()))
        self.content = first.items[:, None]  # one row per fitted item
        self.validation = torch.cat([part.validation.new_ones(len(part.validation)) for part in data.values()])

    @property
    def quantised(self) -> bool:
        return all(tower.quantised for tower in self.towers.values())

    @quantised.setter
    def quantised(self, value: bool) -> None:
        for tower in self.towers.values():
            tower.quantised = value

    def joint(self, rows: Tensor) -> Mapping[str, Tensor]:
        """Named, already weighted losses between towers of rows int64 ``[B]``; read ``values`` for their latents."""
        return {}

    def values(self, rows: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> quantised latents ``[B, d]`` of the batch just seen (0 where absent) and bool ``[B]`` who has it."""
        found = {}
        for m, tower in self.towers.items():
            if tower.value is None:
                continue
            present, value = self.present[m][rows], tower.value
            if not self.complete[m]:
                value = value.new_zeros(len(rows), value.shape[1]).index_copy(0, present.nonzero()[:, 0], value)
            found[m] = (value, present)
        return found

    def loss(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for m, tower in self.towers.items():
            own = rows if self.complete[m] else rows[self.present[m][rows]]
            if not len(own):
                tower.skip()
                continue
            losses = tower.loss(own, step)
            parts |= {f"{name}_{m}": part for name, part in losses.items() if name != "loss" or len(losses) == 1}
        if self.quantised:
            parts |= self.joint(rows)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    @property
    def sharded(self) -> bool:
        return all(tower.sharded for tower in self.towers.values())

    def after_step(self, step: int) -> None:
        for tower in self.towers.values():
            tower.after_step(step)

    def validate(self) -> float:
        """Sum of the towers' held-out figures."""
        return sum(tower.validate() for tower in self.towers.values() if len(tower.validation))

    def monitor(self) -> dict[str, Any]:
        """Utilisation and collision rate of a fixed sample of the fitted items."""
        codes = self.nets.encode(
            {m: tower.content[:MONITOR_ROWS] for m, tower in self.towers.items()},
            {m: present[:MONITOR_ROWS] for m, present in self.present.items()},
        )
        joined = torch.cat(list(codes.values()), 1)
        return {"utilisation": utilisation(joined, self.config.codebook_size), "collision_rate": collision_rate(joined)}

    def state(self) -> dict[str, Any]:
        return {f"{m}/{name}": value for m, tower in self.towers.items() for name, value in tower.state().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for m, tower in self.towers.items():
            start = f"{m}/"
            tower.load_state({name.removeprefix(start): v for name, v in state.items() if name.startswith(start)})


class MultimodalAutoencoder(Tokenizer):
    """Base of tokenizers with one autoencoder per modality; ``net_`` is the trained network.

    ``objective_class``: the method's loss.
    """

    objective_class: ClassVar[type[JointObjective]] = JointObjective
    config_class: ClassVar[type[Any]] = AutoencoderConfig
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = NEURAL_BUDGETS
    net_: MultimodalNet

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c = self.config
        found, present = self._modalities(features)
        rows = features.fit_rows(c.fit_items)
        check_capacity(c, len(rows), self.name)
        held = np.stack([present[m][rows] for m in found]).any(0)
        self._diagnostics = {
            "fit_items_without_embedding": float((~held).sum()),
            **{f"fit_items_without_{m}": float((~present[m][rows]).sum()) for m in found},
        }
        rows = rows[held]
        check_capacity(c, len(rows), self.name)
        held_out = min(int(c.validation_share * len(rows)), len(rows) - c.codebook_size)
        order = rng.child("held out").numpy().permutation(rows)
        fitted, spare = order[held_out:], order[:held_out]
        for m in found:
            check_capacity(c, int(present[m][fitted].sum()), f"{self.name} ({m})")
        self.widths_ = {m: e.shape[1] for m, e in found.items()}
        self.net_ = MultimodalNet(c, self.widths_, runtime.generator(rng.child("init")), self.name)
        data = {
            m: FitData(
                runtime.tensor(fitted),
                runtime.tensor(e[fitted]),
                runtime.tensor(e[spare[present[m][spare]]]),
                {PRESENT: runtime.tensor(present[m][fitted])},
                features.n_items,
            )
            for m, e in found.items()
        }
        for m, part in data.items():
            mean_square = part.content[part.side[PRESENT]].square().mean()
            self.net_.tower(m).scale.fill_(1 / max(float(mean_square.sqrt()), 1e-12))
        objective = self.objective_class(self.net_, data, rng, c)
        self._diagnostics |= train_in_two_phases(
            self.name, self.net_, objective, c, lambda: self._start(data, rng, runtime), rng, runtime
        )
        codes = self.net_.encode({m: part.content for m, part in data.items()}, objective.present)
        self._diagnostics |= {
            "utilisation_fit": utilisation(torch.cat(list(codes.values()), 1), c.codebook_size),
            "restarted_codes": float(sum(tower.restart.restarted for tower in objective.towers.values())),
        }
        return self

    def _start(self, data: Mapping[str, FitData], rng: Rng, runtime: Runtime) -> None:
        for m, part in data.items():
            tower = self.net_.tower(m)
            latents = tower.latents(part.content[part.side[PRESENT]])
            tower.quantiser.initialise(latents, rng.child("kmeans", m), runtime, self.config.codebook_start)

    def _modalities(self, features: ItemFeatures) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Embeddings ``[N, D_m]`` and presence bool ``[N]`` of what the method reads; ``InputError`` if too little."""
        names = [m for m in features.ordered_names() if m in self.info.modalities]
        if "behaviour" not in names or len(names) < 2:
            raise InputError(
                f"{self.name}: modalities",
                got=f"{names or 'none'}; absent: {dict(features.absent)}",
                wanted="behaviour, and text or vision or both",
                do="choose encoders with features.behaviour=… and features.text=… or features.vision=…",
            )
        both = {m: usable_modality(features, m, self.name) for m in names}
        return {m: e for m, (e, _) in both.items()}, {m: present for m, (_, present) in both.items()}

    def _like_fit(self, features: ItemFeatures, runtime: Runtime) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Embeddings and presence on the device; items without any embedding count as vectors of zeros."""
        given = {m: n for m, n in features.dims().items() if m in self.info.modalities}
        if given != self.widths_:
            raise InputError(
                f"{self.name}: modalities to encode",
                got=given or "none",
                wanted=f"those of the fit, {self.widths_}",
                do="encode with the encoders of the fit, or fit again",
            )
        found = {m: finite_modality(features, m, self.name) for m in given}
        nothing = ~np.stack([features.available[m] for m in given]).any(0)
        if nothing.any():
            runtime.warn(
                f"{self.name}: {int(nothing.sum())} items have no embedding at all; they get the codes of vectors of zeros."
            )
        return (
            {m: runtime.tensor(rows) for m, rows in found.items()},
            {m: runtime.tensor(features.available[m] | nothing) for m in given},
        )

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c, net = self.config, self.net_.to(runtime.device)
        embeddings, present = self._like_fit(features, runtime)
        codes = net.encode(embeddings, present)
        reconstruction = {}
        for m, own in codes.items():
            decoded = net.tower(m).reconstruct(own.clamp(min=0)) * present[m][:, None]
            reconstruction[m] = to_numpy(decoded).astype(np.float32)
        return SemanticIds(
            codes=to_numpy(torch.cat(list(codes.values()), 1)).astype(np.int32),
            sizes=np.full(c.code_length, c.codebook_size, np.int32),
            ordered=False,
            reconstruction=reconstruction,
            position_names=net.names(),
        )

    def code_costs(self, features: ItemFeatures, runtime: Runtime) -> np.ndarray:
        """Distance of each item's residual at the last position to every code there, float32 ``[N, K]``; 0 at PAD."""
        net = self.net_.to(runtime.device)
        embeddings, present = self._like_fit(features, runtime)
        last = next(reversed(embeddings))
        tower = net.tower(last)
        costs = tower.quantiser.last_costs(tower.latents(embeddings[last])) * present[last][:, None]
        return to_numpy(costs).astype(np.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {**{name: to_numpy(t) for name, t in self.net_.state_dict().items()}, **widths_state(self.widths_)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.widths_ = widths_from_state(state, self.name)
        self.net_ = MultimodalNet(self.config, self.widths_, torch.Generator(), self.name)
        load_module(self.net_, state, self.name)
