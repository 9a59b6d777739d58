"""DAS: the six views and the click losses by hand, the towers' de-biasing, and behaviour planted in weak content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier, RidgeCV

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import Tokenizer
from sidbench.tokenizers.blocks.losses.collaborative_towers import Clicks, CollaborativeTowers, view_loss
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import FitData
from sidbench.tokenizers.das import Das, DasConfig, DasObjective, user_content
from sidbench.tokenizers.rqvae import RqVae, RqVaeConfig

RUNTIME = local_runtime()
GROUPS = 8
SIZES: dict[str, Any] = {
    "code_length": 3,
    "codebook_size": 16,
    "hidden": (48,),
    "latent_dim": 16,
    "batch_size": 128,
    "warmup_steps": 10,
    "autoencoder_steps": 20,
    "learning_rate": 1e-2,
}
SMALL: dict[str, Any] = {**SIZES, "steps": 120, "tower_steps": 120, "contrast_temperature": 0.1, "align_weight": 5.0}
VIEWS = ["view_user_property", "view_interest_item", "view_user_interest", "view_item_property", "view_users", "view_items"]


def planted(n: int = 320) -> tuple[ItemFeatures, np.ndarray]:
    """Items whose group, which users follow, is a small part of their text; popularity falls within a group."""
    draw = np.random.default_rng(5)
    group = np.arange(n) % GROUPS
    text = np.concatenate([1.5 * draw.normal(size=(n, 6)), np.eye(GROUPS)[group]], axis=1).astype(np.float32)
    share = 1 / (1 + np.arange(n) // GROUPS)
    users = [
        draw.choice(np.flatnonzero(group == u % GROUPS), 8, replace=False, p=(p := share[group == u % GROUPS]) / p.sum())
        for u in range(600)
    ]
    items = np.concatenate(users).astype(np.int32)
    counts = np.bincount(items, minlength=n)
    rows = scale_modality("text", text, np.ones(n, bool), n)[0]
    features = ItemFeatures(
        {"text": rows},
        {"text": np.ones(n, bool)},
        counts,
        np.zeros(n, np.float32),
        "log_count",
        Sequences(np.arange(0, len(items) + 1, 8), items),
        absent={"vision": "not planted"},
    )
    return features, group


class Kept(Das):
    """Das that keeps the objective of its fit."""

    kept: DasObjective

    def objective(self, data: FitData, features: ItemFeatures, rng: Rng, runtime: Runtime) -> DasObjective:
        self.kept = super().objective(data, features, rng, runtime)
        return self.kept


@pytest.fixture(scope="module")
def fitted() -> Kept:
    das = Kept(DasConfig(**SMALL))
    das.fit(planted()[0], Rng(0), RUNTIME)
    return das


def clicks_of(*users: list[int], n_items: int = 5) -> Clicks:
    items = np.array([i for u in users for i in u], np.int32)
    return Clicks.of(Sequences(np.cumsum([0, *map(len, users)]), items), n_items, RUNTIME)


# -- contrast --------------------------------------------------------------------------------------------------------
def test_view_loss_is_the_cross_entropy_of_both_directions() -> None:
    one, two = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    logits = F.normalize(one, dim=1) @ F.normalize(two, dim=1).t() / 0.07
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
    ids = (target, target + 100)
    assert float(view_loss(one, two, ids, torch.ones(6, dtype=torch.bool), 0.07)) == pytest.approx(float(expected))
    present = torch.tensor([1, 1, 0, 1, 0, 1], dtype=torch.bool)
    small = logits[present][:, present]
    expected = (F.cross_entropy(small, torch.arange(4)) + F.cross_entropy(small.t(), torch.arange(4))) / 2
    assert float(view_loss(one, two, ids, present, 0.07)) == pytest.approx(float(expected))
    assert float(view_loss(one, two, ids, ~torch.ones(6, dtype=torch.bool), 0.07)) == 0


def test_pairs_with_anyone_in_common_are_no_negatives() -> None:
    one, two = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    similarity = F.normalize(one, dim=1) @ F.normalize(two, dim=1).t() / 0.5
    # Pair 0 shares 7 with pair 1 and 1 with pair 2, so that it has no negative; pairs 1 and 2 have each other.
    ids = (torch.tensor([7, 7, 1]), torch.tensor([1, 2, 3]))
    rest, target = similarity[1:, 1:], torch.arange(2)
    expected = (F.cross_entropy(rest, target) + F.cross_entropy(rest.t(), target)) / 2 * 2 / 3
    loss = view_loss(one, two, ids, torch.ones(3, dtype=torch.bool), 0.5)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_parts_are_the_six_views_with_their_weights(fitted: Kept) -> None:
    objective, rows = fitted.kept, torch.arange(64)
    with torch.no_grad():
        parts = objective.loss(rows, 3)
        again = objective.loss(rows, 3)
    assert [name for name in parts if name.startswith("view_")] == VIEWS
    assert float(parts["loss"]) == pytest.approx(sum(float(v) for k, v in parts.items() if k != "loss"), rel=1e-5)
    assert all(torch.equal(parts[name], again[name]) for name in parts)  # draws are a function of the step
    heavier = DasObjective(
        objective.net,
        objective.data,
        Rng(0),
        DasConfig(**{**SMALL, "align_weight": 15.0, "alpha": 2.0}),
        objective.users,
        objective.towers,
        objective.clicks,
    )
    heavier.quantised, heavier.draws = True, objective.draws
    with torch.no_grad():
        weighted = heavier.loss(rows, 3)
    for name in parts.keys() - {"loss"}:
        factor = 3 if name in VIEWS else 2 if name in ("click", "click_debiased", "popularity", "orthogonality") else 1
        assert float(weighted[name]) == pytest.approx(factor * float(parts[name]), rel=1e-4), name


def test_each_view_pairs_what_its_name_says(fitted: Kept) -> None:
    objective, draw = fitted.kept, torch.Generator().manual_seed(2)
    n = 7
    z = dict(zip(("item", "user", "other_item", "other_user"), torch.randn(4, n, 16, generator=draw), strict=True))
    numbers = dict(zip(z, torch.arange(4 * n).view(4, n), strict=True))
    present = torch.ones(n, dtype=torch.bool)
    with torch.no_grad():
        views = objective.views(**{k: (numbers[k], z[k]) for k in z}, present=present, has_user=present, has_item=present)
    interest = objective.towers.tables["interest"].detach()[numbers["user"]]
    prop = objective.towers.tables["property"].detach()[numbers["item"]]
    pairs = {
        "view_user_property": (z["user"], prop),
        "view_interest_item": (interest, z["item"]),
        "view_user_interest": (z["user"], interest),
        "view_item_property": (z["item"], prop),
        "view_users": (z["user"], z["other_user"]),
        "view_items": (z["item"], z["other_item"]),
    }
    for name, (one, two) in pairs.items():
        logits = F.normalize(one, dim=1) @ F.normalize(two, dim=1).t() / SMALL["contrast_temperature"]
        both = [F.cross_entropy(s, torch.arange(n)) for s in (logits, logits.t())]
        assert float(views[name]) == pytest.approx(float(torch.stack(both).mean()), rel=1e-4), name


def test_views_bind_their_pairs_and_send_gradient_to_both_encoders(fitted: Kept) -> None:
    objective, c = fitted.kept, SMALL
    untrained = Kept(DasConfig(**{**c, "steps": 1, "tower_steps": 1}))
    untrained.fit(planted()[0], Rng(0), RUNTIME)
    rows = torch.arange(128)
    with torch.no_grad():
        after, before = objective.loss(rows, 0), untrained.kept.loss(rows, 0)
    for name in VIEWS:
        assert float(after[name]) < 0.85 * float(before[name]), name
    objective.model.zero_grad()
    sum(objective.loss(rows, 0)[name] for name in VIEWS).backward()  # type: ignore[union-attr]
    for name in ("item_side", "user_side"):
        gradients = [p.grad for p in objective.model[name].encoder.parameters()]  # type: ignore[union-attr]
        assert all(g is not None and float(g.abs().max()) > 0 for g in gradients)
    objective.model.zero_grad()


# -- clicks and towers -----------------------------------------------------------------------------------------------
def test_clicks_by_hand() -> None:
    clicks = clicks_of([0, 1, 2], [1, 1, 3], [], n_items=5)
    assert clicks.user.tolist() == [0, 0, 0, 1, 1, 1]
    assert clicks.count.tolist() == [1, 3, 1, 1, 0]
    assert clicks.item_bucket.tolist() == [1, 2, 1, 1, 0]
    assert clicks.user_bucket.tolist() == [1, 1, 0]  # means 5/3 and 7/3: log2 of 2.67 and 3.33
    found, any_click = clicks.of_items(torch.tensor([1, 1, 1, 4]), torch.tensor([0.0, 0.4, 0.99, 0.5]))
    assert found[:3].tolist() == [1, 3, 4]
    assert any_click.tolist() == [True, True, True, False]
    other, differs = clicks.of_another_user(torch.tensor([1, 1, 0]), torch.tensor([0.0, 0.5, 0.5]))
    assert (other[1].item(), differs.tolist()) == (3, [False, True, False])


@pytest.mark.parametrize("window", [1, 3])
def test_neighbours_cover_the_window_and_stay_with_the_user(window: int) -> None:
    draw = np.random.default_rng(0)
    clicks = clicks_of(*[draw.permutation(50)[:n].tolist() for n in (6, 1, 2, 9)], n_items=50)
    for click in range(len(clicks)):
        near, differs = clicks.near(torch.full((200,), click), window, torch.linspace(0, 0.999, 200, dtype=torch.float64))
        low, high = int(clicks.first[clicks.user[click]]), int(clicks.end[clicks.user[click]])
        wanted = set(range(max(low, click - window), min(high, click + window + 1))) - {click}
        assert set(near[differs].tolist()) == wanted
        assert bool(differs.all()) == bool(wanted)


def test_click_losses_by_hand() -> None:
    clicks = clicks_of([0, 1, 0], [2, 0, 1], n_items=3)
    towers = CollaborativeTowers(clicks, 4, 0.5, torch.Generator().manual_seed(0))
    chosen = torch.tensor([0, 1, 3, 4])  # items 0, 1, 2, 0 of users 0, 0, 1, 1
    user, item = clicks.user[chosen], clicks.item[chosen]
    t = towers.tables
    logits = F.normalize(t["interest"][user], dim=1) @ F.normalize(t["property"][item], dim=1).t() / 0.5
    keep = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
    losses = towers.losses(clicks, chosen)
    by_hand = -(logits.diagonal() - (logits.exp() * keep).sum(1).log()).mean()
    assert float(losses["click_debiased"].detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    full_user = towers.fuse_user(torch.cat([t["interest"][user], t["conformity"][user]], 1))
    full_item = towers.fuse_item(torch.cat([t["property"][item], t["popularity"][item]], 1))
    frequency = torch.tensor([3, 2, 1, 3]) / 6
    scores = (F.normalize(full_user, dim=1) @ F.normalize(full_item, dim=1).t() / 0.5).exp() / frequency * keep
    by_hand = -(scores.diagonal() / scores.sum(1)).log().mean()
    assert float(losses["click"].detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)


def test_popularity_goes_to_its_own_branch(fitted: Kept) -> None:
    clicks, tables = fitted.kept.clicks, fitted.kept.towers.tables
    seen = (clicks.count > 0).numpy()
    target = np.log(clicks.count.numpy()[seen])

    def explained(name: str) -> float:
        x = tables[name].detach().numpy()[seen]
        fold = np.arange(len(x)) % 2 == 0
        return float(RidgeCV(np.logspace(-3, 3, 7)).fit(x[fold], target[fold]).score(x[~fold], target[~fold]))

    assert explained("popularity") > 0.5
    assert explained("property") < explained("popularity") - 0.2


def test_content_of_a_user_is_the_mean_of_the_items() -> None:
    content = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows, users = user_content(Sequences(np.array([0, 3, 3, 5]), np.array([0, 1, 1, 4, 2], np.int32)), content)
    assert rows.tolist() == [0, 2]
    np.testing.assert_allclose(users[0], (content[0] + 2 * content[1]) / 3, rtol=1e-6)
    np.testing.assert_allclose(users[1], (content[4] + content[2]) / 2, rtol=1e-6)


# -- the tokenizer ---------------------------------------------------------------------------------------------------
def group_accuracy(tokenizer: Tokenizer, features: ItemFeatures, group: np.ndarray) -> float:
    """Held-out accuracy of the planted group from one-hot codes."""
    codes = tokenizer.encode(features, RUNTIME).codes
    x = np.concatenate([np.eye(SIZES["codebook_size"])[column] for column in codes.T], axis=1)
    fold = (np.arange(len(x)) // GROUPS) % 2 == 0
    return float(RidgeClassifier().fit(x[fold], group[fold]).score(x[~fold], group[~fold]))


def test_codes_hold_behaviour_that_content_hides(fitted: Kept) -> None:
    features, group = planted()
    content_only = RqVae(RqVaeConfig(**SIZES, steps=120)).fit(features, Rng(0), RUNTIME)
    das, rqvae = group_accuracy(fitted, features, group), group_accuracy(content_only, features, group)
    assert das > rqvae + 0.5, (das, rqvae)


def test_only_the_item_side_is_kept_and_items_are_encoded_alone(fitted: Kept) -> None:
    features = planted()[0]
    assert set(fitted.state_dict()) == set(RqVae(RqVaeConfig(**SIZES, steps=1)).fit(features, Rng(0), RUNTIME).state_dict())
    rows = np.array([3, 200, 41])
    whole, part = fitted.encode(features, RUNTIME), fitted.encode(features.take(rows), RUNTIME)
    np.testing.assert_array_equal(whole.codes[rows], part.codes)
    assert {f"towers_{n}" for n in ("click", "click_debiased")} | {f"loss_{n}" for n in VIEWS} <= set(fitted.diagnostics())


@pytest.mark.parametrize("changes", [{"restart_dead_codes": True}, {"codebook_update": "ema"}])
def test_fit_that_was_interrupted_ends_the_same(
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, config = planted(160)[0], DasConfig(**{**SMALL, **changes, "steps": 16, "tower_steps": 8})
    straight = Das(config).fit(features, Rng(0), RUNTIME)
    with monkeypatch.context() as patch:
        plain, calls = DasObjective.loss, iter(range(1000))

        def interrupted(self: DasObjective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if next(calls) == 14:
                raise KeyboardInterrupt
            return plain(self, rows, step)

        patch.setattr(DasObjective, "loss", interrupted)
        with RUNTIME.checkpointing(tmp_path), pytest.raises(KeyboardInterrupt):
            Das(config).fit(features, Rng(0), RUNTIME)
    with RUNTIME.checkpointing(tmp_path):
        resumed = Das(config).fit(features, Rng(0), RUNTIME)
    for name, array in straight.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array, err_msg=name)


def test_clicks_are_needed() -> None:
    features = planted()[0]
    silent = ItemFeatures(**{**vars(features), "sequences": Sequences(np.zeros(3, np.int64), np.zeros(0, np.int32))})
    with pytest.raises(InputError, match="das: training sequences.*no event"):
        Das(DasConfig(**SMALL)).fit(silent, Rng(0), RUNTIME)
    few = ItemFeatures(**{**vars(features), "sequences": Sequences(np.array([0, 4, 8]), np.arange(8, dtype=np.int32))})
    with pytest.raises(InputError, match="at most the 2 users"):
        Das(DasConfig(**SMALL)).fit(few, Rng(0), RUNTIME)
