"""Step budgets of all neural tokenizers, whose configs have the fields ``steps`` and ``warmup_steps``.

``quick`` gives every neural tokenizer about the same time on Beauty, 160 to 220 seconds of one core; a step costs more in
one than in another, so their steps and batches differ. ``standard`` and ``paper`` give all of them the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping

NEURAL_BUDGETS: Mapping[str, Mapping[str, int]] = {
    "smoke": {"steps": 60, "warmup_steps": 10},
    "quick": {"steps": 2000, "warmup_steps": 100},
    "standard": {"steps": 20000, "warmup_steps": 500},
    "paper": {"steps": 20000, "warmup_steps": 500},
}
