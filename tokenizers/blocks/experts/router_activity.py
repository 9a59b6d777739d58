"""What experts did, for the record: activity by popularity, the curve of eq. 14, experts and codes in use."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from sidbench.datasets.foundation.runtime import to_numpy
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.experts.adaptive_experts import AdaptiveExperts
from sidbench.tokenizers.blocks.experts.expert_slots import Batch
from sidbench.tokenizers.blocks.losses.alignment import alignment_weight


def quartiles(values: np.ndarray) -> np.ndarray:
    """Quartile 1..4 of each of ``[n]`` values, 1 the smallest; ties by order, so that all are equally large."""
    order: np.ndarray = rankdata(values, "ordinal").astype(np.int64) - 1
    return order * 4 // len(values) + 1


def by_popularity(values: np.ndarray, counts: np.ndarray, name: str) -> dict[str, float]:
    """Mean of ``values`` ``[n]`` in each quartile of training counts int64 ``[n]``: ``<name>_count_q1`` the rarest."""
    quartile = quartiles(counts)
    return {f"{name}_count_q{q}": float(values[quartile == q].mean()) for q in np.unique(quartile)}


def weight_curve(alpha: float, beta: float) -> dict[str, float]:
    """w of eq. 14 (MMQ-v2, arXiv 2510.25622) at richness 0, .1, .., 1: ``w_at_0.0`` .. ``w_at_1.0``."""
    richness = np.arange(11) / 10
    weights = alignment_weight(torch.as_tensor(richness, device="cpu"), alpha, beta).tolist()
    return {f"w_at_{at:.1f}": w for at, w in zip(richness, weights, strict=True)}


def experts_in_use(codes: np.ndarray, size: int, names: tuple[str, ...]) -> dict[str, float]:
    """Share of its codes that each expert uses, and of the experts that no item uses.

    codes: int ``[n, S]`` with PAD. size: codes of an expert, of which ``n`` items can use ``n`` at most. names: of the
    experts, in ``code_use_<name>``.
    """
    used = [np.unique(column[column != PAD]).size for column in codes.T]
    shares = {f"code_use_{name.replace(' ', '_')}": n / min(size, len(codes)) for name, n in zip(names, used, strict=True)}
    return {**shares, "dead_expert_share": float(np.mean([n == 0 for n in used]))}


def expert_figures(net: AdaptiveExperts, items: Batch, weight: Tensor, counts: np.ndarray) -> dict[str, float]:
    """Activity and alignment weight by popularity, and experts in use, of ``n`` items of ADA-SID.

    weight: w of eq. 14 ``[n]``. counts: training interactions int64 ``[n]``; ``router_figures`` has the quartiles of
    richness, which need not rank as counts do.
    """
    codes, gates, _ = net.quantise_all(items)
    on = to_numpy(gates > 0)
    active = on[:, net.layout.span("behaviour")].sum(1)
    return {
        **by_popularity(active, counts, "mean_active_behaviour"),
        **by_popularity(to_numpy(weight), counts, "mean_weight"),
        **experts_in_use(np.where(on, to_numpy(codes), PAD), net.layout.codebook_size, net.layout.names()),
    }
