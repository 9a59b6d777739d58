"""Strategies of the quantiser: estimators, codebook updates, starts; by hand and against vector-quantize-pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.quantisers.codebook_starts import STARTS
from sidbench.tokenizers.blocks.quantisers.codebook_updates import MovingAverage
from sidbench.tokenizers.blocks.quantisers.estimators import rotate, soft_index
from sidbench.tokenizers.blocks.quantisers.residual_autoencoder import Objective
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import ResidualQuantiser
from sidbench.tokenizers.rqvae import RqVae, RqVaeConfig

RUNTIME = local_runtime()
CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantiser(**settings: Any) -> ResidualQuantiser:
    made = ResidualQuantiser(3, 5, 4, CPU, **settings)
    made.codebooks.data = random(3, 5, 4)
    return made


def test_rotation_has_the_value_of_the_code_and_turns_the_gradient() -> None:
    x, q = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 3.0]])
    value = rotate(x, q)
    torch.testing.assert_close(value, q)
    (value * torch.tensor([[5.0, 7.0]])).sum().backward()
    # x points along the first axis, q along the second: a quarter turn and a stretch of 3/2
    torch.testing.assert_close(x.grad, torch.tensor([[1.5 * 7.0, -1.5 * 5.0]]))


def test_rotation_agrees_with_vector_quantize_pytorch() -> None:
    library = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch")
    q, weights = random(8, 4, seed=1), random(8, 4, seed=2)
    ours, theirs = random(8, 4).requires_grad_(), random(8, 4).requires_grad_()
    value, expected = rotate(ours, q), library.rotate_to(theirs, q)
    torch.testing.assert_close(value, expected)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_rotation_of_a_zero_row_is_straight_through() -> None:
    x = torch.zeros(1, 2, requires_grad=True)
    rotate(x, torch.ones(1, 2)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(1, 2))


def test_soft_index_is_one_hot_with_the_gradient_of_the_softmax() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.0]], requires_grad=True)
    codes, index = soft_index(scores, 0.5, noisy=False)
    assert codes.tolist() == [1]
    torch.testing.assert_close(index.detach(), torch.tensor([[0.0, 1.0, 0.0]]))
    book = torch.tensor([[1.0], [2.0], [4.0]])
    (index @ book).sum().backward()
    soft = torch.softmax(scores.detach() / 0.5, 1)[0]
    mean = float(soft @ book[:, 0])
    torch.testing.assert_close(scores.grad, (soft * (book[:, 0] - mean) / 0.5)[None])


def test_gumbel_codes_follow_the_softmax() -> None:
    torch.manual_seed(0)
    scores = torch.log(torch.tensor([0.7, 0.2, 0.1])).expand(20_000, 3)
    codes = soft_index(scores, 1.0, noisy=True)[0]
    share = torch.bincount(codes, minlength=3) / len(codes)
    torch.testing.assert_close(share, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)  # 4 standard errors: .013


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "rotation"},
        {"estimator": "gumbel"},
        {"update": "ibq"},
        {"update": "ema"},
        {"update": "ibq", "nearest": "cosine"},
        {"sinkhorn": "all"},
    ],
)
@pytest.mark.parametrize("mode", ["sg", "ste"])
def test_without_training_every_strategy_has_the_value_of_its_codes(settings: dict[str, str], mode: str) -> None:
    q, z = quantiser(residual_mode=mode, **settings).eval(), random(32, 4, seed=3)
    out = q(z)
    assert torch.equal(out.codes, q.encode(z))
    torch.testing.assert_close(out.value, q.decode(out.codes))


def test_only_soft_indices_move_codes_that_were_not_chosen() -> None:
    touched = {}
    for name, settings in {"ste": {}, "rotation": {"estimator": "rotation"}, "ibq": {"update": "ibq"}}.items():
        q = quantiser(**settings)
        out = q(random(6, 4, seed=4).requires_grad_())
        out.value.square().sum().backward()
        rows = q.codebooks.grad
        touched[name] = 0 if rows is None else int((rows.abs().sum(2) > 0).sum())
    assert touched == {"ste": 0, "rotation": 0, "ibq": 15}  # the value's gradient alone; the VQ loss is not in it


def test_moving_averages_by_hand() -> None:
    books = torch.tensor([[[0.0], [10.0]]])
    average = MovingAverage(books, decay=0.5, epsilon=0.0)
    average.after_step(torch.tensor([[[1.0], [3.0], [11.0]]]), torch.tensor([[0], [0], [1]]))
    # start: counts 1.5 each, sums (0, 15); then counts (1.75, 1.25), sums (2, 13)
    torch.testing.assert_close(books, torch.tensor([[[2 / 1.75], [13 / 1.25]]]))


def test_moving_averages_agree_with_vector_quantize_pytorch() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.VectorQuantize(dim=4, codebook_size=5, decay=0.9, eps=1e-5, rotation_trick=False).train()
    books = random(1, 5, 4)
    average = MovingAverage(books, decay=0.9)
    with torch.no_grad():
        theirs._codebook.embed.copy_(books)
        theirs._codebook.cluster_size.fill_(64 / 5)
        theirs._codebook.embed_avg.copy_(books * 64 / 5)
    for seed in range(1, 5):
        z = random(64, 4, seed=seed)
        codes = torch.cdist(z, books[0]).argmin(1)
        average.after_step(z[None], codes[:, None])
        theirs(z[None])
        torch.testing.assert_close(books, theirs._codebook.embed, atol=1e-4, rtol=1e-4)


def test_a_replaced_code_stays_where_it_was_put() -> None:
    books = random(1, 4, 2)
    average = MovingAverage(books, decay=0.99)
    codes, z = torch.zeros(16, 1, dtype=torch.int64), torch.zeros(1, 16, 2)
    average.after_step(z, codes)
    books[0, 3] = torch.tensor([100.0, 100.0])
    average.place(torch.tensor([[False, False, False, True]]))
    average.after_step(z, codes)
    assert float((books[0, 3] - 100).abs().max()) < 1


@pytest.mark.parametrize("start", sorted(STARTS))
def test_starts_beat_chance_and_repeat(start: str) -> None:
    x = random(400, 3) + 4 * F.one_hot(torch.arange(400) % 3).float()
    centres = STARTS[start](x, 6, Rng(0), RUNTIME)
    again = STARTS[start](x, 6, Rng(0), RUNTIME)
    assert centres.shape == (6, 3) and torch.equal(centres, again)
    assert float(torch.cdist(x, centres).min(1).values.square().mean()) < float((x - x.mean(0)).square().sum(1).mean())


def test_constrained_start_bounds_the_clusters() -> None:
    x = torch.cat([torch.zeros(300, 2), torch.full((20, 2), 9.0)]) + 0.01 * random(320, 2)
    free, bound = (STARTS[s](x, 4, Rng(0), RUNTIME) for s in ("kmeans", "constrained"))
    assert bound.shape == free.shape == (4, 2)
    assert not torch.equal(bound, free)


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "rotation"},
        {"estimator": "gumbel"},
        {"codebook_update": "ema", "restart_dead_codes": True},
        {"codebook_update": "ibq"},
        {"codebook_start": "spherical", "distance": "cosine"},
        {"codebook_start": "constrained", "sinkhorn": "last"},
        {"codebook_start": "random"},
    ],
)
def test_every_strategy_learns(settings: dict[str, Any]) -> None:
    features = planted_features(400)
    small = {
        "code_length": 3,
        "codebook_size": 12,
        "hidden": (24,),
        "latent_dim": 8,
        "batch_size": 128,
        "warmup_steps": 5,
        "learning_rate": 3e-3,
    }
    fitted = RqVae(RqVaeConfig(**{**small, **settings, "steps": 120}))
    fitted.fit(features, Rng(0), RUNTIME)
    sids = fitted.encode(features, RUNTIME)
    error = sum(float(((features.modalities[m] - e) ** 2).sum()) for m, e in sids.reconstruction.items())
    variance = sum(
        float(((features.modalities[m] - features.modalities[m].mean(0)) ** 2).sum()) for m in sids.reconstruction
    )
    assert error < 0.6 * variance
    assert np.isfinite(fitted.diagnostics()["loss_native"])


def test_contradictory_strategies_are_refused() -> None:
    for settings in ({"codebook_update": "ibq", "estimator": "rotation"}, {"codebook_update": "ema", "estimator": "gumbel"}):
        with pytest.raises(InputError, match="set one of the two"):
            RqVaeConfig(**settings)  # type: ignore[arg-type]


def test_a_moving_average_survives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle and resumed, the averages give the codes of an undisturbed fit."""
    features, runtime = planted_features(240), local_runtime()
    settings: dict[str, Any] = {
        "code_length": 2,
        "codebook_size": 6,
        "hidden": (16,),
        "latent_dim": 4,
        "steps": 40,
        "batch_size": 64,
        "codebook_update": "ema",
        "autoencoder_steps": 5,
    }
    plain = RqVae(RqVaeConfig(**settings)).fit(features, Rng(0), RUNTIME).state_dict()
    loss, calls = Objective.loss, iter(range(1000))

    def interrupted(self: Objective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        if self.quantised and next(calls) == 20:
            raise KeyboardInterrupt
        return loss(self, rows, step)

    with runtime.checkpointing(tmp_path), monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "loss", interrupted)
        RqVae(RqVaeConfig(**settings)).fit(features, Rng(0), runtime)
    with runtime.checkpointing(tmp_path):
        resumed = RqVae(RqVaeConfig(**settings)).fit(features, Rng(0), runtime).state_dict()
    for name, array in plain.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)
