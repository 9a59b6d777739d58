"""How ADA-SID keeps its router sparse, and what its router and controller did.

MMQ-v2 (arXiv 2510.25622), eqs. 19-23, in the reading of ReMoE (arXiv 2412.14711), whose router has the same form.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from sidbench.datasets.foundation.runtime import to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.experts.adaptive_experts import AdaptiveExperts
from sidbench.tokenizers.blocks.experts.expert_slots import Batch
from sidbench.tokenizers.blocks.experts.router_activity import quartiles

STRENGTH_RANGE = (1e-8, 1e2)  # of lambda in eq. 20
NEGLIGIBLE_WEIGHT = 0.01  # items that eq. 14 "filters" in the paper's sensitivity study (A16)


class SparsityController:
    """The adaptive sparsity regulariser of the router, eqs. 19-23, in the reading of ReMoE (arXiv 2412.14711).

    Parameters
    ----------
    richness: of the fit items, float ``[n]`` (eq. 13).
    sparsity: ``s_bar``, target share of behaviour slots that are off.
    n_behaviour: ``N_b``. n_groups: quantile groups of richness, each with its own lambda and target (A21).
    theta: rule for the factor of eq. 22, see ``sparsity_targets``.
    base, start: base of the power in eq. 20 and the first lambda.

    ``strength`` is lambda, float ``[G]``; ``group`` int64 ``[n]`` the group of each fit item; ``target`` float ``[G]``.
    """

    def __init__(
        self, richness: Tensor, sparsity: float, n_behaviour: int, *, n_groups: int, theta: str, base: float, start: float
    ) -> None:
        values = richness.double().cpu().numpy()
        edges = np.quantile(values, np.arange(1, n_groups) / n_groups)
        group = np.searchsorted(edges, values, side="right")
        members = np.maximum(np.bincount(group, minlength=n_groups), 1)
        target = np.bincount(group, sparsity_targets(values, sparsity, n_behaviour, theta), n_groups) / members
        self.sparsity, self.base = sparsity, base
        self.group = torch.as_tensor(group, device=richness.device)
        self.target = torch.as_tensor(target, dtype=torch.float32, device=richness.device)
        self.strength = torch.full_like(self.target, start)
        self._measured = self.target

    def loss(self, router: Tensor, group: Tensor, present: Tensor) -> Tensor:
        """``lambda (1/B) sum_t sum_j f_j r_tj``, eq. 19; router r ``[B, N_b]``, group int64, present bool ``[B]``."""
        active = (router > 0).float() * present[:, None]
        n = present.sum().clamp(min=1)
        f = active.sum(0) / ((1 - self.sparsity) * n)  # (23), per expert (A24)
        members = torch.zeros_like(self.target).index_add_(0, group, present.float())
        off = torch.zeros_like(self.target).index_add_(0, group, (1 - active.mean(1)) * present)  # (21)
        self._measured = torch.where(members > 0, off / members.clamp(min=1), self.target)
        return (self.strength[group] * (router * f).sum(1) * present).sum() / n

    def update(self) -> None:
        """After each step: ``lambda <- lambda base^sign(s_target - s_current)``, eq. 20; too dense raises it."""
        self.strength = (self.strength * self.base ** torch.sign(self.target - self._measured)).clamp(*STRENGTH_RANGE)


def sparsity_targets(richness: np.ndarray, sparsity: float, n_behaviour: int, theta: str) -> np.ndarray:
    """Target sparsity of each item, ``theta (1 - N_norm)`` clipped to at least one active slot, eq. 22 with A22.

    theta "matched": the mean of the clipped targets is ``sparsity`` (A23); "quoted": theta is ``sparsity`` itself.
    """
    tail, most = 1 - richness, max(1 - 1 / n_behaviour, sparsity)
    if theta == "quoted":
        return np.clip(sparsity * tail, 0, most)
    if np.mean(tail > 0) * most < sparsity:
        return np.full_like(tail, sparsity)  # too many items of full richness: no theta reaches the mean
    low, high = 0.0, most / max(float(tail[tail > 0].min(initial=1.0)), 1e-9)
    for _ in range(60):  # the clipped mean rises with theta
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * tail, 0, most).mean() < sparsity else (low, middle)
    return np.clip(high * tail, 0, most)


def router_figures(
    net: AdaptiveExperts,
    items: Batch,
    weight: Tensor,
    counts: np.ndarray,
    rng: Rng,
) -> dict[str, float]:
    """What the paper claims about router and controller, measured on ``n`` items.

    weight: w of eq. 14 ``[n]``. counts: training interactions int64 ``[n]``. Quartiles are of richness, q1 the poorest.
    ``shared_codes_moved_by_noise``: share of the shared codes of q1 items that change when their behaviour embedding is
    replaced by that of a random item (A38). ``spearman_active_count`` is left out where it is undefined.
    """
    codes, gates, _ = net.quantise_all(items)
    w, richness = to_numpy(weight), to_numpy(items.richness)
    on = to_numpy(gates[:, net.layout.span("behaviour")] > 0)  # [n, N_b]
    active = on.sum(axis=1)
    figures = {
        "mean_active": float((gates > 0).sum(1).float().mean()),
        "mean_active_behaviour": float(active.mean()),
        "dead_router_share": float((~on.any(axis=0)).mean()),
        "always_on_router_share": float(on.all(axis=0).mean()),
        "negligible_weight_share": float((w < NEGLIGIBLE_WEIGHT).mean()),
    }
    quartile = quartiles(richness)
    for q in np.unique(quartile):
        figures[f"mean_active_behaviour_q{q}"] = float(active[quartile == q].mean())
        figures[f"mean_weight_q{q}"] = float(w[quartile == q].mean())
    if active.std() > 0 and counts.std() > 0:
        figures["spearman_active_count"] = float(np.corrcoef(rankdata(active), rankdata(counts))[0, 1])
    if net.layout.slots["shared"]:
        poor = torch.as_tensor(np.flatnonzero(quartile == 1), device=gates.device)
        other = torch.as_tensor(rng.numpy().integers(len(items), size=len(poor)), device=gates.device)
        tail, shared = items.take(poor), net.layout.span("shared")
        swapped = {**tail.embeddings, "behaviour": items.embeddings["behaviour"][other]}
        noisy = Batch(swapped, tail.available, tail.richness)
        moved = net.quantise_all(noisy)[0][:, shared] != codes[poor][:, shared]
        figures["shared_codes_moved_by_noise"] = float(moved.float().mean())
    return figures
