"""Vector quantiser, MLP and batches: hand-worked numbers, gradients, parity with vector-quantize-pytorch, restarts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.quantisers.codebook_updates import vq_loss
from sidbench.tokenizers.blocks.quantisers.dead_codes import DeadCodeRestart
from sidbench.tokenizers.blocks.quantisers.vector_quantiser import ResidualQuantiser, nearest_cosine, nearest_l2
from sidbench.tokenizers.blocks.training.batches import ShuffledBatches
from sidbench.tokenizers.blocks.training.code_figures import collision_rate, utilisation
from sidbench.tokenizers.blocks.training.mlp import mlp
from sidbench.tokenizers.rqvae import RqVaeConfig

RUNTIME = local_runtime()
CPU = torch.device("cpu")


def quantiser(levels: int = 3, size: int = 5, width: int = 4, mode: str = "sg") -> ResidualQuantiser:
    made = ResidualQuantiser(levels, size, width, CPU, residual_mode=mode)
    made.codebooks.data = torch.randn(levels, size, width, generator=torch.Generator().manual_seed(0))
    return made


def latents(n: int = 32, width: int = 4) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1), requires_grad=True)


def test_loss_by_hand() -> None:
    x, code = torch.tensor([[1.0, 3.0]], requires_grad=True), torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = vq_loss(x, code, 0.25)
    assert loss.item() == pytest.approx((1 + 4) / 2 * 1.25)
    loss.backward()
    assert x.grad is not None and code.grad is not None
    torch.testing.assert_close(code.grad, torch.tensor([[-1.0, -2.0]]))  # d/dc mean (c - x)^2
    torch.testing.assert_close(x.grad, 0.25 * torch.tensor([[1.0, 2.0]]))


def test_nearest_codes() -> None:
    book = torch.tensor([[1.0, 0.0], [0.0, 10.0]])
    x = torch.tensor([[0.4, 0.5], [2.0, 1.0]])
    assert nearest_l2(x, book).tolist() == [0, 0]
    assert nearest_cosine(x, book).tolist() == [1, 0]


@pytest.mark.parametrize("mode", ["sg", "ste"])
def test_value_is_the_sum_of_the_chosen_codes(mode: str) -> None:
    q, z = quantiser(mode=mode), latents()
    out = q(z)
    torch.testing.assert_close(out.value, q.decode(out.codes))
    assert torch.equal(out.codes, q.encode(z.detach()))
    residuals = q.residuals(z.detach(), out.codes)
    first, second = q.codebooks[0][out.codes[:, 0]], q.codebooks[1][out.codes[:, 1]]
    torch.testing.assert_close(residuals[2], (z - first - second).detach())


@pytest.mark.parametrize("mode", ["sg", "ste"])
def test_the_decoder_gradient_is_the_identity(mode: str) -> None:
    z = latents()
    weights = torch.randn(32, 4, generator=torch.Generator().manual_seed(2))
    (quantiser(mode=mode)(z).value * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_commitment_reaches_the_encoder_from_every_level_only_with_sg() -> None:
    grads = {}
    for mode in ("sg", "ste"):
        z, q = latents(), quantiser(mode=mode)
        q(z).loss.backward()
        grads[mode] = z.grad
        first = 2 * 0.25 * (z - q.codebooks[0][q.encode(z)[:, 0]]).detach() / z.numel() / 3
        if mode == "ste":
            torch.testing.assert_close(grads["ste"], first)
        else:
            assert not torch.allclose(grads["sg"], first)
    assert float(grads["sg"].norm()) > 0


def test_values_do_not_depend_on_the_residual_mode() -> None:
    sg, ste = quantiser(mode="sg")(latents()), quantiser(mode="ste")(latents())
    torch.testing.assert_close(sg.loss, ste.loss)
    torch.testing.assert_close(sg.value, ste.value)


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"beta": 2.0}, {"beta": 2.0}),
        ({"distance": "cosine"}, {"nearest": "cosine"}),
        ({"residual_mode": "ste"}, {"residual_mode": "ste"}),
        ({"estimator": "rotation"}, {"estimator": "rotation"}),
        ({"codebook_update": "ema"}, {"update": "ema"}),
        ({"codebook_update": "ibq"}, {"update": "ibq"}),
        ({"codebook_update": "ibq", "temperature": 5.0}, {"update": "ibq", "temperature": 5.0}),
        ({"sinkhorn": "last"}, {"sinkhorn": "last"}),
        ({"sinkhorn": "all"}, {"sinkhorn": "all"}),
    ],
    ids=str,
)
def test_every_setting_reaches_the_quantiser(settings: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Codes, loss and gradients of a config's quantiser are those of the arguments it stands for, and no others."""

    def pass_of(q: ResidualQuantiser) -> list[torch.Tensor]:
        q.codebooks.data = quantiser().codebooks.data
        z = latents()
        out = q.train()(z)
        (out.loss + out.value.square().sum()).backward()
        books = torch.zeros_like(q.codebooks) if q.codebooks.grad is None else q.codebooks.grad
        assert z.grad is not None
        return [out.codes.float(), out.loss.detach()[None], z.grad, books]

    base: dict[str, Any] = {"code_length": 3, "codebook_size": 5}
    got = pass_of(ResidualQuantiser.from_config(RqVaeConfig(**base, **settings), 4, CPU))
    for one, two in zip(got, pass_of(ResidualQuantiser(3, 5, 4, CPU, **arguments)), strict=True):
        torch.testing.assert_close(one, two)
    fewer = {k: v for k, v in arguments.items() if k != "temperature"} if "temperature" in arguments else {}
    without = pass_of(ResidualQuantiser(3, 5, 4, CPU, **fewer))
    assert not all(torch.allclose(one, two) for one, two in zip(got, without, strict=True))


def test_codes_and_gradients_agree_with_vector_quantize_pytorch() -> None:
    """With beta = 1 our two terms have the gradient of the library's one term ||c - x||^2 with a learnable codebook."""
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.VectorQuantize(
        dim=4, codebook_size=5, ema_update=False, learnable_codebook=True, commitment_weight=1.0, rotation_trick=False
    ).train()
    ours, z, other = quantiser(levels=1), latents(), latents()
    ours.beta = 1.0
    with torch.no_grad():
        theirs._codebook.embed.copy_(ours.codebooks.data)
    out, (value, codes, loss) = ours(z), theirs(other[None])
    assert torch.equal(out.codes[:, 0], codes[0])
    torch.testing.assert_close(out.value.detach(), value[0].detach())
    assert out.loss.item() == pytest.approx(2 * loss.item(), rel=1e-5)
    out.loss.backward()
    loss.sum().backward()
    torch.testing.assert_close(z.grad, other.grad)
    torch.testing.assert_close(ours.codebooks.grad, theirs._codebook.embed.grad)


def test_initialise_quantises_residuals_better_level_by_level() -> None:
    z, q = latents(400).detach(), ResidualQuantiser(3, 16, 4, CPU)
    q.initialise(z, Rng(0), RUNTIME)
    codes = q.encode(z)
    left = [float(r.square().sum(1).mean()) for r in q.residuals(z, codes)]
    left.append(float((z - q.decode(codes)).square().sum(1).mean()))
    assert left[0] > left[1] > left[2] > left[3]
    assert utilisation(codes, 16) == 1


def test_dead_codes_restart_near_latents_of_the_batch() -> None:
    q, z = quantiser(levels=1, size=6), torch.full((1, 50, 4), 7.0)
    restart = DeadCodeRestart(q.codebooks, Rng(0), every=300)
    codes = torch.zeros(50, 1, dtype=torch.int64)
    kept = q.codebooks.data[0, 0].clone()
    replaced = [restart.after_step(z, codes) for _ in range(300)]
    assert replaced[:-1] == [0] * 299 and replaced[-1] == 5 == restart.restarted
    torch.testing.assert_close(q.codebooks.data[0, 0], kept)
    assert float((q.codebooks.data[0, 1:] - 7).abs().max()) < 0.1
    assert restart.after_step(z, codes) == 0


def test_restart_waits_and_takes_only_rows_that_use_the_position() -> None:
    q = quantiser(levels=2, size=4)
    restart = DeadCodeRestart(q.codebooks, Rng(0), every=1, decay=0.0)
    z = torch.stack([torch.full((4, 4), 1.0), torch.arange(4.0)[:, None].expand(4, 4)])
    used = torch.tensor([[True, False], [True, False], [True, True], [True, False]])
    codes = torch.tensor([[0, 3], [1, 3], [2, 1], [3, 3]])
    assert restart.after_step(z, codes, used) == 3  # position 2: only code 1 counts, its row is the only pool
    assert float((q.codebooks.data[1, [0, 2, 3]] - 2).abs().max()) < 0.1


def test_restart_state_survives_a_resume() -> None:
    z, codes = torch.randn(1, 8, 4), torch.zeros(8, 1, dtype=torch.int64)
    books = [quantiser(levels=1).codebooks for _ in range(2)]
    straight, resumed = (DeadCodeRestart(book, Rng(0), every=4, decay=0.1) for book in books)
    for _ in range(3):
        straight.after_step(z, codes)
    resumed.load_state(straight.state())
    assert straight.after_step(z, codes) == resumed.after_step(z, codes) > 0
    torch.testing.assert_close(books[0].data, books[1].data)


def test_collapse_figures_by_hand() -> None:
    codes = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 3]])
    assert utilisation(codes, 4) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert utilisation(codes, 100) == pytest.approx((1 / 4 + 3 / 4) / 2)  # four rows cannot use more than four codes
    assert collision_rate(codes) == pytest.approx(1 / 4)
    padded = torch.tensor([[0, PAD], [1, PAD], [2, 3]])
    assert utilisation(padded, 4) == pytest.approx((3 / 3 + 1 / 1) / 2)  # one row has a second code, so one can occur


def test_mlp_shapes_and_initial_scale() -> None:
    net = mlp([400, 300, 200, 10], torch.Generator().manual_seed(0))
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    x = torch.randn(2000, 400, generator=torch.Generator().manual_seed(1))
    hidden = net[:4](x)
    assert hidden.square().mean().item() == pytest.approx(1, rel=0.25)  # He keeps the second moment
    again = mlp([400, 300, 200, 10], torch.Generator().manual_seed(0))
    assert torch.equal(net[2].weight, again[2].weight)


def test_batches_cover_every_row_in_one_shape() -> None:
    batches = ShuffledBatches(10, 4, Rng(0), RUNTIME)
    assert (batches.steps_per_epoch, batches.epochs(7)) == (3, 3)
    epoch = [batches(0, i) for i in range(3)]
    assert {len(b) for b in epoch} == {4}
    assert set(torch.cat(epoch).tolist()) == set(range(10))
    assert torch.equal(batches(2, 1), ShuffledBatches(10, 4, Rng(0), RUNTIME)(2, 1))  # whatever was asked before
    assert torch.equal(batches(0, 4), batches(1, 1))
    assert not torch.equal(batches(0, 0), batches(1, 0))
    assert len(ShuffledBatches(3, 1024, Rng(0), RUNTIME)(0, 0)) == 3
