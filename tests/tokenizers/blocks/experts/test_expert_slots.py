"""What expert networks share: codes, soft indices and the codebook loss, with their gradients, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sidbench.tokenizers.blocks.experts.expert_quantiser import ExpertQuantiser
from sidbench.tokenizers.blocks.experts.expert_slots import Layout, codebook_loss


def unit(seed: int) -> torch.Tensor:
    """Rows of length 1 ``[2 slots, 3 items, 4]``."""
    return F.normalize(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)), dim=-1)


USED = torch.tensor([[True, True, False], [True, False, False]])


def test_codebook_loss_by_hand_sends_each_gradient_to_one_side() -> None:
    z, q = unit(0).requires_grad_(), unit(1).requires_grad_()
    loss = codebook_loss(z, q, USED, 0.25)
    squared = ((z - q) ** 2).sum(-1)[USED].detach()
    assert float(loss.detach()) == pytest.approx(1.25 * float(squared.mean()), rel=1e-5)
    loss.backward()
    # ||z - q||^2 = 2 - 2 <z, q> on the sphere; three entries are in use.
    torch.testing.assert_close(q.grad, -2 / 3 * z.detach() * USED[..., None])
    torch.testing.assert_close(z.grad, 0.25 * -2 / 3 * q.detach() * USED[..., None])


def test_codebooks_without_gradient_leave_the_commitment_only() -> None:
    z, q = unit(0).requires_grad_(), unit(1)
    loss = codebook_loss(z, q, USED, 0.25)
    assert float(loss.detach()) == pytest.approx(0.25 * float(((z - q) ** 2).sum(-1)[USED].mean().detach()), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(z.grad, 0.25 * -2 / 3 * q * USED[..., None])


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_soft_indices_have_the_gradient_of_a_softmax_over_cosines(temperature: float) -> None:
    layout = Layout({"text": 3, "vision": 2}, {"shared": 1, "text": 1, "vision": 0}, 4, 4, 5)
    net = ExpertQuantiser(layout, temperature, torch.Generator().manual_seed(0))
    z, weights = unit(0).requires_grad_(), unit(2)
    codes, value = net.quantise(z, soft=True)
    cosine = z @ net.directions().detach().transpose(1, 2)
    assert torch.equal(codes, cosine.argmax(-1))
    (value * weights).sum().backward()
    by_hand = (torch.softmax(cosine / temperature, -1) @ net.directions().detach() * weights).sum()
    torch.testing.assert_close(z.grad, torch.autograd.grad(by_hand, z)[0])
