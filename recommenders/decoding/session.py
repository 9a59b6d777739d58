"""The contract between a left-to-right model of SIDs and the beam search that drives it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class DecodingSession(Protocol):
    """One batch of ``B`` users whose histories are encoded; holds what all hypotheses share, and their caches.

    What depends on the user alone (encoder keys and values) is computed once when the session is opened and shared by
    all hypotheses; keys and values of decoded positions are cached and follow ``parent``.
    """

    def step(self, parent: Tensor | None, classes: Tensor | None) -> Tensor:
        """``log P(c_p | c_<p, history)`` of the next position, float32 ``[B, W, classes_p]``.

        The first call is ``step(None, None)`` and gives position 0 with ``W = 1``. Later, hypothesis ``j`` of user
        ``b`` continues hypothesis ``parent[b, j]`` of the call before by class ``classes[b, j]`` of the position
        before (both int64 ``[B, W]``; the class of PAD is ``K_p``, see ``CodeLayout``); ``W`` may change from call to
        call. Normalised over everything the model could emit at this step, before any masking; a model whose
        vocabulary spans all positions therefore sums to less than one over ``classes_p``.
        """
