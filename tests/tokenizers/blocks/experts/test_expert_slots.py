"""What expert networks share: the codebook loss and its gradients by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sidbench.tokenizers.blocks.experts.expert_slots import codebook_loss


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
    assert float(loss.detach()) == pytest.approx(0.25 * float(((z - q) ** 2).sum(-1)[USED].mean()), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(z.grad, 0.25 * -2 / 3 * q * USED[..., None])
