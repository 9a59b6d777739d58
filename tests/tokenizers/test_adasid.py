"""ADA-SID: equations against hand-worked numbers, the router on planted data, ablations, missing data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.adasid import INFO, AdaSid, AdaSidConfig, Objective, _network
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.experts.adaptive_experts import AdaptiveExperts
from sidbench.tokenizers.blocks.experts.adaptive_sparsity import SparsityController, sparsity_targets
from sidbench.tokenizers.blocks.experts.expert_slots import Batch, mix
from sidbench.tokenizers.blocks.losses.alignment import adaptive_alignment, alignment_weight, info_nce, symmetric_info_nce

DIMS = {"text": 12, "vision": 10, "behaviour": 8}
COLD = 5


def make_features(dims: dict[str, int] = DIMS, n: int = 300) -> ItemFeatures:
    """Items of one latent space; the last ``COLD`` items were never trained and have no behaviour embedding."""
    draw = np.random.default_rng(3)
    latent = draw.normal(size=(n, 4))
    counts = 1 + (draw.pareto(1.0, n) * 4).astype(np.int64)
    counts[-COLD:] = 0
    modalities, available = {}, {}
    for name, width in dims.items():
        available[name] = counts > 0 if name == "behaviour" else np.ones(n, bool)
        raw = np.tanh(latent @ draw.normal(size=(4, width))) + 0.2 * draw.normal(size=(n, width))
        modalities[name] = scale_modality(name, raw.astype(np.float32), available[name], n)[0]
    richness = (np.log1p(counts) / np.log1p(counts.max())).astype(np.float32)
    none = Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32))
    absent = {m: "not in this test" for m in DIMS if m not in dims}
    return ItemFeatures(modalities, available, counts, richness, "log_count", none, absent=absent)


def small(**changes: Any) -> AdaSidConfig:
    base: dict[str, Any] = {
        "codebook_size": 12,
        "width": 16,
        "hidden": 24,
        "steps": 24,
        "warm_steps": 8,
        "warmup_steps": 2,
        "batch_size": 64,
    }
    return AdaSidConfig(**{**base, **changes})


def objective_of(runtime: LocalRuntime, features: ItemFeatures | None = None, **changes: Any) -> Objective:
    features, config = features or make_features(), small(**changes)
    net = _network(config, features.dims(), runtime.generator(Rng(1)))
    data = Batch.of(features, features.dims(), runtime, features.fit_rows("train"))
    objective = Objective(config, net, data, Rng(2))
    objective.quantised = True
    return objective


@pytest.fixture(scope="module")
def runtime() -> LocalRuntime:
    return local_runtime()


@pytest.fixture(scope="module")
def fitted(runtime: LocalRuntime) -> AdaSid:
    return AdaSid(small()).fit(make_features(), Rng(0), runtime)


# -- equations -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (10, 9, [0.0002, 0.0005, 0.0012, 0.0034, 0.0092, 0.0246, 0.0649, 0.1631, 0.3679, 0.6839, 1]),
        (20, 7, [0.0009, 0.0067, 0.0474, 0.2689, 0.7311, 0.9526, 0.9933, 0.9991, 0.9999, 1, 1]),
        (20, 9, [0.0001, 0.0009, 0.0067, 0.0474, 0.2689, 0.7311, 0.9526, 0.9933, 0.9991, 0.9999, 1]),
        (20, 14, [0, 0, 0, 0.0003, 0.0025, 0.0180, 0.1195, 0.5012, 0.8830, 0.9844, 1]),
    ],
)
def test_alignment_weight_is_the_curve_of_equation_14(alpha: float, beta: float, expected: list[float]) -> None:
    weight = alignment_weight(torch.linspace(0, 1, 11), alpha, beta).numpy()
    assert weight == pytest.approx(expected, abs=6e-5)


def test_alignment_weight_at_the_ends() -> None:
    at_zero, at_ninety, at_one = alignment_weight(torch.tensor([0.0, 0.9, 1.0]), 10, 9).tolist()
    assert at_zero <= 2e-4
    assert at_ninety == pytest.approx(0.684, abs=5e-4)
    assert at_one == pytest.approx(1.0, abs=1e-6)


def test_record_holds_router_figures(fitted: AdaSid, runtime: LocalRuntime) -> None:
    figures = fitted.diagnostics()
    wanted = {f"{name}_count_q{q}" for q in range(1, 5) for name in ("mean_active_behaviour", "mean_weight")}
    assert wanted | {"dead_expert_share", "code_use_behaviour_5", "w_at_0.9"} <= set(figures)
    active = [figures[f"mean_active_behaviour_count_q{q}"] for q in range(1, 5)]
    assert np.mean(active) == pytest.approx(figures["mean_active_behaviour"], abs=0.05)
    weights = [figures[f"mean_weight_count_q{q}"] for q in range(1, 5)]
    assert weights == sorted(weights)  # richness is the logarithm of the count here
    without = AdaSid(small(controller=False)).fit(make_features(), Rng(0), runtime).diagnostics()
    assert "w_at_0.9" not in without


def numpy_cross_entropy(similarity: np.ndarray, present: np.ndarray) -> np.ndarray:
    """-log softmax of the diagonal by plain sums over the present columns."""
    loss = np.zeros(len(similarity))
    for j in np.flatnonzero(present):
        negatives = sum(np.exp(similarity[j, k]) for k in np.flatnonzero(present) if k != j)
        loss[j] = -np.log(np.exp(similarity[j, j]) / (np.exp(similarity[j, j]) + negatives))
    return loss


@pytest.mark.parametrize("missing", [[], [0, 4], list(range(6))])
def test_info_nce_equals_a_plain_cross_entropy(missing: list[int]) -> None:
    draw = np.random.default_rng(0)
    one, two = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in draw.normal(size=(2, 6, 5)))
    present = np.ones(6, bool)
    present[missing] = False
    similarity = one @ two.T / 0.3
    args = (torch.tensor(one), torch.tensor(two), torch.tensor(present), 0.3)
    assert info_nce(*args).numpy() == pytest.approx(numpy_cross_entropy(similarity, present), abs=1e-5)
    both = numpy_cross_entropy(similarity, present) + numpy_cross_entropy(similarity.T, present)
    assert symmetric_info_nce(*args).numpy() == pytest.approx(both, abs=1e-5)


def test_weight_belongs_to_the_anchor_item() -> None:
    draw = torch.Generator().manual_seed(0)
    projected = {m: torch.randn(7, 4, generator=draw) for m in DIMS}
    everything = {m: torch.ones(7, dtype=torch.bool) for m in DIMS}
    weight = torch.tensor([0.0, 0, 3, 0, 0, 0, 0])
    h = {m: torch.nn.functional.normalize(x, dim=1) for m, x in projected.items()}
    h_c = torch.nn.functional.normalize(h["text"] + h["vision"], dim=1)
    content = symmetric_info_nce(h["text"], h["vision"], everything["text"], 0.07).mean()
    anchor = 3 * info_nce(h["behaviour"], h_c, everything["text"], 0.07)[2] / 7
    loss = adaptive_alignment(projected, everything, weight, 0.07)
    assert float(loss) == pytest.approx(float(content + anchor), rel=1e-5)


def test_sparsity_loss_and_lambda_by_hand() -> None:
    control = SparsityController(torch.tensor([0.1, 0.2, 0.9]), 0.5, 2, n_groups=1, theta="matched", base=1.2, start=2.0)
    router = torch.tensor([[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]])  # the third item has no behaviour
    present = torch.tensor([True, True, False])
    # f = [2, 1] / (0.5 * 2) = [2, 1]; sum_j f_j r_j = 2 and 8; lambda / B = 1
    assert float(control.loss(router, control.group, present)) == pytest.approx(10.0)
    control.update()  # sparsity 1/4 is below the target 1/2: too dense, so lambda rises
    assert float(control.strength[0]) == pytest.approx(2.4)
    control.loss(torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), control.group, present)
    control.update()
    assert float(control.strength[0]) == pytest.approx(2.0)


def test_sparsity_targets_keep_the_quoted_mean_and_rise_towards_the_tail() -> None:
    richness = np.random.default_rng(1).beta(4, 1.5, size=500)
    targets = sparsity_targets(richness, 0.4, 5, "matched")
    assert targets.mean() == pytest.approx(0.4, abs=1e-6)
    assert targets.max() <= 0.8 + 1e-9
    assert np.all(np.diff(targets[np.argsort(richness)]) <= 1e-12)
    assert sparsity_targets(np.array([0.0, 0.5, 1.0]), 0.4, 5, "quoted") == pytest.approx([0.4, 0.2, 0.0])
    assert sparsity_targets(np.ones(4), 0.4, 5, "matched") == pytest.approx([0.4] * 4)


def test_richness_groups_have_their_own_lambda() -> None:
    control = SparsityController(torch.linspace(0, 1, 8), 0.4, 5, n_groups=4, theta="matched", base=1.2, start=1e-8)
    assert control.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.all(control.target.diff() < 0)
    dense, present = torch.ones(4, 5), torch.ones(4, dtype=torch.bool)
    control.loss(dense, torch.tensor([0, 0, 1, 1]), present)
    control.update()
    assert control.strength.tolist() == pytest.approx([1.2e-8, 1.2e-8, 1e-8, 1e-8])  # groups not in the batch stay


# -- the tests named in the specification ----------------------------------------------------------------------------
def router_gradient(net: AdaptiveExperts) -> list[torch.Tensor]:
    return [p.grad.clone() for p in net.gate["behaviour"].parameters() if p.grad is not None]


def test_router_gradient_is_the_reconstruction_path_when_lambda_is_zero(runtime: LocalRuntime) -> None:
    objective = objective_of(runtime)
    rows = torch.arange(100)
    objective.controller.strength = torch.zeros(1)
    objective.loss(rows, 0)["loss"].backward()
    full = router_gradient(objective.net)
    objective.net.zero_grad(set_to_none=True)
    objective.loss(rows, 0)["reconstruction"].backward()
    alone = router_gradient(objective.net)
    assert len(full) == len(alone) == 4
    assert any(float(g.abs().max()) > 0 for g in alone)
    for one, two in zip(full, alone, strict=True):
        assert torch.allclose(one, two, atol=1e-7)
    objective.net.zero_grad(set_to_none=True)
    objective.controller.strength = torch.ones(1)
    objective.loss(rows, 0)["loss"].backward()
    assert not torch.allclose(router_gradient(objective.net)[-1], alone[-1], atol=1e-5)


@pytest.mark.parametrize(("code_length", "active"), [(5, 0.4), (6, 0.6)])
def test_active_fraction_converges_to_its_target(runtime: LocalRuntime, code_length: int, active: float) -> None:
    config = small(
        code_length=code_length,
        steps=150,
        warm_steps=40,
        learning_rate=0.005,
        width=32,
        sparsity_base=1.05,
        sparsity_start=1e-3,
    )
    figures = AdaSid(config).fit(make_features(), Rng(0), runtime).diagnostics()
    assert figures["mean_active_behaviour"] / 5 == pytest.approx(active, abs=0.05)
    assert figures["loss_native"] < 0.2  # the mean predictor is at about 1


@pytest.mark.parametrize("sparsity", [0.4, 2 / 3])
def test_controller_holds_a_router_at_its_target(sparsity: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=draw)
    wanted = 1 + x @ torch.randn(8, 5, generator=draw)  # left alone, the router is on in two of three cases
    present, group = torch.ones(512, dtype=torch.bool), torch.zeros(512, dtype=torch.int64)
    control = SparsityController(torch.linspace(0, 1, 512), sparsity, 5, n_groups=1, theta="matched", base=1.02, start=1e-2)
    weight, bias = (torch.randn(8, 5, generator=draw) / 2).requires_grad_(), torch.ones(5, requires_grad=True)
    optimiser, measured = torch.optim.Adam([weight, bias], lr=0.02), []
    for _ in range(500):
        router = torch.relu(x @ weight + bias)
        optimiser.zero_grad()
        ((router - wanted).square().mean() + control.loss(router, group, present)).backward()
        optimiser.step()
        control.update()
        measured.append(float((router > 0).float().mean()))
    assert np.mean(measured[-50:]) == pytest.approx(1 - sparsity, abs=0.02)


def test_permuting_behaviour_experts_permutes_codes(runtime: LocalRuntime, fitted: AdaSid) -> None:
    features, order = make_features(), [3, 0, 4, 1, 2]
    before = fitted.encode(features, runtime)
    state = fitted.state_dict()
    hidden = fitted.config.hidden
    inward = state["experts.behaviour.weight_in"].reshape(-1, 5, hidden)[:, order]
    state["experts.behaviour.weight_in"] = inward.reshape(-1, 5 * hidden)
    state["experts.behaviour.bias_in"] = state["experts.behaviour.bias_in"].reshape(5, hidden)[order].reshape(-1)
    for name in (
        "experts.behaviour.weight_out",
        "experts.behaviour.bias_out",
        "gate.behaviour.2.weight",
        "gate.behaviour.2.bias",
    ):
        state[name] = state[name][order]
    state["codebook"] = state["codebook"][[0, 1, 2, *(3 + i for i in order)]]
    other = AdaSid(small())
    other.load_state_dict(state)
    after = other.encode(features, runtime)
    assert np.array_equal(after.codes[:, :3], before.codes[:, :3])
    assert np.mean(after.codes[:, 3:] == before.codes[:, 3:][:, order]) > 0.999  # another summation order may tip a tie


def test_item_without_active_expert_has_five_pads_and_a_finite_loss(runtime: LocalRuntime) -> None:
    objective = objective_of(runtime)
    with torch.no_grad():
        objective.net.gate["behaviour"][-1].bias.fill_(-100.0)
    codes, gates, _ = objective.net.quantise_all(objective.data)
    assert torch.all(gates[:, 3:] == 0)
    loss = objective.loss(torch.arange(64), 0)
    loss["loss"].backward()
    assert all(bool(torch.isfinite(part)) for part in loss.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in objective.net.parameters() if p.grad is not None)
    tokenizer = AdaSid(objective.config)
    tokenizer.net_ = objective.net
    sids = tokenizer.encode(make_features(), runtime).check(300)
    assert np.all(sids.codes[:, 3:] == PAD)
    assert np.all(sids.codes[:, :3] != PAD)


# -- ablations and switches ------------------------------------------------------------------------------------------
def test_controller_off_means_weight_one_for_all(runtime: LocalRuntime) -> None:
    on, off = objective_of(runtime), objective_of(runtime, controller=False)
    assert torch.equal(off.weight(off.data), torch.ones(len(off.data)))
    assert torch.equal(on.weight(on.data), alignment_weight(on.data.richness, 10, 9))
    rows = torch.arange(100)
    one, two = on.loss(rows, 0), off.loss(rows, 0)
    assert one.keys() == two.keys()
    assert {name for name in one if one[name].item() != two[name].item()} == {"alignment", "loss"}


@pytest.mark.parametrize(("switch", "dropped"), [("contrastive", "alignment"), ("sparsity", "sparsity")])
def test_switching_a_loss_off_drops_it_and_nothing_else(runtime: LocalRuntime, switch: str, dropped: str) -> None:
    full, ablated = objective_of(runtime), objective_of(runtime, **{switch: False})
    one, two = full.loss(torch.arange(100), 0), ablated.loss(torch.arange(100), 0)
    assert one.keys() - two.keys() == {dropped}
    assert all(one[name].item() == two[name].item() for name in two if name != "loss")
    ablated.after_step(0)
    assert float(ablated.controller.strength[0]) == pytest.approx(1e-8 * (1.0 if switch == "sparsity" else 1.2))


def test_without_router_gates_are_a_softmax_and_nothing_is_padded(runtime: LocalRuntime) -> None:
    objective = objective_of(runtime, router="softmax")
    encoded = objective.net.encode(objective.data)
    assert torch.allclose(encoded.router.sum(1), torch.ones(len(objective.data)), atol=1e-6)
    assert bool((encoded.gates > 0).all())
    assert "sparsity" not in objective.loss(torch.arange(64), 0)


def test_popularity_factor_of_the_router(runtime: LocalRuntime) -> None:
    e_b, richness = torch.zeros(3, 8), torch.tensor([0.0, 0.5, 1.0])
    expected = {"sigmoid": [0.5, 0.6225, 0.7311], "curve": [0.0002, 0.0246, 1.0], "linear": [0.0, 0.5, 1.0]}
    for kind, factor in expected.items():
        net = objective_of(runtime, richness_gate=kind).net
        assert net.route(e_b, richness)[:, 0].tolist() == pytest.approx(factor, abs=1e-4)  # relu(0 + b) = 1


def test_quantised_mixture_has_the_latents_as_straight_through_gradient(runtime: LocalRuntime) -> None:
    objective = objective_of(runtime)
    encoded = objective.net.encode(objective.data)
    codes, quantised = objective.net.quantise(encoded.latents)
    directions = objective.net.directions()
    for slot in range(8):
        cosine = encoded.latents[slot] @ directions[slot].T
        assert torch.equal(codes[slot], cosine.argmax(1))
        assert torch.allclose(quantised[slot], directions[slot][codes[slot]])
    by_hand = sum(encoded.gates[:, s, None] * quantised[s] for s in range(8))
    assert torch.allclose(mix(quantised, encoded.gates), by_hand, atol=1e-6)  # type: ignore[arg-type]
    reconstruction = objective.loss(torch.arange(64), 0)["reconstruction"]
    decoded = objective.net.decode(by_hand[:64])  # type: ignore[index]
    from_codes = objective.reconstruction_loss(objective.data.take(torch.arange(64)), decoded)
    assert float(reconstruction.detach()) == pytest.approx(float(from_codes.detach()), rel=1e-5)
    reconstruction.backward()
    assert objective.net.codebook.grad is None or float(objective.net.codebook.grad.abs().max()) == 0  # eq. 11 alone
    assert float(objective.net.experts["text"].weight_in.grad.abs().max()) > 0


def test_how_codes_move(runtime: LocalRuntime) -> None:
    rows = torch.arange(200)
    gradient = objective_of(runtime)
    gradient.loss(rows, 0)["loss"].backward()
    touched = gradient.net.codebook.grad.abs().sum(2) > 0  # type: ignore[union-attr]
    codes = gradient.net.quantise_all(gradient.data.take(rows))[0]
    for slot in range(3):
        assert set(touched[slot].nonzero()[:, 0].tolist()) == set(codes[:, slot].tolist())
    ibq = objective_of(runtime, vq="ibq")
    ibq.loss(rows, 0)["reconstruction"].backward()
    assert bool((ibq.net.codebook.grad.abs().sum(2) > 0).all())  # type: ignore[union-attr]
    ema = objective_of(runtime, vq="ema", restart_dead_codes=False)
    before = ema.net.directions().clone()
    assert not ema.net.codebook.requires_grad
    ema.loss(rows, 0)
    ema.after_step(0)
    latents = ema.net.encode(ema.data.take(rows)).latents[0]
    codes = ema.net.quantise_all(ema.data.take(rows))[0][:, 0]
    first = int(codes[0])
    latent_codes = (latents @ before[0].T).argmax(1)
    target = 0.99 * before[0, first] + 0.01 * latents[latent_codes == first].mean(0)
    assert torch.allclose(ema.net.codebook[0, first], target / target.norm(), atol=1e-5)


@pytest.mark.parametrize("restart", [True, False])
def test_unused_codes_restart_where_asked_for(runtime: LocalRuntime, restart: bool) -> None:
    objective = objective_of(runtime, restart_dead_codes=restart)
    objective.restart.every, objective.restart.decay = 1, 0.0  # a code that this batch leaves out is dead
    objective.loss(torch.arange(64), 0)
    latents, codes, used = objective._last
    before = objective.net.codebook.detach().clone()
    objective.after_step(0)
    moved = (objective.net.codebook != before).any(2)
    unused = torch.tensor([[k not in codes[s][used[s]] for k in range(12)] for s in range(8)])
    unused &= used.any(1)[:, None]  # a position that no item uses has no latent to give
    assert int(unused.sum()) > 8
    assert torch.equal(moved, unused) if restart else not bool(moved.any())
    assert objective.restart.restarted == (int(unused.sum()) if restart else 0)
    for slot, code in moved.nonzero().tolist():
        nearest = torch.cdist(objective.net.codebook[slot, code][None].detach(), latents[slot][used[slot]]).min()
        assert float(nearest) < 0.02


def test_lambda_follows_the_router_during_a_fit(fitted: AdaSid) -> None:
    # All behaviour experts start active and 24 steps are few: every step finds the router too dense.
    assert fitted.diagnostics()["lambda_final"] == pytest.approx(1e-8 * 1.2**24, rel=1e-4)


def test_codebooks_start_among_the_latents(runtime: LocalRuntime) -> None:
    features, config = make_features(), small(steps=9, learning_rate=1e-8)  # nothing moves but the start

    def closeness(net: AdaptiveExperts) -> float:
        data = Batch.of(features, features.dims(), runtime, features.fit_rows("train"))
        with torch.no_grad():
            return float((net.encode(data).latents @ net.directions().transpose(1, 2)).amax(-1).mean())

    started = AdaSid(config).fit(features, Rng(0), runtime).net_
    drawn = _network(config, features.dims(), runtime.generator(Rng(0).child("init")))
    assert closeness(started) > closeness(drawn) + 0.2, (closeness(started), closeness(drawn))


@pytest.mark.parametrize("vq", ["ema", "ibq"])
def test_other_quantisers_train(runtime: LocalRuntime, vq: str) -> None:
    figures = AdaSid(small(vq=vq)).fit(make_features(), Rng(0), runtime).diagnostics()
    assert np.isfinite(figures["loss_native"])


# -- life cycle ------------------------------------------------------------------------------------------------------
def test_semantic_ids(runtime: LocalRuntime, fitted: AdaSid) -> None:
    features = make_features()
    sids = fitted.encode(features, runtime).check(features.n_items)
    assert sids.position_names == ("shared", "text", "vision", *(f"behaviour {i}" for i in range(1, 6)))
    assert sids.sizes.tolist() == [12] * 8
    assert not sids.ordered
    assert sids.weights is not None
    assert np.array_equal(sids.weights > 0, sids.codes != PAD)
    assert np.all(sids.weights[:, :3] == 1)  # one expert a modality: inert gates
    assert {m: a.shape for m, a in sids.reconstruction.items()} == {m: (300, d) for m, d in DIMS.items()}
    assert np.all(sids.codes[-COLD:, 3:] == PAD)  # never trained: no behaviour, no behaviour code
    assert np.all(sids.codes[:, :3] != PAD)


def test_same_seed_same_codes_and_another_seed_differs(runtime: LocalRuntime, fitted: AdaSid) -> None:
    features = make_features()
    again = AdaSid(small()).fit(features, Rng(0), runtime).encode(features, runtime)
    other = AdaSid(small()).fit(features, Rng(1), runtime).encode(features, runtime)
    first = fitted.encode(features, runtime)
    assert np.array_equal(first.codes, again.codes)
    assert not np.array_equal(first.codes, other.codes)


def test_state_round_trip_and_unseen_items(runtime: LocalRuntime, fitted: AdaSid) -> None:
    features = make_features()
    restored = AdaSid(small())
    restored.load_state_dict(fitted.state_dict())
    expected = fitted.encode(features, runtime)
    assert np.array_equal(restored.encode(features, runtime).codes, expected.codes)
    rows = np.array([299, 7, 42])
    assert np.array_equal(restored.encode(features.take(rows), runtime).codes, expected.codes[rows])
    assert restored.n_parameters == sum(p.numel() for p in fitted.net_.parameters())


def test_an_interrupted_fit_continues_to_the_same_codes(
    runtime: LocalRuntime,
    fitted: AdaSid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, loss = make_features(), Objective.loss
    calls = 0

    def stop_at_fifteen(self: Objective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return loss(self, rows, step)

    with runtime.checkpointing(tmp_path):
        monkeypatch.setattr(Objective, "loss", stop_at_fifteen)
        with pytest.raises(KeyboardInterrupt):
            AdaSid(small()).fit(features, Rng(0), runtime)
        monkeypatch.setattr(Objective, "loss", loss)
        resumed = AdaSid(small()).fit(features, Rng(0), runtime)
    assert np.array_equal(resumed.encode(features, runtime).codes, fitted.encode(features, runtime).codes)
    assert resumed.diagnostics()["lambda_final"] == fitted.diagnostics()["lambda_final"]


def test_diagnostics_answer_the_questions_of_the_paper(fitted: AdaSid) -> None:
    figures = fitted.diagnostics()
    wanted = {
        "loss_native",
        "mean_active_behaviour",
        "dead_router_share",
        "always_on_router_share",
        "lambda_final",
        "negligible_weight_share",
        "shared_codes_moved_by_noise",
    }
    wanted |= {f"mean_{what}_q{q}" for what in ("active_behaviour", "weight") for q in (1, 2, 3, 4)}
    assert wanted <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["mean_weight_q1"] < figures["mean_weight_q4"]


# -- missing and wrong data ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("absent", "names"), [("vision", ("text 1", "text 2")), ("text", ("vision 1", "vision 2"))])
def test_missing_content_modality_gives_its_position_away(absent: str, names: tuple[str, str]) -> None:
    runtime = StageRuntime(local_runtime())
    features = make_features({m: d for m, d in DIMS.items() if m != absent})
    tokenizer = AdaSid(small()).fit(features, Rng(0), runtime)
    sids = tokenizer.encode(features, runtime).check(300)
    assert sids.code_length == 8
    assert sids.position_names[1:3] == names
    assert sids.weights is not None
    assert sids.weights[:, 1:3].sum(1) == pytest.approx(np.ones(300), abs=1e-5)
    assert any(f"no {absent} embeddings (not in this test)" in warning for warning in runtime.warnings)
    restored = AdaSid(small())
    restored.load_state_dict(tokenizer.state_dict())
    assert np.array_equal(restored.encode(features, runtime).codes, sids.codes)


@pytest.mark.parametrize("present", [("text", "vision"), ("behaviour",)])
def test_missing_required_modality_is_refused(runtime: LocalRuntime, present: tuple[str, ...]) -> None:
    assert INFO.required == ("behaviour", "text|vision")
    with pytest.raises(InputError, match=r"adasid: modalities.*wanted behaviour, and text or vision"):
        AdaSid(small()).fit(make_features({m: DIMS[m] for m in present}), Rng(0), runtime)


def test_items_that_lack_a_picture_have_pad_there_and_take_no_part_in_alignment(runtime: LocalRuntime) -> None:
    features = make_features()
    features.available["vision"][:10] = False
    features.modalities["vision"][:10] = 0
    objective = objective_of(runtime, features)
    rows = torch.arange(64)
    alignment = objective.loss(rows, 0)["alignment"].item()
    with torch.no_grad():
        objective.data.embeddings["vision"][:10] = 7.0  # whatever stands in rows that are not available
    changed = objective.net.encode(objective.data.take(rows)).gates
    assert torch.all(changed[:10, 2] == 0)
    assert objective.loss(rows, 0)["alignment"].item() == pytest.approx(alignment, rel=1e-5)


def test_nan_is_refused(runtime: LocalRuntime) -> None:
    features = make_features()
    features.modalities["behaviour"][4, 1] = np.nan
    with pytest.raises(InputError, match=r"behaviour embeddings.*1 rows \(first: item 4\)"):
        AdaSid(small()).fit(features, Rng(0), runtime)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match=r"code_length.*got 3; wanted 4\.\.8"):
        small(code_length=3)
    with pytest.raises(InputError, match=r"code_length.*got 9"):
        small(code_length=9)
    with pytest.raises(InputError, match="warm_steps"):
        small(steps=8)
    assert small(code_length=3, target_active_fraction=0.2).active_fraction == 0.2
    assert AdaSidConfig().active_fraction == pytest.approx(0.6)
    industrial = AdaSidConfig(code_length=8, n_shared=2, n_text=2, n_vision=2, n_behaviour=6)
    assert industrial.active_fraction == pytest.approx(1 / 3)


def test_wrong_state_and_wrong_features_are_named(runtime: LocalRuntime, fitted: AdaSid) -> None:
    with pytest.raises(InputError, match="codebook"):
        AdaSid(small(codebook_size=13)).load_state_dict(fitted.state_dict())
    with pytest.raises(InputError, match="projections of no modality"):
        AdaSid(small()).load_state_dict({})
    with pytest.raises(InputError, match="embeddings to encode"):
        fitted.encode(make_features({**DIMS, "text": 9}), runtime)


def test_one_code_and_a_tiny_catalogue(runtime: LocalRuntime) -> None:
    features = make_features(n=12)
    sids = AdaSid(small(codebook_size=1)).fit(features, Rng(0), runtime).encode(features, runtime).check(12)
    assert set(np.unique(sids.codes)) <= {PAD, 0}
    with pytest.raises(InputError, match="codebook_size"):
        AdaSid(small(codebook_size=8)).fit(features, Rng(0), runtime)


def test_batch_parts_cover_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidbench.tokenizers.blocks.experts.expert_slots.BLOCK_ROWS", 4)
    items = Batch({"text": torch.arange(10.0)[:, None]}, {"text": torch.ones(10, dtype=torch.bool)}, torch.zeros(10))
    assert torch.cat([part.embeddings["text"] for part in items.parts()]).flatten().tolist() == list(range(10))
