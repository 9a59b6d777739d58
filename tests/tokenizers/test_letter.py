"""LETTER: its two regularisers by hand, where their gradients go, and what they do to planted items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.losses.code_diversity import CodeGroups, diversity_loss, group_sizes
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import AutoencoderNet, FitData
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import Quantised
from sidbench.tokenizers.letter import Letter, LetterConfig, LetterObjective, to_width

RUNTIME = local_runtime()
SMALL = {
    "code_length": 3,
    "codebook_size": 12,
    "hidden": (32,),
    "latent_dim": 8,
    "steps": 60,
    "warmup_steps": 5,
    "batch_size": 128,
    "autoencoder_steps": 10,
    "learning_rate": 3e-3,
}


def config(**settings: object) -> LetterConfig:
    return LetterConfig(**{**SMALL, **settings})  # type: ignore[arg-type]


def objective(present: list[bool], behaviour: torch.Tensor, **settings: object) -> LetterObjective:
    c = config(**settings)
    content = torch.randn(len(present), 6, generator=torch.Generator().manual_seed(0))
    net = AutoencoderNet(c, 6, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(net.quantiser.codebooks, generator=torch.Generator().manual_seed(2))
    side = {"behaviour": behaviour, "has_behaviour": torch.tensor(present)}
    found = LetterObjective(net, FitData(torch.arange(len(present)), content, content[:0], side, len(present)), Rng(0), c)
    found.quantised = True
    return found


# -- the behaviour loss ----------------------------------------------------------------------------------------------
def test_behaviour_loss_by_hand() -> None:
    h = torch.tensor([[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    z_hat = torch.tensor([[3.0, 1.0], [1.0, 1.0], [5.0, -5.0]])
    loss = objective([True, True, False], h, latent_dim=2, alpha=0.5)
    quantised = Quantised(z_hat, torch.zeros(()), torch.zeros(3, 3, dtype=torch.int64))
    z = torch.tensor([[-1.0, 4.0], [2.0, 0.0], [0.5, 3.0]])  # the latents before quantisation are not asked
    got = loss.extra(torch.arange(3), z, quantised, 0)["behaviour"]
    # <z_0, h> = (3, 2), <z_1, h> = (1, 2); the third item has no behaviour: neither an anchor nor a negative.
    first, second = math.log(math.exp(3) + math.exp(2)) - 3, math.log(math.exp(1) + math.exp(2)) - 2
    assert float(got) == pytest.approx(0.5 * (first + second) / 2, rel=1e-6)


def test_behaviour_loss_without_any_behaviour_is_zero() -> None:
    loss = objective([False, False], torch.zeros(2, 8), alpha=1.0)
    assert float(loss.loss(torch.arange(2), 0)["behaviour"].detach()) == 0


def test_behaviour_loss_moves_the_encoder_and_not_the_codebooks() -> None:
    loss = objective([True] * 5, torch.randn(5, 8, generator=torch.Generator().manual_seed(3)), alpha=1.0)
    loss.net.train()
    loss.loss(torch.arange(5), 0)["behaviour"].backward()
    weight = loss.net.encoder[0].weight
    assert isinstance(weight, torch.Tensor) and weight.grad is not None and float(weight.grad.abs().sum()) > 0
    assert loss.net.quantiser.codebooks.grad is None
    assert all(p.grad is None for p in loss.net.decoder.parameters())


@pytest.mark.parametrize("width", [3, 12, 20])
def test_behaviour_is_brought_to_the_latent_width(width: int) -> None:
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32) * np.linspace(2, 0.1, 12, dtype=np.float32)
    got, kept = to_width(x, np.arange(40), width)
    assert got.shape == (50, width) and got.dtype == np.float32
    singular = np.linalg.svd(x[:40], compute_uv=False)
    best = float((singular[width:] ** 4).sum() ** 0.5)  # Eckart and Young: the least error of the inner products
    assert np.linalg.norm(got[:40] @ got[:40].T - x[:40] @ x[:40].T) == pytest.approx(best, rel=1e-3, abs=1e-3)
    assert kept == pytest.approx(float((singular[:width] ** 2).sum() / (singular**2).sum()), rel=1e-6)


# -- the diversity loss ----------------------------------------------------------------------------------------------
def test_diversity_loss_by_hand() -> None:
    codebook = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]]])
    groups = torch.tensor([[0, 0, 1, 1]])
    codes = torch.tensor([[0], [0], [2]])
    # code 0: products with 1, 2, 3 are 0, 1, 2; its fellow is 1. Code 2: with 0, 1, 3 they are 1, 1, 2; its fellow is 3.
    of_0 = math.log(1 + math.exp(1) + math.exp(2)) - 0
    of_2 = math.log(2 * math.exp(1) + math.exp(2)) - 2
    assert float(diversity_loss(codes, codebook, groups)) == pytest.approx((2 * of_0 + of_2) / 3, rel=1e-6)


def test_diversity_loss_is_the_mean_over_drawn_fellows_and_levels() -> None:
    draw = torch.Generator().manual_seed(0)
    codebooks, codes = torch.randn(2, 9, 4, generator=draw), torch.randint(9, (30, 2), generator=draw)
    groups = torch.stack([torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2]), torch.tensor([2, 1, 0, 2, 1, 0, 2, 1, 0])])
    total = 0.0
    for level in range(2):
        for c in codes[:, level].tolist():
            products = codebooks[level] @ codebooks[level][c]
            others = [k for k in range(9) if k != c]
            fellows = [k for k in others if groups[level, k] == groups[level, c]]
            pushed = torch.logsumexp(products[others], 0)
            total += float(torch.stack([pushed - products[k] for k in fellows]).mean())
    assert float(diversity_loss(codes, codebooks, groups)) == pytest.approx(total / 60, rel=1e-5)


@pytest.mark.parametrize(("size", "wanted"), [(256, (10, 10, 52)), (100, (10, 5, 20)), (8, (4, 2, 4)), (3, (1, 2, 6))])
def test_group_sizes(size: int, wanted: tuple[int, int, int]) -> None:
    groups, low, high = group_sizes(size)
    assert (groups, low, high) == wanted
    assert groups * low <= size <= groups * high


def test_groups_hold_near_codes_within_bounds_and_depend_on_the_codebooks_only() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(10, 4, generator=draw)
    codebooks = (centres.repeat(2, 1) + 0.1 * torch.randn(20, 4, generator=draw))[None]
    groups = CodeGroups(codebooks, 5, Rng(0), RUNTIME)
    assert torch.equal(groups.groups[0, :10], groups.groups[0, 10:])  # both codes of each centre
    assert len(torch.unique(groups.groups)) == 10
    codebooks.copy_(codebooks[:, torch.randperm(20, generator=draw)])
    resumed = CodeGroups(codebooks, 5, Rng(1), RUNTIME)
    resumed.load_state(groups.state())
    groups.after_step(3)
    assert torch.equal(groups.groups, resumed.groups)
    groups.after_step(4)
    resumed.after_step(4)
    assert torch.equal(groups.groups, resumed.groups)
    sizes = torch.bincount(groups.groups[0], minlength=10)
    assert int(sizes.min()) >= 2 and int(sizes.max()) <= 4


def moving_codebook() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codebook ``[1, 100, 4]`` of ten tight groups, the same after two codes of each went over to the next group, and
    the group ``[100]`` of each code then."""
    draw, group = torch.Generator().manual_seed(0), torch.arange(100) // 10
    centres, noise = 10 * torch.randn(10, 4, generator=draw), 0.1 * torch.randn(100, 4, generator=draw)
    moved = torch.where(torch.arange(100) % 10 < 2, (group + 1) % 10, group)
    return (centres[group] + noise)[None], (centres[moved] + noise)[None], moved


def same_partition(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.equal(one[:, None] == one, two[:, None] == two)


def test_groups_follow_the_codes_at_the_end_of_every_period() -> None:
    start, moved, group = moving_codebook()
    codebooks = start.clone()
    groups = CodeGroups(codebooks, 5, Rng(0), RUNTIME)
    assert same_partition(groups.groups[0], torch.arange(100) // 10)
    codebooks.copy_(moved)
    groups.after_step(3)
    assert same_partition(groups.groups[0], torch.arange(100) // 10)  # the period is not over
    groups.after_step(4)
    assert same_partition(groups.groups[0], group)
    codebooks.copy_(start)
    groups.after_step(8)
    assert same_partition(groups.groups[0], group)
    groups.after_step(10)  # a stride across the end of the second period
    assert not same_partition(groups.groups[0], group)


def test_a_fit_refreshes_its_groups_once_an_epoch_but_not_within_ten_steps() -> None:
    start, moved, group = moving_codebook()
    for n_items, period in ((4 * 15, 15), (4 * 3, 10)):
        loss = objective(
            [True] * n_items, torch.zeros(n_items, 4), latent_dim=4, codebook_size=100, code_length=1, batch_size=4
        )
        tokenizer = Letter(loss.config)
        tokenizer.net_ = loss.net
        loss.net.quantiser.initialise = lambda *_: None  # type: ignore[method-assign]  # 100 codes of a few latents
        loss.net.quantiser.codebooks.data.copy_(start)
        tokenizer.start(loss, Rng(0), RUNTIME)
        loss.net.quantiser.codebooks.data.copy_(moved)
        settled = []
        for step in range(period):
            loss.after_step(step)
            assert loss.groups is not None
            settled.append(same_partition(loss.groups.groups[0], group))
        assert settled == [False] * (period - 1) + [True]


def test_diversity_spreads_a_codebook() -> None:
    book = torch.nn.Parameter(1 + 0.1 * torch.randn(1, 40, 4, generator=torch.Generator().manual_seed(0)))
    groups, codes = CodeGroups(book, 10, Rng(0), RUNTIME), torch.arange(40)[:, None]
    optimiser = torch.optim.Adam([book], 0.05)

    def cosine() -> float:
        unit = torch.nn.functional.normalize(book.detach()[0], dim=1)
        return float((unit @ unit.t()).mean())

    before, start = cosine(), float(diversity_loss(codes, book.detach(), groups.groups))
    for step in range(60):
        optimiser.zero_grad()
        diversity_loss(codes, book, groups.groups).backward()
        optimiser.step()
        groups.after_step(step)
    assert float(diversity_loss(codes, book.detach(), groups.groups)) < start
    assert before > 0.9 and cosine() < 0.3


# -- the tokenizer ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    """Six groups of behaviour that content tells weakly, beside strong directions on which RQ-VAE spends its codes."""
    draw = np.random.default_rng(0)
    base, group = planted_features(400), draw.integers(6, size=400)
    text = np.concatenate([1.5 * np.eye(6)[group], 2 * draw.standard_normal((400, 6))], 1).astype(np.float32)
    behaviour = np.eye(12, dtype=np.float32)[group]
    available = np.ones(400, bool)
    return ItemFeatures(
        {"text": text / 5, "behaviour": behaviour},
        {"text": available, "behaviour": available},
        np.ones(400, np.int64),
        base.richness,
        base.richness_proxy,
        base.sequences,
    )


def probe(features: ItemFeatures, **settings: object) -> float:
    """Share of the held-out behaviour variance that the codes explain linearly."""
    tokenizer = Letter(config(steps=120, latent_dim=12, **settings)).fit(features, Rng(0), RUNTIME)
    codes = tokenizer.encode(features, RUNTIME).codes
    hot = np.concatenate([np.eye(12)[column] for column in codes.T], 1)
    fit, test = slice(0, 300), slice(300, 400)
    return float(
        Ridge(1.0)
        .fit(hot[fit], features.modalities["behaviour"][fit, :6])
        .score(hot[test], features.modalities["behaviour"][test, :6])
    )


def test_alignment_writes_behaviour_into_the_codes(features: ItemFeatures) -> None:
    plain, aligned = probe(features, alpha=0.0), probe(features, alpha=10.0)
    assert aligned > plain + 0.1


def test_loss_has_the_named_parts_and_counts_items_without_behaviour() -> None:
    planted = planted_features(200)
    tokenizer = Letter(config(steps=12, fit_items="all")).fit(planted, Rng(0), RUNTIME)
    figures = tokenizer.diagnostics()
    assert figures["fit_items_without_behaviour"] == 20
    assert 0 < figures["behaviour_energy_kept"] < 1  # 12 wide, 8 kept
    assert {"loss_reconstruction", "loss_quantiser", "loss_behaviour", "loss_diversity"} <= set(figures)
    parts = sum(v for k, v in figures.items() if k.startswith("loss_") and k not in ("loss_native", "loss_unquantised"))
    assert figures["loss_native"] == pytest.approx(parts, rel=1e-5)


def test_switched_off_it_is_rqvae_with_sinkhorn() -> None:
    tokenizer = Letter(config(steps=8, alpha=0.0, beta_d=0.0)).fit(planted_features(200), Rng(0), RUNTIME)
    assert not {"loss_behaviour", "loss_diversity"} & set(tokenizer.diagnostics())


def test_fit_that_was_interrupted_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = planted_features(200)
    c = config(steps=30, beta_d=1.0)
    straight = Letter(c).fit(planted, Rng(0), RUNTIME).state_dict()
    with monkeypatch.context() as patch:
        plain, calls = LetterObjective.loss, iter(range(1000))

        def interrupted(self: LetterObjective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if next(calls) == 25:
                raise KeyboardInterrupt
            return plain(self, rows, step)

        patch.setattr(LetterObjective, "loss", interrupted)
        with RUNTIME.checkpointing(tmp_path), pytest.raises(KeyboardInterrupt):
            Letter(c).fit(planted, Rng(0), RUNTIME)
    with RUNTIME.checkpointing(tmp_path):
        resumed = Letter(c).fit(planted, Rng(0), RUNTIME).state_dict()
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_moving_averages_would_undo_the_diversity_loss() -> None:
    with pytest.raises(InputError, match="diversity loss has no other effect"):
        config(codebook_update="ema")
    config(codebook_update="ema", beta_d=0.0)
