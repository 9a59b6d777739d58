"""Spans by brute force. That attention over them equals plain attention is in test_attention and test_causal."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.recommenders.blocks.spans import SPAN, copies_in_span, span_mask

CPU = torch.device("cpu")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 60))
def test_a_span_takes_the_largest_divisor_that_fits(batch, length):
    fitting = [c for c in range(1, batch + 1) if batch % c == 0 and (c * length <= SPAN or c == 1)]
    assert copies_in_span(batch, length) == max(fitting)


def test_each_position_sees_its_own_sequence_up_to_itself():
    for length, copies in ((1, 1), (1, 4), (3, 1), (3, 4), (5, 2)):
        seen = [[a // length == b // length and b <= a for b in range(length * copies)] for a in range(length * copies)]
        expected = np.where(np.array(seen), 0.0, -np.inf).astype(np.float32)
        assert np.array_equal(span_mask(length, copies, CPU).numpy(), expected)
