"""Auxiliary losses of two-stream models: contrast of a summary with item vectors, and transfer between the streams.

Source: EAGER, arXiv 2406.14017: the global contrastive task and the semantic-guided transfer task. Both are used in
training alone; nothing here is needed to rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.recommenders.blocks.exact import softmax_loss
from sidbench.recommenders.blocks.transformer import Dropout


def sampled_contrast(anchors: Tensor, vectors: Tensor, targets: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE ``-log exp(cos(a, v_t) / tau) / (exp(cos(a, v_t) / tau) + sum_n exp(cos(a, v_n) / tau))``, mean over rows.

    anchors ``[P, D]``, vectors ``[N, D]`` of all items, targets int64 ``[P]``, negatives int64 ``[S]`` shared by all
    rows; a negative that is the target of a row does not count in it.
    """
    anchors = F.normalize(anchors.float(), dim=-1)
    positive = (anchors * F.normalize(vectors[targets], dim=-1)).sum(-1, keepdim=True)
    negative = anchors @ F.normalize(vectors[negatives], dim=-1).T
    negative = negative.masked_fill(negatives == targets[:, None], -torch.inf)
    return (torch.logsumexp(torch.cat([positive, negative], 1) / temperature, 1) - positive[:, 0] / temperature).mean()


class Puzzles(NamedTuple):
    """What the transfer task asks about ``P`` targets, drawn with the batch.

    hidden: bool ``[P, S]`` codes to reconstruct, at least one each. offered: int64 ``[P, S]`` classes that may or may
    not belong to the target.
    """

    hidden: Tensor
    offered: Tensor


class GuidedTransfer(nn.Module):
    """A small bidirectional transformer over the guiding stream's summary and the codes of the guided stream.

    Reconstruction: codes hidden from it are predicted from the summary and the others. Recognition: it tells whether
    offered codes belong to the summary's item.
    """

    def __init__(self, width: int, heads: int, slots: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.slots = nn.Parameter(torch.zeros(slots, width))
        self.blank = nn.Parameter(torch.zeros(width))
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.packed, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.final_norm = nn.LayerNorm(width)
        self.verdict = nn.Linear(width, 1)
        self.dropout = Dropout(dropout)

    def forward(self, summary: Tensor, codes: Tensor) -> Tensor:
        """``summary [M, width]``, ``codes [M, S, width]`` -> ``[M, 1 + S, width]``, every token sees every token."""
        x = torch.cat([summary[:, None], codes + self.slots], 1)
        rows, length, width = x.shape
        q, k, v = self.packed(self.attention_norm(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width)
        x = self.dropout.added_to(x, self.output(mixed))
        made: Tensor = self.final_norm(self.dropout.added_to(x, self.feed_forward(self.forward_norm(x))))
        return made

    def losses(
        self, summary: Tensor, classes: Tensor, puzzles: Puzzles, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of hidden codes, mean over slots, and binary cross-entropy of recognition.

        summary ``[P, width]``, classes int64 ``[P, S]`` of the targets; inputs, outputs: per slot ``[classes, width]``.
        """
        slots = range(classes.shape[1])
        own = torch.stack([inputs[s][classes[:, s]] for s in slots], 1)
        offered = torch.stack([inputs[s][puzzles.offered[:, s]] for s in slots], 1)
        masked = torch.where(puzzles.hidden[:, :, None], self.blank, own)
        restored, judged = self(torch.cat([summary, summary]), torch.cat([masked, offered])).chunk(2)
        asked = [
            (restored[hidden, 1 + s], classes[hidden, s], s)
            for s in slots
            if (hidden := puzzles.hidden[:, s].nonzero()[:, 0]).numel()
        ]
        total = torch.stack([softmax_loss(h, outputs[s], t) * len(t) for h, t, s in asked]).sum()
        same = (puzzles.offered == classes).all(1).to(judged.dtype)
        verdict = F.binary_cross_entropy_with_logits(self.verdict(judged[:, 0])[:, 0].float(), same.float())
        return total / puzzles.hidden.sum(), verdict
