"""Step budgets of all neural tokenizers, whose configs have the fields ``steps`` and ``warmup_steps``."""

from __future__ import annotations

from collections.abc import Mapping

NEURAL_BUDGETS: Mapping[str, Mapping[str, int]] = {
    "smoke": {"steps": 60, "warmup_steps": 10},
    "quick": {"steps": 2000, "warmup_steps": 100},
    "standard": {"steps": 20000, "warmup_steps": 500},
    "paper": {"steps": 20000, "warmup_steps": 500},
}
