"""MMQ: shared and specific experts with a codebook each, then tuned through a recommender's loss.

"MMQ: Multimodal Mixture-of-Quantization Tokenization for Semantic ID Generation and User Behavioral Adaptation",
arXiv 2508.15281. Stage 1 trains shared experts on all modalities and specific experts on one each,

    L_1 = 12 L_recon + 10 L_aux + 0.005 L_ortho

with codes by largest cosine. Stage 2 lets a next-item model read the quantised vectors and sends its gradient to the
codes by index back-propagation,

    p = cos(z, C);  soft = softmax(p / tau);  ind = soft + sg(onehot(argmax p) - soft);  zq = ind C
    L_2 = L_down + 0.5 L_recon + 0.5 L_aux

after which the codes are fixed; the recommenders of the benchmark are trained from scratch on them, as on all others.
The network is in ``blocks/experts/expert_quantiser.py``, the next-item model in ``blocks/losses/next_item.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import (
    PAD,
    SemanticIds,
    Tokenizer,
    TokenizerConfig,
    TokenizerInfo,
    check_capacity,
    usable_content,
)
from sidbench.tokenizers.blocks.experts.expert_quantiser import ExpertQuantiser
from sidbench.tokenizers.blocks.experts.expert_slots import Batch, Layout, codebook_loss, live_figures, mix
from sidbench.tokenizers.blocks.experts.router_activity import experts_in_use
from sidbench.tokenizers.blocks.losses.alignment import mean_over
from sidbench.tokenizers.blocks.losses.next_item import HistoryWindows, NextItem
from sidbench.tokenizers.blocks.quantisers.dead_codes import DeadCodeRestart
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches
from sidbench.tokenizers.blocks.training.content import load_module

INFO = TokenizerInfo(
    title="MMQ: mixture of quantisation with behaviour-aware fine-tuning",
    version=1,
    paper="arXiv 2508.15281",
    year=2025,
    url="https://arxiv.org/abs/2508.15281",
    bibtex="@misc{mmq2025,\n"
    "  title={MMQ: Multimodal Mixture-of-Quantization Tokenization for Semantic ID Generation and User Behavioral\n"
    "         Adaptation},\n"
    "  year={2025}, eprint={2508.15281}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2508.15281}}",
    modalities=("text", "vision", "sequences"),
    required=("text|vision", "sequences"),
    ordered=False,
    deviations=(
        "Experts are square matrices after two-layer projections of each modality, which lets their weights be compared; "
        "the shared experts read the sum of the projections.",
        "Shared codes are summed and specific codes weighted by softmax gates of their modality, as in MMQ-v2.",
        "A codebook and commitment loss (weight 1, beta 0.25) is added to stage 1, which gives the codes no gradient.",
        "Reconstruction errors are divided by the mean squared norm of their modality.",
        "A third of the positions is shared and the rest split between the modalities (6: 2, 2 and 2).",
        "A missing modality leaves its positions to the other one; a position of a modality that an item lacks is PAD.",
        "The recommender of stage 2 is a GRU inside the tokenizer, with a softmax over the items of the batch; it is "
        "dropped after the fit and the benchmark trains its own on the fixed codes.",
        "tau of stage 2 is 0.1 and its learning rate 3e-4; the paper gives neither.",
        "Latents and chosen codes are brought to length 1 before they are summed.",
        "Codebooks start from spherical k-means after unquantised steps; dead codes restart in stage 1.",
    ),
)


@dataclass(frozen=True)
class MmqConfig(TokenizerConfig):
    """Settings of MMQ; ``tuning_…`` act with ``stages=2`` only."""

    stages: int = setting(2, "1: content only; 2: then tuned through a next-item loss", low=1, high=2, paper=2, sweep=(1, 2))
    n_shared: int | None = setting(
        None, "shared experts; none: a third of code_length", unit="codes", low=0, high=64, paper=2
    )
    recon_weight: float = setting(12.0, "of L_recon in stage 1", low=0, high=1000, paper=12)
    aux_weight: float = setting(10.0, "of L_aux in stage 1; 0: without it", low=0, high=1000, paper=10, sweep=(0.0, 10.0))
    ortho_weight: float = setting(
        0.005, "of L_ortho in stage 1; 0: without it", low=0, high=1000, paper=0.005, sweep=(0.0, 0.005)
    )
    commitment: float = setting(0.25, "beta of the commitment loss of stage 1", low=0, high=10, sweep=(0.1, 0.25, 1.0))
    restart_dead_codes: bool = setting(True, "replace unused codes by latents of the batch in stage 1")
    width: int = setting(256, "latent width d", unit="dimensions", low=2, high=4096, paper=256)
    steps: int = setting(20000, "steps of stage 1, the unquantised ones included", unit="steps", low=2, high=10_000_000)
    warm_steps: int = setting(300, "first steps, before the codebooks exist", unit="steps", low=1, high=100_000)
    warmup_steps: int = setting(500, "linear rise of the learning rate in each phase", unit="steps", low=0, high=100_000)
    batch_size: int = setting(1024, "items a step of stage 1", unit="items", low=1, high=1_000_000)
    learning_rate: float = setting(1e-3, "of AdamW", low=1e-8, high=1, sweep=(1e-4, 3e-3))
    tuning_steps: int = setting(5000, "steps of stage 2", unit="steps", low=1, high=10_000_000)
    tuning_users: int = setting(256, "histories a step of stage 2", unit="users", low=1, high=1_000_000)
    tuning_length: int = setting(20, "events of a history that are read", unit="events", low=1, high=1000)
    tuning_width: int = setting(128, "of the next-item model", unit="units", low=1, high=4096)
    tuning_content_weight: float = setting(0.5, "of L_recon and L_aux in stage 2", low=0, high=1000, paper=0.5)
    tuning_learning_rate: float = setting(3e-4, "of AdamW in stage 2", low=1e-8, high=1, sweep=(1e-4, 1e-3))
    temperature: float = setting(0.1, "tau of the soft indices", low=1e-3, high=10, sweep=(0.05, 0.1, 0.5))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_steps >= self.steps:
            raise InputError(
                "setting MmqConfig.warm_steps",
                got=self.warm_steps,
                do="lower tokenizer.warm_steps",
                wanted=f"fewer than steps={self.steps}",
            )
        if self.n_shared is not None and self.n_shared > self.code_length:
            raise InputError(
                "setting MmqConfig.n_shared",
                got=self.n_shared,
                do="lower tokenizer.n_shared",
                wanted=f"at most code_length={self.code_length}",
            )

    def slots(self, modalities: list[str]) -> dict[str, int]:
        """Experts by group: the shared ones, and the rest split between one or two modalities, text first."""
        shared = self.code_length // 3 if self.n_shared is None else self.n_shared
        first = -(-(self.code_length - shared) // len(modalities))
        return dict(zip(["shared", *modalities], [shared, first, self.code_length - shared - first], strict=False))


class Mmq(Tokenizer):
    """MMQ; ``net_`` is the trained network."""

    info = INFO
    config_class = MmqConfig
    budgets = {
        "smoke": {
            "steps": 60,
            "warm_steps": 20,
            "warmup_steps": 10,
            "width": 64,
            "tuning_steps": 30,
            "tuning_users": 64,
            "tuning_width": 32,
        },
        "quick": {
            "steps": 1500,
            "warm_steps": 300,
            "warmup_steps": 100,
            "batch_size": 256,
            "tuning_steps": 500,
            "tuning_users": 64,
        },
        "standard": {"steps": 20000, "tuning_steps": 5000},
        "paper": {"steps": 20000, "tuning_steps": 5000},
    }
    net_: ExpertQuantiser

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: MmqConfig = self.config
        rows = features.fit_rows(c.fit_items)
        check_capacity(c, len(rows), self.name)
        dims = _usable_dims(features)
        histories = HistoryWindows(features.sequences, c.tuning_length, rng.child("windows"), runtime)
        if c.stages == 2 and not len(histories):
            raise InputError(
                f"{self.name}: training sequences for stage 2",
                got="no user with two events",
                wanted="at least one",
                do="set tokenizer.stages=1 or choose a data set with histories",
            )
        for name in ("text", "vision"):
            if name not in dims:
                runtime.warn(
                    f"{self.name}: no {name} embeddings ({features.absent.get(name, 'not given')}); its positions go to "
                    "the other content modality."
                )
        self.net_ = _network(c, dims, runtime.generator(rng.child("init")))
        items = Batch.of(features, dims, runtime)
        fitted = items.take(runtime.tensor(rows))
        objective = Objective(c, self.net_, items, fitted, rng.child("restart"))
        warm = runtime.train(self._plan(f"{self.name}.warm", c.warm_steps, objective, rng, runtime))
        self.net_.start_codebooks(fitted, rng.child("kmeans"), runtime)
        objective.quantised = True
        log = runtime.train(self._plan(self.name, c.steps - c.warm_steps, objective, rng, runtime))
        self._diagnostics = {
            **{f"final_{name}": value for name, value in log.parts.items()},
            "warm_loss": warm.parts["loss"],
            "restarted_codes": float(objective.restart.restarted),
            "loss_reconstruction_stage_1": objective.native_loss(),
        }
        if c.stages == 2:
            self._tune(objective, histories, rng.child("tuning"), runtime)
        codes, gates, _ = self.net_.quantise_all(fitted)
        self._diagnostics |= {
            "loss_native": objective.native_loss(),
            **experts_in_use(to_numpy(torch.where(gates > 0, codes, PAD)), c.codebook_size, self.net_.layout.names()),
        }
        return self

    def _plan(self, name: str, steps: int, objective: Objective, rng: Rng, runtime: Runtime) -> TrainingPlan:
        c: MmqConfig = self.config
        batches = ShuffledBatches(len(objective.fitted), c.batch_size, rng.child("batches", name), runtime)
        return TrainingPlan(
            name=name,
            model=self.net_,
            steps_per_epoch=steps,
            epochs=1,
            batch=batches,
            loss=objective.stage_1,
            rng=rng.child("train", name),
            learning_rate=c.learning_rate,
            weight_decay=1e-4,
            warmup_steps=min(c.warmup_steps, steps // 4),
            schedule="cosine" if objective.quantised else "constant",
            after_step=objective.after_step,
            monitor=objective.monitor if objective.quantised else None,
            extra_state=objective.restart.state,
            load_extra_state=objective.restart.load_state,
            sharded=not (objective.quantised and c.restart_dead_codes),
            batch_setting=("batch_size", c.batch_size),
        )

    def _tune(self, objective: Objective, histories: HistoryWindows, rng: Rng, runtime: Runtime) -> None:
        """Stage 2: the network together with a next-item model on users' histories."""
        c, layout = self.config, self.net_.layout
        before = self.net_.quantise_all(objective.fitted)[0]
        model = NextItem(layout.n_slots * layout.width, c.tuning_width, runtime.generator(rng.child("init")))
        objective.next_item, objective.histories = model, histories
        batches = ShuffledBatches(len(histories), c.tuning_users, rng.child("batches"), runtime)
        log = runtime.train(
            TrainingPlan(
                name=f"{self.name}.tuning",
                model=nn.ModuleDict({"tokenizer": self.net_, "next_item": model}),
                steps_per_epoch=c.tuning_steps,
                epochs=1,
                batch=batches,
                loss=objective.stage_2,
                rng=rng.child("train"),
                learning_rate=c.tuning_learning_rate,
                weight_decay=1e-4,
                warmup_steps=min(c.warmup_steps, c.tuning_steps // 4),
                schedule="cosine",
                monitor=objective.monitor,
                batch_setting=("tuning_users", c.tuning_users),
            )
        )
        after, gates, _ = self.net_.quantise_all(objective.fitted)
        self._diagnostics |= {f"tuning_{name}": value for name, value in log.parts.items()}
        self._diagnostics["codes_moved_by_tuning"] = float(mean_over((after != before).float(), gates > 0))

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        net, layout = self.net_.to(runtime.device), self.net_.layout
        given = _usable_dims(features)
        if given != layout.dims:
            raise InputError(
                f"{self.name}: embeddings to encode",
                got=given,
                wanted=f"those of the fit, {dict(layout.dims)}",
                do="encode with the encoders of the fit, or fit again",
            )
        codes, gates, mixture = net.quantise_all(Batch.of(features, layout.dims, runtime))
        with torch.no_grad():
            reconstruction = {m: to_numpy(x) for m, x in net.decode(mixture).items()}
        return SemanticIds(
            codes=np.where(to_numpy(gates > 0), to_numpy(codes), PAD).astype(np.int32),
            sizes=np.full(layout.n_slots, layout.codebook_size, np.int32),
            ordered=False,
            weights=to_numpy(gates),
            reconstruction=reconstruction,
            position_names=layout.names(),
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        return {name: to_numpy(tensor) for name, tensor in self.net_.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        first = {m: f"project.{m}.0.weight" for m in ("text", "vision")}
        dims = {m: state[name].shape[1] for m, name in first.items() if name in state and state[name].ndim == 2}
        if not dims:
            raise InputError(
                f"{self.name} state",
                got=f"entries {sorted(state)}",
                wanted="projections of text or vision",
                do="fit the tokenizer again",
            )
        self.net_ = _network(self.config, dims, torch.Generator())
        load_module(self.net_, state, self.name)


class Objective:
    """The losses of both stages; ``quantised`` is False in the first ``warm_steps`` steps, when decoders see latents.

    Parameters: items: the catalogue. fitted: the items of stage 1.
    """

    next_item: NextItem
    histories: HistoryWindows

    def __init__(self, config: MmqConfig, net: ExpertQuantiser, items: Batch, fitted: Batch, rng: Rng) -> None:
        self.config, self.net, self.items, self.fitted, self.quantised = config, net, items, fitted, False
        self.energy = {
            m: mean_over(e.square().sum(1), fitted.available[m]).clamp(min=1e-12) for m, e in fitted.embeddings.items()
        }
        self.restart = DeadCodeRestart(net.codebook, rng, last_step=int(0.9 * (config.steps - config.warm_steps)))

    def stage_1(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        """``L_1`` and the codebook loss; rows int64 ``[B]`` of the fitted items."""
        c, net, batch = self.config, self.net, self.fitted.take(rows)
        encoded = net.encode(batch)
        value, used = encoded.latents, (encoded.gates > 0).T
        parts: dict[str, Tensor] = {}
        if self.quantised:
            codes, quantised = net.quantise(value)
            parts["vq"] = codebook_loss(value, quantised, used, c.commitment)
            self._last = (value.detach(), codes, used)
            value = value + (quantised - value).detach()
        recon, aux = self.content_losses(batch, value, encoded.gates)
        parts |= {
            "reconstruction": c.recon_weight * recon,
            "aux": c.aux_weight * aux,
            "orthogonality": c.ortho_weight * net.orthogonality(),
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def stage_2(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        """``L_2`` of the histories of users ``rows`` int64 ``[B]``; their items are encoded anew."""
        c, net, histories = self.config, self.net, self.histories.take(rows, step)
        taken = self.items.take(histories.items)
        batch = Batch(taken.embeddings, {m: a & histories.real for m, a in taken.available.items()}, taken.richness)
        encoded = net.encode(batch)
        quantised = net.quantise(encoded.latents, soft=True)[1]
        present = quantised * (encoded.gates > 0).T[..., None]  # [S, M, d], zero at PAD
        recon, aux = self.content_losses(batch, quantised, encoded.gates)
        parts = {
            "next_item": self.next_item.loss(present.transpose(0, 1).flatten(1), histories),
            "reconstruction": c.tuning_content_weight * recon,
            "aux": c.tuning_content_weight * aux,
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def content_losses(self, batch: Batch, value: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """``L_recon`` and ``L_aux`` of (quantised) latents ``[S, B, d]`` with gates ``[B, S]``."""
        return (
            self._error(batch, self.net.decode(mix(value, gates))),
            self._error(batch, self.net.decode_alone(value, gates)),
        )

    def _error(self, batch: Batch, decoded: Mapping[str, Tensor]) -> Tensor:
        """``mean_m ||e_m - e_hat_m||^2 / mean ||e_m||^2`` over the items that have modality m; 0 without any."""
        terms = [
            mean_over((batch.embeddings[m] - x).square().sum(1), batch.available[m]) / self.energy[m]
            for m, x in decoded.items()
        ]
        return torch.stack(terms).mean() if terms else batch.richness.new_zeros(())

    def native_loss(self) -> float:
        """``L_recon`` of all fitted items from their codes."""
        with torch.no_grad():
            return float(self._error(self.fitted, self.net.decode(self.net.quantise_all(self.fitted)[2])))

    def after_step(self, step: int) -> None:
        """The restart of dead codes."""
        if self.quantised and self.config.restart_dead_codes:
            latents, codes, used = self._last
            self.restart.after_step(latents, codes.T, used.T, step)

    def monitor(self) -> dict[str, float]:
        """Live figures on a sample of the fitted items."""
        codes, gates, _ = self.net.quantise_all(self.fitted.sample())
        return live_figures(codes, gates, self.net.layout.codebook_size)


def _usable_dims(features: ItemFeatures) -> dict[str, int]:
    """Modality -> width of text and vision; checks that there is one and that all values are finite."""
    usable_content(features, "mmq")
    dims = {m: n for m, n in features.dims().items() if m in ("text", "vision")}
    if not dims:
        raise InputError(
            "mmq: modalities",
            got=f"{sorted(features.modalities)}; absent: {dict(features.absent)}",
            wanted="text or vision or both",
            do="choose an encoder with features.text=… or features.vision=…",
        )
    return dims


def _network(config: MmqConfig, dims: Mapping[str, int], generator: torch.Generator) -> ExpertQuantiser:
    layout = Layout(dict(dims), config.slots(list(dims)), config.width, config.width, config.codebook_size)
    return ExpertQuantiser(layout, config.temperature, generator)
