"""Clicks and two de-biased collaborative towers, as DAS (arXiv 2508.10584) uses them, and its contrastive view.

``U`` users, ``N`` items, ``E`` clicks, ``d`` width, ``B`` batch. A user is interest ``c_u^int`` plus conformity
``c_u^con``, an item property ``c_i^pro`` plus popularity ``c_i^pop``; the second of each pair is to hold what popularity
explains, so that the first is free of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.blocks.losses.alignment import ABSENT, mean_over
from sidbench.tokenizers.blocks.training.mlp import linear, mlp


@dataclass(frozen=True)
class Clicks:
    """Training clicks on the device, in the order of the users' sequences.

    item, user: int64 ``[E]``. first, end: int64 ``[U]``, the clicks ``first[u]..end[u] - 1`` are user u's, oldest first.
    by_item: int64 ``[E]``, clicks grouped by item; the ``count[i]`` from ``start[i]`` on are item i's (int64 ``[N]``).
    item_bucket ``[N]``, user_bucket ``[U]``: int64, ``floor(log2(1 + x))`` of an item's clicks and of the mean over a
    user's clicks of their items' clicks.
    """

    item: Tensor
    user: Tensor
    first: Tensor
    end: Tensor
    by_item: Tensor
    start: Tensor
    count: Tensor
    item_bucket: Tensor
    user_bucket: Tensor

    def __len__(self) -> int:
        return len(self.item)

    @staticmethod
    def of(sequences: Sequences, n_items: int, runtime: Runtime) -> Clicks:
        """The clicks of training sequences over a catalogue of ``n_items``."""
        item = sequences.items.astype(np.int64)
        user = np.repeat(np.arange(sequences.n_users), sequences.lengths)
        count = np.bincount(item, minlength=n_items)
        mean_count = np.bincount(user, count[item], sequences.n_users) / np.maximum(sequences.lengths, 1)
        arrays = (
            item,
            user,
            sequences.indptr[:-1],
            sequences.indptr[1:],
            np.argsort(item, kind="stable"),
            np.cumsum(count) - count,
            count,
            np.log2(1 + count),
            np.log2(1 + mean_count),
        )
        return Clicks(*(runtime.tensor(a.astype(np.int64)) for a in arrays))

    def of_items(self, items: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """A click int64 ``[B]`` on each of ``items`` ``[B]``, chosen by ``draw`` in [0, 1); and bool ``[B]``: has any."""
        place = self.start[items] + _choose(draw, self.count[items])
        return self.by_item[place.clamp(max=len(self) - 1)], self.count[items] > 0

    def of_another_user(self, clicks: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """A click ``[B]`` on the same item as each of ``clicks`` ``[B]``; bool ``[B]``: it is another user's."""
        other = self.of_items(self.item[clicks], draw)[0]
        return other, self.user[other] != self.user[clicks]

    def near(self, clicks: Tensor, window: int, draw: Tensor) -> tuple[Tensor, Tensor]:
        """A click ``[B]`` at most ``window`` steps from each of ``clicks`` in its sequence; bool ``[B]``: another item's."""
        user = self.user[clicks]
        low = torch.maximum(self.first[user], clicks - window)
        high = torch.minimum(self.end[user] - 1, clicks + window)
        other = low + _choose(draw, high - low)
        other = torch.where(other >= clicks, other + 1, other)  # skip the click itself
        other = torch.where(high > low, other, clicks)
        return other, self.item[other] != self.item[clicks]


def _choose(draw: Tensor, n: Tensor) -> Tensor:
    """Index 0..n-1 of each row (0 where n is 0) from uniform draws in [0, 1)."""
    return torch.minimum((draw * n).long(), (n - 1).clamp(min=0))


class CollaborativeTowers(nn.Module):
    """Branch tables of users and items, their fusion, and heads that tell popularity buckets from the second branches."""

    def __init__(self, clicks: Clicks, width: int, temperature: float, generator: torch.Generator) -> None:
        super().__init__()
        self.temperature = temperature
        users, items = len(clicks.first), len(clicks.count)
        rows = {"interest": users, "conformity": users, "property": items, "popularity": items}
        self.tables = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn((n, width), generator=generator, device=generator.device) / math.sqrt(width))
                for name, n in rows.items()
            }
        )
        self.fuse_user = mlp((2 * width, 2 * width, width), generator)
        self.fuse_item = mlp((2 * width, 2 * width, width), generator)
        self.user_head = linear(width, int(clicks.user_bucket.max()) + 1, generator)
        self.item_head = linear(width, int(clicks.item_bucket.max()) + 1, generator)

    def branch(self, name: str, rows: Tensor) -> Tensor:
        """Vectors ``[B, d]`` of one branch, of users or items ``rows`` int64 ``[B]``."""
        return F.embedding(rows, self.tables[name])

    def losses(self, clicks: Clicks, chosen: Tensor) -> dict[str, Tensor]:
        """The parts of ``L_CF`` on the clicks ``chosen`` int64 ``[B]``.

        click: full vectors, with the items' frequency among the negatives corrected, so that they score ``p(i | u)``,
        popularity included. click_debiased: interest and property, uncorrected, so that they score
        ``p(i | u) / p(i)``. popularity: cross-entropy of the buckets from conformity and popularity. orthogonality: mean
        squared cosine between the branches of each side.
        """
        user, item = clicks.user[chosen], clicks.item[chosen]
        interest, conformity = self.branch("interest", user), self.branch("conformity", user)
        prop, popularity = self.branch("property", item), self.branch("popularity", item)
        full_user = self.fuse_user(torch.cat([interest, conformity], 1))
        full_item = self.fuse_item(torch.cat([prop, popularity], 1))
        log_frequency = torch.log(clicks.count[item] / len(clicks))
        return {
            "click": self.click_loss(full_user, full_item, item, log_frequency),
            "click_debiased": self.click_loss(interest, prop, item, torch.zeros_like(log_frequency)),
            "popularity": F.cross_entropy(self.user_head(conformity), clicks.user_bucket[user])
            + F.cross_entropy(self.item_head(popularity), clicks.item_bucket[item]),
            "orthogonality": F.cosine_similarity(interest, conformity).square().mean()
            + F.cosine_similarity(prop, popularity).square().mean(),
        }

    def click_loss(self, users: Tensor, vectors: Tensor, item: Tensor, log_frequency: Tensor) -> Tensor:
        """Softmax over the items of the batch; users, vectors ``[B, d]``, item int64 ``[B]``, log_frequency ``[B]``.

        Another click on the same item is no negative.
        """
        logits = F.normalize(users, dim=1) @ F.normalize(vectors, dim=1).t() / self.temperature - log_frequency
        same = (item[:, None] == item).fill_diagonal_(False)
        return F.cross_entropy(logits.masked_fill(same, ABSENT), torch.arange(len(item), device=item.device))


def view_loss(one: Tensor, two: Tensor, ids: tuple[Tensor, Tensor], present: Tensor, temperature: float) -> Tensor:
    """InfoNCE of the pairs (one_j, two_j), cosine similarity, mean of both directions and over pairs; scalar.

    one, two: ``[B, d]``. ids: who stands on each side, int64 ``[B]`` each; two pairs with anyone in common are not each
    other's negatives. present: bool ``[B]``; pairs that do not exist are neither anchors nor negatives.
    """
    similarity = F.normalize(one, dim=1) @ F.normalize(two, dim=1).t() / temperature
    excluded = ~(present[:, None] & present)
    for a in ids:
        for b in ids:
            excluded |= a[:, None] == b
    similarity = similarity.masked_fill(excluded.fill_diagonal_(False), ABSENT)
    target = torch.arange(len(one), device=one.device)
    directions = [F.cross_entropy(s, target, reduction="none") for s in (similarity, similarity.t())]
    return mean_over(torch.stack(directions).mean(0), present)
