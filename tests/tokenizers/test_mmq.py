"""MMQ: its losses by hand, index back-propagation, the next-item model, and behaviour that only stage 2 can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.experts.expert_quantiser import ExpertQuantiser
from sidbench.tokenizers.blocks.experts.expert_slots import Batch, Layout
from sidbench.tokenizers.blocks.losses.next_item import Histories, HistoryWindows, NextItem
from sidbench.tokenizers.mmq import Mmq, MmqConfig, Objective, _network

RUNTIME = local_runtime()
GROUPS = 8
SMALL: dict[str, Any] = {
    "code_length": 6,
    "codebook_size": 10,
    "width": 24,
    "steps": 60,
    "warm_steps": 20,
    "warmup_steps": 5,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "tuning_steps": 20,
    "tuning_users": 48,
    "tuning_length": 5,
    "tuning_width": 24,
    "tuning_learning_rate": 3e-3,
}


def planted(n: int = 240, vision: bool = True) -> tuple[ItemFeatures, np.ndarray]:
    """Items whose group, which users follow, is a small part of their text; pictures know nothing of it."""
    draw = np.random.default_rng(5)
    group = np.arange(n) % GROUPS
    raw = {"text": np.concatenate([1.5 * draw.normal(size=(n, 6)), np.eye(GROUPS)[group]], axis=1)}
    if vision:
        raw["vision"] = draw.normal(size=(n, 5))
    users = [draw.choice(np.flatnonzero(group == u % GROUPS), 6, replace=False) for u in range(400)]
    items = np.concatenate(users).astype(np.int32)
    there = {m: np.ones(n, bool) for m in raw}
    if vision:
        there["vision"][:10] = False
    rows = {m: scale_modality(m, e.astype(np.float32), there[m], n)[0] for m, e in raw.items()}
    features = ItemFeatures(
        rows,
        there,
        np.bincount(items, minlength=n),
        np.zeros(n, np.float32),
        "log_count",
        Sequences(np.arange(0, len(items) + 1, 6), items),
        absent={} if vision else {"vision": "not planted"},
    )
    return features, group


def objective_of(features: ItemFeatures, **changes: Any) -> Objective:
    config = MmqConfig(**{**SMALL, **changes})
    dims = {m: e.shape[1] for m, e in features.modalities.items()}
    net = _network(config, dims, RUNTIME.generator(Rng(1)))
    items = Batch.of(features, dims, RUNTIME)
    objective = Objective(config, net, items, items, Rng(2))
    objective.quantised = True
    objective.histories = HistoryWindows(features.sequences, config.tuning_length, Rng(3), RUNTIME)
    objective.next_item = NextItem(6 * config.width, 8, RUNTIME.generator(Rng(4)))
    return objective


@pytest.fixture(scope="module")
def fitted() -> Mmq:
    return Mmq(MmqConfig(**SMALL)).fit(planted()[0], Rng(0), RUNTIME)


# -- stage 1 ---------------------------------------------------------------------------------------------------------
def test_orthogonality_loss_by_hand() -> None:
    layout = Layout({"text": 3, "vision": 2}, {"shared": 1, "text": 2, "vision": 1}, 2, 2, 4)
    net = ExpertQuantiser(layout, 0.1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.experts.copy_(torch.eye(4).view(4, 2, 2) * torch.tensor([1.0, 2, 3, 4])[:, None, None])
    assert float(net.orthogonality().detach()) == 0  # orthogonal rows of any length
    with torch.no_grad():
        net.experts[2] = net.experts[0]  # the second text expert equals the shared one: two entries of text's matrix are 1
        assert float(net.orthogonality()) == pytest.approx(2)
        net.experts[3] = net.experts[0] + net.experts[1] / 2  # 45 degrees to the shared expert: two entries of 1/2
    assert float(net.orthogonality().detach()) == pytest.approx(3)
    with torch.no_grad():
        net.experts[3], net.experts[1] = net.experts[1].clone(), net.experts[3].clone()
    v = F.normalize(net.experts.detach().flatten(1), dim=1)
    groups = [[0, 1, 2], [0, 3]]
    by_hand = sum(float(((v[g] @ v[g].t() - torch.eye(len(g))) ** 2).sum()) for g in groups)
    assert float(net.orthogonality().detach()) == pytest.approx(by_hand, rel=1e-5)


def test_losses_of_stage_1_by_hand() -> None:
    features = planted()[0]
    objective, rows = objective_of(features), torch.arange(40)
    net = objective.net
    with torch.no_grad():
        parts = objective.stage_1(rows, 0)
        batch = objective.fitted.take(rows)
        latents = net.encode(batch)
        directions = F.normalize(net.codebook, dim=-1)
        chosen = torch.stack([d[(z @ d.t()).argmax(1)] for z, d in zip(latents.latents, directions, strict=True)])
        gated = latents.gates.t()[..., None] * chosen
        split = {"text": slice(2, 4), "vision": slice(4, 6)}
        whole = net.decoder(gated.sum(0)).split([14, 5], dim=1)
        recon, aux = [], []
        for (m, e), all_of_it in zip(batch.embeddings.items(), whole, strict=True):
            has = features.available[m]
            energy = float((features.modalities[m][has] ** 2).sum(1).mean())
            there = batch.available[m]
            recon.append(float(((e - all_of_it) ** 2).sum(1)[there].mean()) / energy)
            aux.append(float(((e - net.decoders[m](gated[split[m]].sum(0))) ** 2).sum(1)[there].mean()) / energy)
    assert float(parts["reconstruction"]) == pytest.approx(12 * np.mean(recon), rel=1e-4)
    assert float(parts["aux"]) == pytest.approx(10 * np.mean(aux), rel=1e-4)
    assert float(parts["orthogonality"]) == pytest.approx(0.005 * float(net.orthogonality()), rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(sum(float(v) for k, v in parts.items() if k != "loss"), rel=1e-5)
    assert torch.all(latents.gates[:10, 4:] == 0)
    assert torch.allclose(latents.gates[10:, 4:].sum(1), torch.ones(30))
    assert torch.all(latents.gates[:, :2] == 1)


@pytest.mark.parametrize(("weight", "part"), [("aux_weight", "aux"), ("ortho_weight", "orthogonality")])
def test_a_weight_of_zero_drops_a_loss_and_its_gradient(weight: str, part: str) -> None:
    objective = objective_of(planted()[0], **{weight: 0.0})
    assert float(objective.stage_1(torch.arange(40), 0)[part].detach()) == 0


# -- stage 2 ---------------------------------------------------------------------------------------------------------
def test_soft_indices_send_gradient_to_all_codes_and_straight_through_does_not() -> None:
    objective = objective_of(planted()[0])
    net, rows = objective.net, torch.arange(48)
    objective.stage_2(rows, 0)["next_item"].backward()
    assert net.codebook.grad is not None
    assert bool((net.codebook.grad.abs().sum(2) > 0).all())
    net.zero_grad()
    objective.stage_1(rows, 0)["reconstruction"].backward()
    assert net.codebook.grad is None or float(net.codebook.grad.abs().max()) == 0
    objective.stage_1(rows, 0)["vq"].backward()
    latents = net.encode(objective.fitted.take(rows))
    codes = net.quantise(latents.latents)[0]
    for slot in range(6):
        touched = set((net.codebook.grad[slot].abs().sum(1) > 0).nonzero()[:, 0].tolist())
        assert touched == set(codes[slot][latents.gates[:, slot] > 0].tolist())


def test_losses_of_stage_2_by_hand() -> None:
    features = planted()[0]
    objective, rows = objective_of(features, tuning_content_weight=0.3), torch.arange(48)
    net, histories = objective.net, objective.histories.take(torch.arange(48), 0)
    with torch.no_grad():
        parts = objective.stage_2(rows, 0)
        batch = objective.items.take(histories.items)
        encoded = net.encode(batch)
        gated = encoded.gates.t()[..., None] * net.quantise(encoded.latents)[1]
        whole = net.decoder(gated.sum(0)).split([14, 5], dim=1)
        recon, aux = [], []
        for (m, e), all_of_it, own in zip(batch.embeddings.items(), whole, (slice(2, 4), slice(4, 6)), strict=True):
            energy = float((features.modalities[m][features.available[m]] ** 2).sum(1).mean())
            there = batch.available[m] & histories.real
            recon.append(float(((e - all_of_it) ** 2).sum(1)[there].mean()) / energy)
            aux.append(float(((e - net.decoders[m](gated[own].sum(0))) ** 2).sum(1)[there].mean()) / energy)
    assert float(parts["reconstruction"]) == pytest.approx(0.3 * np.mean(recon), rel=1e-4)
    assert float(parts["aux"]) == pytest.approx(0.3 * np.mean(aux), rel=1e-4)
    assert float(parts["loss"]) == pytest.approx(sum(float(v) for k, v in parts.items() if k != "loss"), rel=1e-5)


@pytest.mark.parametrize("restart", [True, False])
def test_unused_codes_restart_in_stage_1_where_asked_for(restart: bool) -> None:
    objective = objective_of(planted()[0], restart_dead_codes=restart)
    objective.restart.every, objective.restart.decay = 1, 0.0  # a code that this batch leaves out is dead
    objective.stage_1(torch.arange(12, 40), 0)
    codes, before = objective._last[1], objective.net.codebook.detach().clone()
    objective.after_step(0)
    moved = (objective.net.codebook != before).any(2)
    unused = torch.tensor([[k not in codes[s] for k in range(10)] for s in range(6)])
    assert int(unused.sum()) > 6
    assert torch.equal(moved, unused) if restart else not bool(moved.any())


def test_soft_and_hard_quantisation_have_equal_values() -> None:
    objective = objective_of(planted()[0])
    value = objective.net.encode(objective.items).latents
    hard, soft = objective.net.quantise(value), objective.net.quantise(value, soft=True)
    assert torch.equal(hard[0], soft[0])
    assert torch.allclose(hard[1], soft[1], atol=1e-5)


def test_windows_are_runs_of_one_user_and_targets_are_the_next_items() -> None:
    users = [[3, 1], [7], [5, 5, 6, 8, 9, 2, 4], [1, 2, 3]]
    sequences = Sequences(np.cumsum([0, *map(len, users)]), np.array(sum(users, []), np.int32))
    windows = HistoryWindows(sequences, 3, Rng(0), RUNTIME)
    assert len(windows) == 3
    begins = set()
    for step in range(40):
        batch = windows.take(torch.arange(3), step)
        event = batch.items[batch.place]
        assert len(batch.items) % 256 == 0
        assert int(batch.real.sum()) == len(set(event.flatten().tolist()))
        for row, user in zip(range(3), (users[0], users[2], users[3]), strict=True):
            n = int(batch.valid[row].sum()) + 1
            assert n == min(len(user), 4)
            run = event[row, :n].tolist()
            assert any(run == user[a : a + n] for a in range(len(user)))
            if row == 1:
                begins.add(tuple(run))
    assert len(begins) == 4
    one, two = (windows.take(torch.arange(3), 5).place for _ in range(2))
    assert torch.equal(one, two)


def test_next_item_loss_reads_the_past_only_and_is_a_softmax_over_real_items() -> None:
    model = NextItem(4, 6, torch.Generator().manual_seed(0))
    vectors = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    batch = Histories(
        torch.arange(5),
        torch.tensor([1, 1, 1, 1, 0], dtype=torch.bool),
        torch.tensor([[0, 1, 2, 3], [3, 2, 0, 0]]),
        torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool),
    )
    with torch.no_grad():
        projected, losses = model.project(vectors), []
        for row, target in ((0, 1), (0, 2), (0, 3), (1, 1)):
            state = model.gru(projected[batch.place[row, :target]][None])[0][0, -1]
            cosine = F.cosine_similarity(state[None], projected[:4]) / 0.07
            losses.append(float(-torch.log_softmax(cosine, 0)[batch.place[row, target]]))
        assert float(model.loss(vectors, batch)) == pytest.approx(np.mean(losses), rel=1e-4)


def test_stage_2_moves_codes_towards_behaviour() -> None:
    features, group = planted(vision=False)
    tuned = Mmq(MmqConfig(**{**SMALL, "tuning_steps": 160})).fit(features, Rng(0), RUNTIME)
    barely = Mmq(MmqConfig(**{**SMALL, "tuning_steps": 1})).fit(features, Rng(0), RUNTIME)
    content_only = Mmq(MmqConfig(**{**SMALL, "stages": 1})).fit(features, Rng(0), RUNTIME)

    def accuracy(tokenizer: Mmq) -> float:
        codes = tokenizer.encode(features, RUNTIME).codes
        x = np.concatenate([np.eye(SMALL["codebook_size"])[column] for column in codes.T], axis=1)
        fold = (np.arange(len(x)) // GROUPS) % 2 == 0
        return float(RidgeClassifier().fit(x[fold], group[fold]).score(x[~fold], group[~fold]))

    assert accuracy(tuned) > accuracy(content_only) + 0.3, (accuracy(tuned), accuracy(content_only))
    after, before, alone = tuned.diagnostics(), barely.diagnostics(), content_only.diagnostics()
    assert after["tuning_next_item"] < before["tuning_next_item"] - 1
    assert after["codes_moved_by_tuning"] > 0.2
    assert after["loss_reconstruction_stage_1"] == before["loss_reconstruction_stage_1"] == alone["loss_native"]
    assert "codes_moved_by_tuning" not in alone


# -- the tokenizer ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("length", "shared", "both", "text_only"),
    [
        (6, None, (2, 2, 2), (2, 4)),
        (4, None, (1, 2, 1), (1, 3)),
        (8, None, (2, 3, 3), (2, 6)),
        (1, None, (0, 1, 0), (0, 1)),
        (6, 0, (0, 3, 3), (0, 6)),
        (6, 6, (6, 0, 0), (6, 0)),
    ],
)
def test_positions_are_shared_out(
    length: int,
    shared: int | None,
    both: tuple[int, ...],
    text_only: tuple[int, ...],
) -> None:
    config = MmqConfig(code_length=length, n_shared=shared)
    assert tuple(config.slots(["text", "vision"]).values()) == both
    assert tuple(config.slots(["text"]).values()) == text_only


@pytest.mark.parametrize("changes", [{"code_length": 1}, {"n_shared": 0}, {"n_shared": 6}])
def test_extreme_allocations_train(changes: dict[str, Any]) -> None:
    features = planted()[0]
    config = MmqConfig(**{**SMALL, "steps": 8, "warm_steps": 3, "tuning_steps": 3, **changes})
    sids = Mmq(config).fit(features, Rng(0), RUNTIME).encode(features, RUNTIME).check(240)
    assert sids.codes.shape == (240, config.code_length)


def test_semantic_ids(fitted: Mmq) -> None:
    features = planted()[0]
    sids = fitted.encode(features, RUNTIME).check(240)
    assert sids.position_names == ("shared 1", "shared 2", "text 1", "text 2", "vision 1", "vision 2")
    assert np.all(sids.codes[:10, 4:] == PAD)
    assert np.all(sids.codes[:, :4] != PAD)
    assert np.all(sids.codes[10:] != PAD)
    rows = np.array([3, 200, 41])
    np.testing.assert_array_equal(sids.codes[rows], fitted.encode(features.take(rows), RUNTIME).codes)
    assert {f"code_use_{n}" for n in ("shared_1", "text_2", "vision_1")} <= set(fitted.diagnostics())


def test_without_pictures_their_positions_go_to_text() -> None:
    features = planted(vision=False)[0]
    config = MmqConfig(**{**SMALL, "steps": 8, "warm_steps": 3, "tuning_steps": 3})
    sids = Mmq(config).fit(features, Rng(0), RUNTIME).encode(features, RUNTIME)
    assert sids.position_names == ("shared 1", "shared 2", "text 1", "text 2", "text 3", "text 4")
    assert np.all(sids.codes != PAD)


def test_histories_are_needed_for_stage_2_only() -> None:
    features = planted()[0]
    silent = ItemFeatures(**{**vars(features), "sequences": Sequences(np.arange(3), np.arange(2, dtype=np.int32))})
    with pytest.raises(InputError, match=r"stage 2.*stages=1"):
        Mmq(MmqConfig(**SMALL)).fit(silent, Rng(0), RUNTIME)
    Mmq(MmqConfig(**{**SMALL, "stages": 1, "steps": 8, "warm_steps": 3})).fit(silent, Rng(0), RUNTIME)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="warm_steps"):
        MmqConfig(steps=10, warm_steps=10)
    with pytest.raises(InputError, match="n_shared"):
        MmqConfig(code_length=4, n_shared=5)


@pytest.mark.parametrize("interrupted_loss", ["stage_1", "stage_2"])
def test_fit_that_was_interrupted_ends_the_same(
    interrupted_loss: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, config = planted()[0], MmqConfig(**{**SMALL, "steps": 24, "warm_steps": 6, "tuning_steps": 10})
    straight = Mmq(config).fit(features, Rng(0), RUNTIME)
    with monkeypatch.context() as patch:
        plain, calls = getattr(Objective, interrupted_loss), iter(range(1000))

        def interrupted(self: Objective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if next(calls) == 8:
                raise KeyboardInterrupt
            found: dict[str, torch.Tensor] = plain(self, rows, step)
            return found

        patch.setattr(Objective, interrupted_loss, interrupted)
        with RUNTIME.checkpointing(tmp_path), pytest.raises(KeyboardInterrupt):
            Mmq(config).fit(features, Rng(0), RUNTIME)
    with RUNTIME.checkpointing(tmp_path):
        resumed = Mmq(config).fit(features, Rng(0), RUNTIME)
    for name, array in straight.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array, err_msg=name)
