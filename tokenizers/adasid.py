"""ADA-SID: adaptive alignment and a dynamic router for behaviour codes (MMQ-v2).

Xu et al., "MMQ-v2: Align, Denoise, and Amplify: Adaptive Behavior Mining for Semantic IDs Learning in Recommendation",
arXiv 2510.25622, equations 1-23; the later version of the same arXiv number calls the method ADC-SID. An item has
shared, text, vision and behaviour experts with one codebook each. Items with rich behaviour are aligned more strongly
(controller, eq. 14), and a ReLU router (eq. 18) under a sparsity regulariser (eqs. 19-23) decides how many behaviour
codes an item gets. No code of the authors is public; ``INFO.deviations`` lists how open symbols are read. The network
is in ``blocks/experts/adaptive_experts.py``, the contrastive losses and eq. 14 in ``blocks/losses/alignment.py``.

Stored positions are ``n_shared + n_text + n_vision + n_behaviour`` (8), of which ``code_length`` (6) are expected to be
in use; the rest are PAD. Each ablation of the paper is one setting: ``controller``, ``contrastive``, ``sparsity``,
``router``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo, check_capacity
from sidbench.tokenizers.blocks.experts.adaptive_experts import AdaptiveExperts
from sidbench.tokenizers.blocks.experts.adaptive_sparsity import SparsityController, router_figures
from sidbench.tokenizers.blocks.experts.expert_slots import Batch, Layout, codebook_loss, live_figures, mix
from sidbench.tokenizers.blocks.experts.router_activity import expert_figures, weight_curve
from sidbench.tokenizers.blocks.losses.alignment import adaptive_alignment, alignment_weight, mean_over
from sidbench.tokenizers.blocks.quantisers.dead_codes import DeadCodeRestart
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches
from sidbench.tokenizers.blocks.training.budgets import NEURAL_BUDGETS
from sidbench.tokenizers.blocks.training.content import finite_modality

INFO = TokenizerInfo(
    title="ADA-SID: adaptive alignment and dynamic behaviour routing",
    version=1,
    paper="Xu et al., MMQ-v2, arXiv 2510.25622",
    year=2025,
    url="https://arxiv.org/abs/2510.25622",
    bibtex="@misc{xu2025mmqv2,\n"
    "  title={MMQ-v2: Align, Denoise, and Amplify: Adaptive Behavior Mining for Semantic IDs Learning in Recommendation},\n"
    "  author={Xu and others}, year={2025}, eprint={2510.25622}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2510.25622}}",
    modalities=("text", "vision", "behaviour"),
    required=("behaviour", "text|vision"),
    ordered=False,
    variable_length=True,
    deviations=(
        "code_length is the expected number of codes in use, 3 content and 3 of 5 behaviour codes; 8 are stored.",
        "The quoted target 2/5 is read as a sparsity, 1 - (code_length - content slots) / n_behaviour.",
        "Eq. 5 maximises the cosine similarity; every expert has its own codebook.",
        "A codebook and commitment loss (weight 1, beta 0.25) is added, since eq. 11 gives the codes no gradient.",
        "Loss weights, widths and optimiser are not published: 0.1 for the alignment loss, AdamW 1e-3.",
        "g_b of eq. 7 is the router R(e_b), as in eq. 8.",
        "With one expert a modality the softmax gates of eqs. 9 and 10 equal 1 and are inert.",
        "h_c sums normalised projections; eq. 16 stays one-directional; w weighs the anchor.",
        "The base of eq. 20 is 1.2 as in ReMoE, not the alpha of eq. 14; 1.05 in the short budgets.",
        "The networks see each modality times the root of its width, lest all items cross the router's threshold at once.",
        "Sparsity targets and measures are batch means unless sparsity_groups > 1; theta is fitted so that the "
        "mean target is the quoted constant, without the second division of eq. 22.",
        "The load factor of eq. 23 is taken per expert with the quoted constant as target.",
        "Richness (eqs. 12, 13) comes with the features, which clip it and may replace the norm by a count.",
        "A missing content modality gives its positions to the other one and its contrastive terms are dropped.",
        "A position of a modality that an item lacks is PAD and has gate 0; the paper has no such items.",
        "Latents and chosen codes are brought to length 1 before eqs. 7 and 8, as the cosine of eq. 5 suggests.",
        "Eq. 11 is the mean over modalities of the squared error relative to the modality's mean squared norm.",
        "Codebooks start from spherical k-means of the latents after warm_steps steps without quantisation.",
        "Lambda starts at 1e-8 (1e-4 in the short budgets) and stays in [1e-8, 100]; the paper gives no start.",
        "Dead codes restart from latents of the batch; the paper does not say how full utilisation is reached.",
    ),
)

EMA_DECAY = 0.99


@dataclass(frozen=True)
class AdaSidConfig(TokenizerConfig):
    """Settings of ADA-SID; ``code_length`` counts expected codes in use, not stored positions."""

    code_length: int = setting(
        6, "expected codes in use per SID", unit="codes", low=1, high=64, paper=6, sweep=(4, 5, 6, 7, 8)
    )
    n_shared: int = setting(1, "shared experts", unit="codes", low=0, high=16, paper=1)
    n_text: int = setting(1, "text experts", unit="codes", low=1, high=16, paper=1)
    n_vision: int = setting(1, "vision experts", unit="codes", low=1, high=16, paper=1)
    n_behaviour: int = setting(5, "behaviour experts", unit="codes", low=1, high=64, paper=5, sweep=(3, 5, 8))
    controller: bool = setting(True, "alignment strength by richness, eq. 14; off: w = 1", paper=True)
    contrastive: bool = setting(True, "alignment losses, eqs. 15-17; off: dropped", paper=True)
    sparsity: bool = setting(True, "sparsity regulariser, eqs. 19-23; off: dropped", paper=True)
    router: str = setting(
        "behaviour",
        "gates of behaviour codes: eq. 18, or softmax without padding and regulariser",
        choices=("behaviour", "softmax"),
        paper="behaviour",
    )
    alpha: float = setting(10.0, "slope of eq. 14", low=0, high=100, paper=10, sweep=(5.0, 20.0))
    beta: float = setting(9.0, "offset of eq. 14", low=-100, high=100, paper=9, sweep=(3.0, 14.0))
    richness_gate: str = setting(
        "sigmoid",
        "popularity factor of eq. 18: sigma(N) as printed, eq. 14, or N",
        choices=("sigmoid", "curve", "linear"),
        paper="sigmoid",
    )
    target_active_fraction: float | None = setting(
        None,
        "behaviour codes in use over n_behaviour; none: (code_length - content slots) / n_behaviour",
        low=0.01,
        high=1,
        paper=0.6,
        sweep=(0.2, 0.4, 0.6, 0.8),
    )
    sparsity_groups: int = setting(
        1, "richness quantile groups with a lambda and target of their own", unit="groups", low=1, high=16, sweep=(1, 4)
    )
    theta: str = setting(
        "matched", "factor of eq. 22: the mean target is the quoted constant, or theta is it", choices=("matched", "quoted")
    )
    sparsity_base: float = setting(
        1.2,
        "base of eq. 20; a large one overshoots the target before it settles",
        low=1.0001,
        high=10,
        paper=10,
        sweep=(1.02, 1.2),
    )
    sparsity_start: float = setting(1e-8, "first lambda of eq. 20", low=1e-8, high=100, sweep=(1e-8, 1e-2))
    align_weight: float = setting(0.1, "weight of the alignment loss", low=0, high=100, sweep=(0.01, 0.1, 1.0))
    temperature: float = setting(0.07, "of eqs. 15 and 16", low=1e-3, high=10, paper=0.07)
    vq: str = setting(
        "gradient",
        "how codes move: codebook loss, moving average, index back-propagation",
        choices=("gradient", "ema", "ibq"),
    )
    commitment: float = setting(0.25, "beta of the commitment loss", low=0, high=10, sweep=(0.1, 0.25, 1.0))
    restart_dead_codes: bool = setting(True, "replace unused codes by latents of the batch")
    width: int = setting(256, "latent width d", unit="dimensions", low=2, high=4096)
    hidden: int = setting(512, "hidden width of an expert", unit="units", low=2, high=8192)
    steps: int = setting(20000, "optimiser steps, the unquantised ones included", unit="steps", low=2, high=10_000_000)
    warm_steps: int = setting(300, "first steps, before the codebooks exist", unit="steps", low=1, high=100_000)
    warmup_steps: int = setting(
        500, "linear rise of the learning rate in each of the two phases", unit="steps", low=0, high=100_000
    )
    batch_size: int = setting(1024, "items a step", unit="items", low=1, high=1_000_000)
    learning_rate: float = setting(1e-3, "of AdamW", low=1e-8, high=1, sweep=(1e-4, 3e-3))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_steps >= self.steps:
            raise InputError(
                "setting AdaSidConfig.warm_steps",
                got=self.warm_steps,
                do="lower tokenizer.warm_steps",
                wanted=f"fewer than steps={self.steps}",
            )
        if not 0 < self.active_fraction <= 1:
            low, high = self.n_content + 1, self.n_content + self.n_behaviour
            raise InputError(
                "setting AdaSidConfig.code_length",
                got=self.code_length,
                wanted=f"{low}..{high}, {self.n_content} content codes and 1 to {self.n_behaviour} behaviour codes in use",
                do="change tokenizer.code_length, n_behaviour or n_shared",
            )

    @property
    def n_content(self) -> int:
        """Positions that every item fills."""
        return self.n_shared + self.n_text + self.n_vision

    @property
    def active_fraction(self) -> float:
        """``1 - s_bar``, target share of the behaviour positions that are in use."""
        if self.target_active_fraction is not None:
            return self.target_active_fraction
        return (self.code_length - self.n_content) / self.n_behaviour


class AdaSid(Tokenizer):
    """ADA-SID; ``net_`` is the trained network."""

    info = INFO
    config_class = AdaSidConfig
    budgets = {
        # From 1e-8 by factors of 1.2 lambda overshoots and the router needs more steps to settle than these two have.
        "smoke": {
            "steps": 60,
            "warmup_steps": 10,
            "warm_steps": 20,
            "width": 64,
            "hidden": 128,
            "sparsity_base": 1.05,
            "sparsity_start": 1e-4,
        },
        "quick": {
            "steps": 2000,
            "batch_size": 256,
            "warmup_steps": 100,
            "warm_steps": 300,
            "sparsity_base": 1.05,
            "sparsity_start": 1e-4,
        },
        "standard": NEURAL_BUDGETS["standard"],
        "paper": NEURAL_BUDGETS["paper"],
    }
    net_: AdaptiveExperts

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: AdaSidConfig = self.config
        rows = features.fit_rows(c.fit_items)
        check_capacity(c, len(rows), self.name)
        dims = _usable_dims(features)
        for name in ("text", "vision"):
            if name not in dims:
                runtime.warn(
                    f"{self.name}: no {name} embeddings ({features.absent.get(name, 'not given')}); its positions "
                    "go to the other content modality and L_content (eq. 15) is dropped."
                )
        data = Batch.of(features, dims, runtime, rows)
        self.net_ = _network(c, dims, runtime.generator(rng.child("init")))
        objective = Objective(c, self.net_, data, rng.child("restart"))
        warm = runtime.train(self._plan(f"{self.name}.warm", c.warm_steps, objective, rng, runtime))
        self.net_.start_codebooks(data, rng.child("kmeans"), runtime)
        objective.quantised = True
        log = runtime.train(self._plan(self.name, c.steps - c.warm_steps, objective, rng, runtime))
        self._diagnostics = {
            **{f"final_{name}": value for name, value in log.parts.items()},
            "warm_loss": warm.parts["loss"],
            "lambda_final": float(objective.controller.strength.mean()),
            "restarted_codes": float(objective.restart.restarted),
            "loss_native": objective.native_loss(),
            **router_figures(self.net_, data, objective.weight(data), features.train_counts[rows], rng.child("noise")),
            **expert_figures(self.net_, data, objective.weight(data), features.train_counts[rows]),
            **(weight_curve(c.alpha, c.beta) if c.controller else {}),
        }
        return self

    def _plan(self, name: str, steps: int, objective: Objective, rng: Rng, runtime: Runtime) -> TrainingPlan:
        c: AdaSidConfig = self.config
        batches = ShuffledBatches(len(objective.data), c.batch_size, rng.child("batches", name), runtime)
        return TrainingPlan(
            name=name,
            model=self.net_,
            steps_per_epoch=steps,
            epochs=1,
            batch=batches,
            loss=objective.loss,
            rng=rng.child("train", name),
            learning_rate=c.learning_rate,
            weight_decay=1e-4,
            warmup_steps=min(c.warmup_steps, steps),
            schedule="cosine" if objective.quantised else "constant",
            after_step=objective.after_step,
            monitor=objective.monitor,
            extra_state=objective.state,
            load_extra_state=objective.load_state,
            sharded=False,  # lambda follows the sparsity that batches show; moving averages and restarts their latents
            batch_setting=("batch_size", c.batch_size),
        )

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        net, layout = self.net_.to(runtime.device), self.net_.layout
        given = _usable_dims(features)
        if any(given.get(m) != n for m, n in layout.dims.items()):
            raise InputError(
                f"{self.name}: embeddings to encode",
                got=given,
                wanted=f"the fitted ones, {dict(layout.dims)}",
                do="encode with the encoders of the fit, or fit again",
            )
        data = Batch.of(features, layout.dims, runtime)
        codes, gates, mixture = net.quantise_all(data)
        with torch.no_grad():
            reconstruction = {m: to_numpy(x) for m, x in net.decode(mixture).items()}
        used = to_numpy(gates > 0)
        return SemanticIds(
            codes=np.where(used, to_numpy(codes), PAD).astype(np.int32),
            sizes=np.full(layout.n_slots, layout.codebook_size, np.int32),
            ordered=False,
            weights=to_numpy(gates),
            reconstruction=reconstruction,
            position_names=layout.names(),
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        return {name: to_numpy(tensor) for name, tensor in self.net_.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        first = {m: f"project.{m}.0.weight" for m in ("text", "vision", "behaviour")}
        dims = {m: state[name].shape[1] for m, name in first.items() if name in state and state[name].ndim == 2}
        if "behaviour" not in dims or len(dims) < 2:
            raise InputError(
                f"{self.name} state",
                got=f"projections of {sorted(dims) or 'no modality'}",
                wanted="behaviour and text or vision",
                do="fit the tokenizer again",
            )
        net = _network(self.config, dims, torch.Generator())
        wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        for name in sorted(wanted.keys() | state.keys()):
            got = tuple(state[name].shape) if name in state else "nothing"
            if got != wanted.get(name):
                raise InputError(
                    f"{self.name} state entry {name}",
                    got=got,
                    wanted=str(wanted.get(name, "no such entry")),
                    do="load it with the config it was fitted with",
                )
        net.load_state_dict({name: torch.as_tensor(np.array(array)) for name, array in state.items()})
        self.net_ = net.eval()


class Objective:
    """The loss of one fit and what changes between steps: lambda (eq. 20), moving averages, dead codes.

    Parameters: data: the fit items. ``quantised`` is False during the first ``warm_steps`` steps, when the decoder sees
    ``z`` itself.
    """

    def __init__(self, config: AdaSidConfig, net: AdaptiveExperts, data: Batch, rng: Rng) -> None:
        self.config, self.net, self.data, self.quantised = config, net, data, False
        self.controller = SparsityController(
            data.richness,
            1 - config.active_fraction,
            config.n_behaviour,
            n_groups=config.sparsity_groups,
            theta=config.theta,
            base=config.sparsity_base,
            start=config.sparsity_start,
        )
        self.energy = {
            m: mean_over(e.square().sum(1), data.available[m]).clamp(min=1e-12) for m, e in data.embeddings.items()
        }
        self.restart = DeadCodeRestart(net.codebook, rng, last_step=int(0.9 * (config.steps - config.warm_steps)))

    def loss(self, rows: Tensor, step: int) -> dict[str, Tensor]:
        """``L = L_recon + L_vq + align_weight L_al + L_reg``; rows int64 ``[B]``."""
        c, net, batch = self.config, self.net, self.data.take(rows)
        encoded = net.encode(batch)
        mixture = mix(encoded.latents, encoded.gates)  # (7)
        parts: dict[str, Tensor] = {}
        if self.quantised:
            codes, quantised = net.quantise(encoded.latents, soft=c.vq == "ibq")  # (5)
            used = (encoded.gates > 0).T
            parts["vq"] = codebook_loss(encoded.latents, quantised, used, c.commitment)  # (A3)
            self._last = (encoded.latents.detach(), codes, used)
            mixed = mix(quantised, encoded.gates)  # (8)
            mixture = mixed if c.vq == "ibq" else mixture + (mixed - mixture).detach()
        parts["reconstruction"] = self.reconstruction_loss(batch, net.decode(mixture))  # (11)
        if c.contrastive:
            parts["alignment"] = c.align_weight * adaptive_alignment(  # (17)
                encoded.projected, batch.available, self.weight(batch), c.temperature
            )
        if c.sparsity and c.router == "behaviour":
            present = batch.available["behaviour"]
            parts["sparsity"] = self.controller.loss(encoded.router, self.controller.group[rows], present)  # (19)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def reconstruction_loss(self, batch: Batch, decoded: Mapping[str, Tensor]) -> Tensor:
        """``mean_m ||e_m - e_hat_m||^2 / mean ||e_m||^2`` over the items that have modality m."""
        terms = [
            mean_over((e - decoded[m]).square().sum(1), batch.available[m]) / self.energy[m]
            for m, e in batch.embeddings.items()
        ]
        return torch.stack(terms).mean()

    def weight(self, batch: Batch) -> Tensor:
        """Alignment strength w ``[B]`` of each item, eq. 14; 1 without controller."""
        c = self.config
        return alignment_weight(batch.richness, c.alpha, c.beta) if c.controller else torch.ones_like(batch.richness)

    def native_loss(self) -> float:
        """``L_recon`` of all fit items from their codes."""
        with torch.no_grad():
            return float(self.reconstruction_loss(self.data, self.net.decode(self.net.quantise_all(self.data)[2])))

    def after_step(self, step: int) -> None:
        """Eq. 20, the moving averages of ``vq="ema"`` and the restart of dead codes."""
        if self.config.sparsity and self.config.router == "behaviour":
            self.controller.update()
        if not self.quantised:
            return
        latents, codes, used = self._last
        if self.config.vq == "ema":
            self.net.move_codebooks(latents, codes, used, EMA_DECAY)
        if self.config.restart_dead_codes:
            self.restart.after_step(latents, codes.T, used.T, step)

    def monitor(self) -> dict[str, float]:
        """Live figures on a sample of the fit items."""
        codes, gates, _ = self.net.quantise_all(self.data.sample())
        figures = {"mean_active": float((gates > 0).float().sum(1).mean()), "lambda": float(self.controller.strength.mean())}
        return {**figures, **live_figures(codes, gates, self.net.layout.codebook_size)} if self.quantised else figures

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the network."""
        return {"strength": self.controller.strength, **self.restart.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore ``state``."""
        self.controller.strength = state["strength"]
        self.restart.load_state(state)


def _usable_dims(features: ItemFeatures) -> dict[str, int]:
    """Modality -> width of text, vision and behaviour, in this order; checks that they suffice and are finite."""
    dims = {m: n for m, n in features.dims().items() if m in INFO.modalities}
    if "behaviour" not in dims or len(dims) < 2:
        raise InputError(
            "adasid: modalities",
            got=f"{sorted(dims) or 'none'}; absent: {dict(features.absent)}",
            wanted="behaviour, and text or vision or both",
            do="choose encoders with features.behaviour=… and features.text=… or features.vision=…",
        )
    for m in dims:
        finite_modality(features, m, "adasid")
    return dims


def _network(config: AdaSidConfig, dims: Mapping[str, int], generator: torch.Generator) -> AdaptiveExperts:
    """The network for the modalities in ``dims``; a missing content modality leaves its slots to the other (A37)."""
    c = config
    slots = {"shared": c.n_shared, "text": c.n_text, "vision": c.n_vision, "behaviour": c.n_behaviour}
    for missing, heir in (("text", "vision"), ("vision", "text")):
        if missing not in dims:
            slots[heir] += slots.pop(missing)
    layout = Layout(dict(dims), slots, c.width, c.hidden, c.codebook_size)
    net = AdaptiveExperts(layout, generator, router=c.router, richness_gate=c.richness_gate, alpha=c.alpha, beta=c.beta)
    net.codebook.requires_grad_(c.vq != "ema")
    return net
