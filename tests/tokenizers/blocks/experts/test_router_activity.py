"""Figures about routers and experts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.experts.router_activity import by_popularity, experts_in_use, quartiles, weight_curve


def test_weight_curve_for_the_record_holds_the_published_points() -> None:
    curve = weight_curve(10, 9)
    assert list(curve) == [f"w_at_{i / 10:.1f}" for i in range(11)]
    assert [curve[f"w_at_{x}"] for x in ("0.0", "0.5", "0.9", "1.0")] == pytest.approx([0.0002, 0.0246, 0.6839, 1], abs=6e-5)


def test_activity_by_popularity_and_use_of_experts_by_hand() -> None:
    counts = np.array([9, 1, 1, 5, 40, 7, 3, 100])
    assert quartiles(counts).tolist() == [3, 1, 1, 2, 4, 3, 2, 4]
    active = np.array([1, 0, 1, 2, 5, 2, 4, 4])
    assert by_popularity(active, counts, "x") == {"x_count_q1": 0.5, "x_count_q2": 3.0, "x_count_q3": 1.5, "x_count_q4": 4.5}
    codes = np.array([[0, 3, PAD], [0, 2, PAD], [1, PAD, PAD]])
    figures = experts_in_use(codes, 8, ("shared", "behaviour 1", "behaviour 2"))  # three items can use three codes
    assert figures == pytest.approx(
        {"code_use_shared": 2 / 3, "code_use_behaviour_1": 2 / 3, "code_use_behaviour_2": 0, "dead_expert_share": 1 / 3}
    )
